"""The format of an image, told by its magic numbers, and the filesystem in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from ..errors import VerificationError
from ..model import LUKS, FileEntry
from . import tar
from .entry import Entry
from .ext4 import Ext4
from .magic import EXT4, SPARSE, TAR, format_by_magic
from .sparse import SparseReader
from .stream import CorruptImage, Readable

_BUILD_AGAIN = "do not flash it; build it again, and look at the build's log"
_KNOWN = (
    "give a raw ext4, Android sparse or tar image; of a disk image with partitions, the image of"
    " its APP partition"
)


class Filesystem(Protocol):
    """Something that holds a device's files."""

    def read_file(self, path: str, limit: int) -> FileEntry | None:
        """Return the regular file at ``path``; None: it is not there."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Yield everything in the tree; of several entries for one path, the last one counts."""
        ...


def image_format(stream: Readable) -> str:
    """Return the format in ``stream``, by its magic number: ``sparse ext4 tar luks``.

    Raises:
        CorruptImage: it is none of these, or more than one at once.
    """
    found = format_by_magic(stream)
    if found is None:
        _refuse_unknown(stream)
    if found == EXT4:
        Ext4(stream)
    return found or EXT4


def _refuse_unknown(stream: Readable) -> None:
    try:
        Ext4(stream)
    except CorruptImage as error:
        raise CorruptImage(
            f"it is not an ext4, Android sparse or tar image: {error}", hint=_KNOWN
        ) from None


def open_filesystem(stream: Readable) -> Filesystem:
    """Return the filesystem in ``stream``, whatever container it is in.

    Raises:
        CorruptImage: the headers are not those of a supported image.
    """
    found = image_format(stream)
    if found == LUKS:
        raise CorruptImage("it is encrypted (LUKS) and cannot be read back")
    if found == TAR:
        return tar.Tar(stream)
    return Ext4(raw_of_sparse(stream) if found == SPARSE else stream)


def raw_of_sparse(stream: Readable) -> SparseReader:
    """Return the raw image in a sparse one; like any other it must be one format only.

    Raises:
        CorruptImage: it is not ext4, or more than that.
    """
    raw = SparseReader(stream)
    found = format_by_magic(raw)
    if found not in (EXT4, None):
        raise CorruptImage(f"it is an Android sparse image of a {found} image, not of an ext4 one")
    return raw


@contextlib.contextmanager
def opened(image: Path) -> Iterator[Filesystem]:
    """Open the filesystem in the image at ``image``.

    Raises:
        VerificationError: the image cannot be opened or its contents are damaged.
    """
    with opened_file(image) as stream:
        yield open_filesystem(stream)


def superblock(image: Path) -> bytes | None:
    """Return the ext4 superblock in a raw or sparse image; None: it holds none.

    Two images of one filesystem have the same: its UUID and the time of its last write are in it.
    """
    with opened(image) as filesystem:
        return filesystem.superblock if isinstance(filesystem, Ext4) else None


def read_file(image: Path, path: str, limit: int) -> FileEntry | None:
    """Read one file out of the image at ``image``.

    Raises:
        VerificationError: the image cannot be opened or its contents are damaged.
    """
    with opened(image) as filesystem:
        return filesystem.read_file(path, limit)


def format_of(image: Path) -> str:
    """Return the format of the image at ``image``.

    Raises:
        VerificationError: the image cannot be opened or is of none that is known.
    """
    with opened_file(image) as stream:
        return image_format(stream)


@contextlib.contextmanager
def opened_file(image: Path) -> Iterator[BinaryIO]:
    """Open the image at ``image`` as a stream of its bytes.

    Raises:
        VerificationError: it cannot be opened, or what is read from it turns out to be damaged.
    """
    try:
        with image.open("rb") as stream:
            yield stream
    except CorruptImage as error:
        raise VerificationError(
            f"{image} is not a usable filesystem image: {error}",
            hint=error.hint or _BUILD_AGAIN,
        ) from None
    except OSError as error:
        raise VerificationError(
            f"cannot read the image {image}: {error.strerror or error}",
            hint="check the path and its permissions",
        ) from None
