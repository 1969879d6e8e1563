"""Copying an image: with shared blocks if the filesystem can; holes stay holes."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

from ..errors import ImageBuildError, UsageError
from ..system.files import opened_image
from ..system.holes import data_ranges

_FICLONE = 0x40049409  # ioctl_ficlone(2): share the blocks of another file
_NOT_SHARED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL)
_NOT_COPIED = (*_NOT_SHARED, errno.ENOSYS)  # many kernels, between two filesystems
_COPIED_AT_ONCE = 1 << 30
_READ_AT_ONCE = 1 << 20


def check_new_file(target: Path) -> None:
    """Check that a new file can be created, before the work starts.

    Raises:
        UsageError: it exists already, or this user may not write into its folder.
    """
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already", hint="name a file that is not there yet")
    folder = target.parent
    if not os.access(folder, os.F_OK) or not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="make it, or name another one")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"this user may not write into {folder}", hint="name a file in a folder of your own"
        )


def copy_image(source: Path, target: Path) -> None:
    """Copy an image to a new file (0600): with shared blocks if the filesystem can; keep holes.

    Raises:
        ImageBuildError: it cannot be copied; no part of it is left.
    """
    try:
        with (
            opened_image(source) as old,
            os.fdopen(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new,
        ):
            try:
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            except OSError as error:
                if error.errno not in _NOT_SHARED:
                    raise
                _copy_data(old.fileno(), new.fileno())
    except OSError as error:
        if error.errno != errno.EEXIST:
            target.unlink(missing_ok=True)
        raise ImageBuildError(
            f"cannot copy {source} to {target}: {error.strerror}",
            hint="name a file that is not there yet, on a filesystem with room",
        ) from None


def shares_blocks(source: Path, folder: Path) -> bool:
    """Tell whether a copy of ``source`` in ``folder`` would share its blocks and take no space."""
    try:
        with opened_image(source) as old, tempfile.TemporaryFile(dir=folder) as new:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
    except OSError:
        return False
    return True


def _copy_data(source: int, target: int) -> None:
    os.ftruncate(target, os.fstat(source).st_size)
    for position, end in data_ranges(source):
        while position < end:
            copied = _copy_some(source, target, end - position, position)
            if not copied:
                raise OSError(errno.EIO, "the image became shorter while it was copied")
            position += copied


def _copy_some(source: int, target: int, size: int, position: int) -> int:
    try:
        return os.copy_file_range(source, target, min(size, _COPIED_AT_ONCE), position, position)
    except OSError as error:
        if error.errno not in _NOT_COPIED:
            raise
    return os.pwrite(target, os.pread(source, min(size, _READ_AT_ONCE), position), position)
