"""Stamping: an identity into a finished image, by overwriting the data of one file in place.

No inode, size or checksum of the filesystem changes (ext4 has none over file data), so the time
does not depend on the image; nothing is mounted. The order of the writes makes a crash harmless:

1. the first byte becomes ``#``, and is synced: the file's first credential is now a comment, so the
   file is no identity at all (from a placeholder, which begins with ``#``, this step is nothing);
2. all other bytes are written and synced;
3. the first byte is written and synced: only now there is an identity, and it is complete.

Cut at any byte, the file is the old one, none, or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ImageBuildError, UsageError, VerificationError
from ..identity import device_conf
from ..identity.placeholder import INVALID, padded, placeholder
from ..model import (
    DEVICE_CONF,
    DEVICE_CONF_MODE,
    Build,
    DeviceIdentity,
    Ownership,
    StagedFile,
)
from ..system.locks import locked_file
from . import CorruptImage
from . import tar_index as places
from .digest import renew_sha1
from .locate import Location, Range
from .tar_index import Version

_FICLONE = 0x40049409  # ioctl_ficlone(2): share the blocks of another file
_NOT_SHARED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL)
_NOT_COPIED = (*_NOT_SHARED, errno.ENOSYS)  # between filesystems, by many kernels
_COPIED_AT_ONCE = 1 << 30
_READ_AT_ONCE = 1 << 20
_NO_PLACE = "build the base anew: azaion-imagebuild base"


class OpenImage:
    """An image that is open and locked for stamping; use :func:`opened_for_stamping`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._fd = descriptor
        self._seen = Version.of(descriptor)
        self.location = self._locate()

    def _locate(self) -> Location:
        try:
            found = places.locate_conf(self.path, self._fd)
        except CorruptImage as error:
            raise VerificationError(
                f"{self.path} cannot be stamped: {error}", hint=_NO_PLACE
            ) from None
        if found is None or not found.size:
            raise VerificationError(f"{self.path} holds no /{DEVICE_CONF} to stamp", hint=_NO_PLACE)
        return found

    def read(self) -> bytes:
        """Return the file's data as it is now."""
        return b"".join(
            os.pread(self._fd, part.length, part.offset) for part in self.location.ranges
        )

    def write(self, data: bytes) -> None:
        """Overwrite the file's data, in the order that this module describes.

        Raises:
            ValueError: ``data`` has not the file's length.
            VerificationError: another program changed where the file lies since it was located.
            OSError: the image cannot be written.
        """
        if len(data) != self.location.size:
            raise ValueError(f"{len(data)} bytes for a file of {self.location.size}")
        self._check_location()
        before = self._seen
        first = self.location.ranges[0].offset
        if os.pread(self._fd, 1, first) != INVALID:
            self._put(INVALID, first)
            os.fdatasync(self._fd)
        position = 1
        for part in _without_first_byte(self.location.ranges):
            self._put(data[position : position + part.length], part.offset)
            position += part.length
        os.fdatasync(self._fd)
        if data[:1] != INVALID:
            self._put(data[:1], first)
            os.fdatasync(self._fd)
        places.update(self.path, before, self._seen)

    def _check_location(self) -> None:
        if Version.of(self._fd) != self._seen:
            self._seen = Version.of(self._fd)
            if self._locate() != self.location:
                raise VerificationError(
                    f"another program changed {self.path} while it was open to be stamped",
                    hint="see that nothing else writes to it, then run the same command again",
                )

    def _put(self, data: bytes, offset: int) -> None:
        undisturbed = Version.of(self._fd) == self._seen
        while data:
            written = os.pwrite(self._fd, data, offset)
            data, offset = data[written:], offset + written
        if undisturbed:  # otherwise a change that is not ours stays to be seen
            self._seen = Version.of(self._fd)


def _without_first_byte(ranges: tuple[Range, ...]) -> Iterator[Range]:
    first, *others = ranges
    if first.length > 1:
        yield Range(offset=first.offset + 1, length=first.length - 1)
    yield from others


@contextlib.contextmanager
def opened_for_stamping(
    path: Path, wait: float, make_place: Callable[[Path, int], object] = lambda path, fd: None
) -> Iterator[OpenImage]:
    """Open and lock an image, and find where its device.conf lies.

    Args:
        path: the image.
        wait: seconds to wait for another process that stamps it.
        make_place: called with the path and the open descriptor before the file is looked for.

    Raises:
        UsageError: it is no file that may be written.
        PreflightError: another process stamps it for longer than ``wait`` seconds.
        VerificationError: it holds no device.conf that can be overwritten in place.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(
            f"cannot open {path} for writing: {error.strerror}",
            hint="check the path and your rights",
        ) from None
    try:
        with locked_file(descriptor, path, wait):
            make_place(path, descriptor)
            yield OpenImage(path, descriptor)
    finally:
        os.close(descriptor)


def blank(path: Path, wait: float) -> bool:
    """Put the placeholder back into an image; tell whether anything else was in it.

    Raises:
        OperatorError: it is no image with a device.conf, or is being stamped.
        OSError: it cannot be written.
    """
    with opened_for_stamping(path, wait) as opened:
        blanked = placeholder(opened.location.size)
        if opened.read() == blanked:
            return False
        opened.write(blanked)
    renew_sha1(path)
    return True


def check_new_file(target: Path) -> None:
    """Look, before the work that it takes, whether a new file can be made.

    Raises:
        UsageError: something is there already, or its folder takes no file of this user.
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
    """Copy an image to a new file (0600): shared blocks where the filesystem can, holes kept.

    Raises:
        ImageBuildError: it cannot be copied; no part of it is left.
    """
    try:
        with (
            source.open("rb") as old,
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
    """Tell whether a copy of ``source`` in ``folder`` would share its blocks, and so cost none."""
    try:
        with source.open("rb") as old, tempfile.TemporaryFile(dir=folder) as new:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
    except OSError:
        return False
    return True


def _copy_data(source: int, target: int) -> None:
    end = os.fstat(source).st_size
    os.ftruncate(target, end)
    position = 0
    while position < end:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            raise
        hole = os.lseek(source, position, os.SEEK_HOLE)
        while position < hole:
            copied = _copy_some(source, target, hole - position, position)
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


def to_be_stamped(content: bytes, ownership: Ownership) -> StagedFile:
    """Return what device.conf will be in an image into which it is stamped; nothing is written."""
    digest = hashlib.sha256(content).hexdigest()
    return StagedFile(path=DEVICE_CONF, mode=DEVICE_CONF_MODE, ownership=ownership, sha256=digest)


def stamped_content(build: Build, identity: DeviceIdentity, size: int | None = None) -> bytes:
    """Return device.conf as it is stamped: rendered, and padded to the placeholder's size.

    Args:
        build: whose settings count.
        identity: the device's.
        size: bytes of the placeholder in the image; None: as it is configured.

    Raises:
        UsageError: it is too long for that.
    """
    template = device_conf.template_of(build.settings.device_conf)
    room = build.settings.image.placeholder_size if size is None else size
    return padded(device_conf.render(template, identity), room)
