"""The raw image in a sparse or packed one: compared with another, or unpacked for a check."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import VerificationError
from ..system.holes import next_data
from .formats import EXT4_ZST, image_format, opened_file, raw_of_sparse, unpacked_raw
from .scratch import Scratch, write_all
from .sparse import SparseReader
from .zstd import LARGEST

_AT_ONCE = 1 << 20
_COMPARED_AT_ONCE = 1 << 17  # larger pieces take new memory for each
_NEVER = 1 << 63


def first_difference(sparse: Path, raw: Path) -> int | None:
    """Return the first byte at which a sparse image and a raw one differ; None: they do not.

    What the sparse image does not contain, and what is beyond an end, counts as zeros.

    Raises:
        VerificationError: one cannot be read, or is damaged.
    """
    with opened_file(sparse) as stream, opened_file(raw) as other:
        expanded = raw_of_sparse(stream)
        end = max(expanded.size, other.seek(0, os.SEEK_END))
        ours, theirs = bytearray(_COMPARED_AT_ONCE), bytearray(_COMPARED_AT_ONCE)
        position = 0
        while position < end:
            position = min(expanded.next_data(position), _next_data(other, position), end)
            _fill(ours, expanded, position)
            _fill(theirs, cast(io.RawIOBase, other), position)
            if ours != theirs:
                return position + _differing(ours, theirs)
            position += _COMPARED_AT_ONCE
    return None


def _fill(buffer: bytearray, stream: io.RawIOBase, position: int) -> None:
    """Read into a buffer that is used again: new ones cost more than reading."""
    stream.seek(position)
    found = stream.readinto(buffer) or 0
    buffer[found:] = bytes(len(buffer) - found)


@contextlib.contextmanager
def expanded(image: Path, largest: int = LARGEST) -> Iterator[Path]:
    """Unpack a sparse or zstd image; yield the path of the raw image, which has no name.

    Raises:
        VerificationError: the image is damaged, or there is no room.
    """
    with opened_file(image) as stream:
        packed = image_format(stream) == EXT4_ZST
        try:
            raw = unpacked_raw(stream, largest) if packed else _expanded(stream, image.parent)
        except OSError as error:
            raise VerificationError(
                f"cannot expand {image} to check it: {error.strerror}",
                hint="make room beside it, or check the raw image that it was made from",
            ) from None
        yield raw.path


def _expanded(stream: BinaryIO, folder: Path) -> Scratch:
    raw, file = raw_of_sparse(stream), Scratch(folder)
    file.truncate(raw.size)
    position = raw.next_data(0)
    while position < raw.size:
        block = _read(raw, position)
        file.seek(position)
        write_all(file, block.rstrip(b"\0"))  # the rest stays a hole
        position = raw.next_data(position + len(block))
    return file


def _read(stream: SparseReader | BinaryIO, position: int) -> bytes:
    stream.seek(position)
    return stream.read(_AT_ONCE) or b""


def _next_data(stream: BinaryIO, position: int) -> int:
    found = next_data(stream.fileno(), position)
    return _NEVER if found is None else found


def _differing(one: bytearray, other: bytearray) -> int:
    pairs = zip(one, other, strict=True)
    return next(index for index, (left, right) in enumerate(pairs) if left != right)
