"""The format of an image, by its magic numbers, and the filesystem in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from ..errors import VerificationError
from ..model import LUKS, FileEntry
from ..system.files import opened_image
from . import tar
from .entry import Entry
from .ext4 import Ext4
from .magic import EXT4, SPARSE, TAR, ZSTD, format_by_magic
from .scratch import Scratch, copy_of
from .sparse import SparseReader
from .stream import CorruptImage, Readable
from .zstd import LARGEST, Unpacked
from .zstd_tar import ZstdTar

_BUILD_AGAIN = "do not flash it; build it again, and look at the build's log"
_PACKED = "pack a tar archive or a raw ext4 image, as NVIDIA's scripts do"
_SUFFIX = "zst"
TAR_ZST, EXT4_ZST = "tar.zst", "ext4.zst"
"""Packed by zstd: an archive (R36.4 and newer) or, with ``--sparse``, a raw image."""

_KNOWN = (
    "give a raw ext4, Android sparse or tar image, packed by zstd or not; of a disk image with"
    " partitions, the image of its APP partition"
)


class Filesystem(Protocol):
    """Something that holds a device's files."""

    def read_file(self, path: str, limit: int) -> FileEntry | None:
        """Return the regular file at ``path``; None: it is not there."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Yield every entry of the tree; of several for one path, the last one counts."""
        ...


def image_format(stream: Readable) -> str:
    """Return the format: ``sparse ext4 tar luks tar.zst ext4.zst``, by its magic number.

    Raises:
        CorruptImage: it has another format, or more than one.
    """
    found = format_by_magic(stream)
    if found is None:
        _refuse_unknown(stream)
    if found == EXT4:
        Ext4(stream)
    return _packed_format(stream) if found == ZSTD else found or EXT4


def _packed_format(stream: Readable) -> str:
    """Return the format of what zstd packed; the device unpacks only once."""
    found = format_by_magic(Unpacked(stream))
    if found not in (TAR, EXT4, LUKS):
        what = "nothing that is known" if found is None else f"a {found} image"
        raise CorruptImage(f"it is packed by zstd, and in it is {what}", hint=_PACKED)
    return found if found == LUKS else f"{found}.{_SUFFIX}"


def _refuse_unknown(stream: Readable) -> None:
    try:
        Ext4(stream)
    except CorruptImage as error:
        raise CorruptImage(
            f"it is not an ext4, Android sparse, tar or zstd image: {error}", hint=_KNOWN
        ) from None


def open_filesystem(stream: Readable, largest: int = LARGEST) -> Filesystem:
    """Return the filesystem in ``stream``, whatever container it is in.

    A packed raw image is unpacked into a nameless file beside it; a packed archive is streamed.

    Args:
        stream: the image.
        largest: bytes to which a packed one may unpack.

    Raises:
        CorruptImage: the headers are not those of a supported image.
    """
    found = image_format(stream)
    if found == LUKS:
        raise CorruptImage("it is encrypted (LUKS) and cannot be read back")
    if found == TAR:
        return tar.Tar(stream)
    if found == TAR_ZST:
        return ZstdTar(stream, largest)
    if found == EXT4_ZST:
        return Ext4(unpacked_raw(stream, largest))
    return Ext4(raw_of_sparse(stream) if found == SPARSE else stream)


def unpacked_raw(stream: Readable, largest: int = LARGEST) -> Scratch:
    """Return the raw image that zstd packed.

    Raises:
        CorruptImage: it is damaged, or unpacks to more than ``largest`` bytes.
        VerificationError: there is no room for it.
    """
    name = getattr(stream, "name", None)
    folder = Path(name).parent if isinstance(name, str) else None
    return copy_of(Unpacked(stream, largest), folder)


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
def opened(image: Path, largest: int = LARGEST) -> Iterator[Filesystem]:
    """Open the filesystem in the image at ``image``, as :func:`open_filesystem` does.

    Raises:
        VerificationError: the image cannot be opened or its contents are damaged.
    """
    with opened_file(image) as stream:
        yield open_filesystem(stream, largest)


def superblock(image: Path) -> bytes | None:
    """Return the ext4 superblock in a raw or sparse image; None: it holds none.

    Images of one filesystem have the same: it holds the UUID and the time of the last write.
    """
    with opened(image) as filesystem:
        return filesystem.superblock if isinstance(filesystem, Ext4) else None


def read_file(image: Path, path: str, limit: int, largest: int = LARGEST) -> FileEntry | None:
    """Read one file out of the image at ``image``, as :func:`open_filesystem` opens it.

    Raises:
        VerificationError: the image cannot be opened or its contents are damaged.
    """
    with opened(image, largest) as filesystem:
        return filesystem.read_file(path, limit)


def format_of(image: Path) -> str:
    """Return the format of the image at ``image``.

    Raises:
        VerificationError: the image cannot be opened, or its format is unknown.
    """
    with opened_file(image) as stream:
        return image_format(stream)


@contextlib.contextmanager
def opened_file(image: Path) -> Iterator[BinaryIO]:
    """Open the image at ``image`` as a stream of its bytes.

    Raises:
        VerificationError: it cannot be opened, or is damaged where it is read.
    """
    try:
        with opened_image(image) as stream:
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
