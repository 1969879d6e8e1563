"""Reading an image with the index beside it (:mod:`.tar_index`), which saves walking an archive."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from ..model import DEVICE_CONF, FileEntry
from .formats import TAR_ZST, Filesystem, image_format, open_filesystem, opened_file
from .locate import Location, in_tar, locate
from .tar_index import IndexedTar
from .zstd_index import IndexedZstd


@contextlib.contextmanager
def opened(image: Path) -> Iterator[Filesystem]:
    """Open the filesystem in an image, as :func:`images.opened`, but walk a tar only once.

    Raises:
        VerificationError: the image cannot be opened or its contents are damaged.
    """
    with opened_file(image) as stream:
        found = image_format(stream)
        if found == "tar":
            yield IndexedTar(image, stream.fileno())
        elif found == TAR_ZST:
            yield IndexedZstd(image, stream.fileno())
        else:
            yield open_filesystem(stream)


def read_file(image: Path, path: str, limit: int) -> FileEntry | None:
    """Read one file out of an image, as :func:`images.read_file`, but walk a tar only once.

    Raises:
        VerificationError: the image cannot be opened or its contents are damaged.
    """
    with opened(image) as filesystem:
        return filesystem.read_file(path, limit)


def locate_conf(image: Path, descriptor: int) -> Location | None:
    """Find device.conf in an image that is open as ``descriptor``, as :func:`.locate.locate`.

    Raises:
        CorruptImage: it is not a regular file, is not stored whole, or the image is damaged.
    """
    with io.FileIO(descriptor, "r", closefd=False) as stream:
        found = image_format(stream)
        if found == "tar":
            return in_tar(IndexedTar(image, descriptor), DEVICE_CONF)
        if found == TAR_ZST:
            return IndexedZstd(image, descriptor).slot()
        return locate(stream, DEVICE_CONF)
