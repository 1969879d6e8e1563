"""Filesystem images: telling their format by magic and reading single files out of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from ..errors import VerificationError
from ..model import FileEntry
from .ext4 import Ext4
from .sparse import SparseReader, is_sparse
from .stream import CorruptImage, Readable

__all__ = [
    "CorruptImage",
    "Filesystem",
    "format_of",
    "image_format",
    "open_filesystem",
    "read_file",
]


class Filesystem(Protocol):
    """Something that holds a device's files."""

    def read_file(self, path: str, limit: int) -> FileEntry | None:
        """Return the regular file at ``path``, links followed inside; None: it is not there."""
        ...


def image_format(stream: Readable) -> str:
    """Return the format of the filesystem in ``stream``, by its magic number: sparse or ext4.

    Raises:
        CorruptImage: it is neither.
    """
    if is_sparse(stream):
        return "sparse"
    Ext4(stream)
    return "ext4"


def open_filesystem(stream: Readable) -> Filesystem:
    """Return the filesystem in ``stream``, whatever container it is in.

    Raises:
        CorruptImage: the headers are not those of a supported image.
    """
    return Ext4(SparseReader(stream) if is_sparse(stream) else stream)


def read_file(image: Path, path: str, limit: int) -> FileEntry | None:
    """Read one file out of the image at ``image``.

    Raises:
        VerificationError: the image cannot be opened or its contents are damaged.
    """
    with _opened(image) as stream:
        return open_filesystem(stream).read_file(path, limit)


def format_of(image: Path) -> str:
    """Return the format of the image at ``image``.

    Raises:
        VerificationError: the image cannot be opened or is of none that is known.
    """
    with _opened(image) as stream:
        return image_format(stream)


@contextlib.contextmanager
def _opened(image: Path) -> Iterator[BinaryIO]:
    try:
        with image.open("rb") as stream:
            yield stream
    except CorruptImage as error:
        raise VerificationError(
            f"{image} is not a usable filesystem image: {error}",
            hint="do not flash it; build it again, and look at the build's log",
        ) from None
    except OSError as error:
        raise VerificationError(
            f"cannot read the image {image}: {error.strerror or error}",
            hint="check the path and its permissions",
        ) from None
