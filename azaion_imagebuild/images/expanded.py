"""The raw image in an Android sparse one: compared with another, or written out to be checked."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import VerificationError
from ..system.holes import next_data
from .formats import opened_file, raw_of_sparse
from .sparse import SparseReader

_AT_ONCE = 1 << 20
_NEVER = 1 << 63


def first_difference(sparse: Path, raw: Path) -> int | None:
    """Return the first byte at which a sparse image and a raw one differ; None: they do not.

    What the sparse image does not carry counts as zeros, and so does what is beyond an end.

    Raises:
        VerificationError: one cannot be read, or is damaged.
    """
    with opened_file(sparse) as stream, opened_file(raw) as other:
        expanded = raw_of_sparse(stream)
        end = max(expanded.size, other.seek(0, os.SEEK_END))
        position = 0
        while position < end:
            position = min(expanded.next_data(position), _next_data(other, position), end)
            ours, theirs = _read(expanded, position), _read(other, position)
            if ours != theirs:
                return position + _differing(ours, theirs)
            position += _AT_ONCE
    return None


@contextlib.contextmanager
def expanded(sparse: Path) -> Iterator[Path]:
    """Yield the path of a nameless raw image that is in a sparse one; a kill leaves nothing of it.

    Raises:
        VerificationError: the image is damaged, or there is no room.
    """
    with opened_file(sparse) as stream:
        raw = raw_of_sparse(stream)
        try:
            with _nameless(sparse.parent) as file:
                _expand(raw, file)
                yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        except OSError as error:
            raise VerificationError(
                f"cannot expand {sparse} to check it: {error.strerror}",
                hint="make room beside it, or check the raw image that it was made from",
            ) from None


def _nameless(folder: Path) -> BinaryIO:
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError:
        return tempfile.TemporaryFile()


def _expand(raw: SparseReader, file: BinaryIO) -> None:
    file.truncate(raw.size)
    position = raw.next_data(0)
    while position < raw.size:
        block = _read(raw, position)
        file.seek(position)
        file.write(block.rstrip(b"\0"))  # the rest stays a hole
        position = raw.next_data(position + len(block))
    file.flush()


def _read(stream: SparseReader | BinaryIO, position: int) -> bytes:
    stream.seek(position)
    return stream.read(_AT_ONCE) or b""


def _next_data(stream: BinaryIO, position: int) -> int:
    found = next_data(stream.fileno(), position)
    return _NEVER if found is None else found


def _differing(one: bytes, other: bytes) -> int:
    length = max(len(one), len(other))
    pairs = zip(one.ljust(length, b"\0"), other.ljust(length, b"\0"), strict=True)
    return next(index for index, (left, right) in enumerate(pairs) if left != right)
