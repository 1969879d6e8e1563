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
from .sparse import SparseReader, is_sparse
from .stream import CorruptImage, Readable

_LUKS_MAGIC = b"LUKS\xba\xbe"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz"}


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
        CorruptImage: it is none of these.
    """
    if is_sparse(stream):
        return "sparse"
    stream.seek(0)
    head = stream.read(512) or b""
    if head.startswith(_LUKS_MAGIC):
        return LUKS
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise CorruptImage(f"it is compressed ({name}); unpack it first")
    if head[tar.MAGIC_OFFSET :].startswith(tar.MAGIC):
        return "tar"
    Ext4(stream)
    return "ext4"


def open_filesystem(stream: Readable) -> Filesystem:
    """Return the filesystem in ``stream``, whatever container it is in.

    Raises:
        CorruptImage: the headers are not those of a supported image.
    """
    found = image_format(stream)
    if found == LUKS:
        raise CorruptImage("it is encrypted (LUKS) and cannot be read back")
    if found == "tar":
        return tar.Tar(stream)
    return Ext4(SparseReader(stream) if found == "sparse" else stream)


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
            hint="do not flash it; build it again, and look at the build's log",
        ) from None
    except OSError as error:
        raise VerificationError(
            f"cannot read the image {image}: {error.strerror or error}",
            hint="check the path and its permissions",
        ) from None
