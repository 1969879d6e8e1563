"""Stamping an identity into a finished image: overwriting the data of one file in place.

No inode, size or checksum of the filesystem changes (ext4 has none over file data), so the time
does not depend on the image; nothing is mounted. The order of the writes makes a crash harmless:

1. the first byte becomes ``#`` and is synced: the first credential is now a comment, so the file is
   not an identity (a placeholder begins with ``#`` already);
2. all other bytes are written and synced;
3. the first byte is written and synced: only now is there an identity, and it is complete.

Interrupted at any byte, the file holds the old identity, none, or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
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
from . import indexed, tar_index
from .locate import Location, Range
from .sha1sum import renew_sha1
from .stream import CorruptImage
from .version import Version

MakeSlot = Callable[[Path, int], bytes | None]
Check = Callable[["OpenImage", bytes], object]

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_SLOT = "rebuild the base: azaion-imagebuild base"


class OpenImage:
    """An image that is open and locked for stamping; use :func:`opened_for_stamping`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._fd = descriptor
        self._seen = Version.of(descriptor)
        self._stamped = self._seen
        self.location = self._locate()

    def _locate(self) -> Location:
        try:
            found = indexed.locate_conf(self.path, self._fd)
        except CorruptImage as error:
            raise VerificationError(
                f"{self.path} cannot be stamped: {error}", hint=error.hint or _NO_SLOT
            ) from None
        if found is None or not found.size:
            raise VerificationError(f"{self.path} holds no /{DEVICE_CONF} to stamp", hint=_NO_SLOT)
        return found

    def read(self) -> bytes:
        """Return the file's data."""
        return b"".join(
            os.pread(self._fd, part.length, part.offset) for part in self.location.ranges
        )

    def write(self, data: bytes) -> None:
        """Overwrite the file's data, in the order that this module describes.

        Raises:
            ValueError: ``data`` does not have the file's length.
            VerificationError: another program has moved the file since it was located.
            OSError: the image cannot be written.
        """
        if len(data) != self.location.size:
            raise ValueError(f"{len(data)} bytes for a file of {self.location.size}")
        self._check_location()
        before = self._stamped = self._seen
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
        tar_index.update(self.path, before, self._seen)

    def renew_sha1(self) -> None:
        """Rewrite the checksum beside the image, if there is one, to match the last write.

        Raises:
            ImageBuildError: the image cannot be read, or the checksum cannot be written.
        """
        offset = min(part.offset for part in self.location.ranges)
        renew_sha1(self.path, offset, self._stamped, self._seen)

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
        if undisturbed:  # otherwise somebody else changed it: the index must not match
            self._seen = Version.of(self._fd)


def _without_first_byte(ranges: tuple[Range, ...]) -> Iterator[Range]:
    first, *others = ranges
    if first.length > 1:
        yield Range(offset=first.offset + 1, length=first.length - 1)
    yield from others


@contextlib.contextmanager
def opened_for_stamping(
    path: Path, wait: float, make_slot: MakeSlot | None = None, *, only_read: bool = False
) -> Iterator[OpenImage]:
    """Open and lock an image, and find where its device.conf lies.

    Args:
        path: the image.
        wait: seconds to wait for another process that stamps it.
        make_slot: called with the path and the open descriptor before device.conf is located; it
            returns the old device.conf, which the new placeholder has replaced.
        only_read: it is enough if this user may read it.

    Raises:
        ImageBuildError: the image cannot be written.
        UsageError: it is not a writable file.
        PreflightError: another process stamps it for longer than ``wait`` seconds.
        VerificationError: it holds no device.conf that can be overwritten in place.
    """
    with _locked(path, wait, only_read=only_read) as descriptor:
        old = make_slot(path, descriptor) if make_slot else None
        opened = OpenImage(path, descriptor)
        if old is not None:
            write_into(opened, old.ljust(opened.location.size, b"\n"))
        yield opened


@contextlib.contextmanager
def _locked(path: Path, wait: float, *, only_read: bool) -> Iterator[int]:
    """Open and lock the file at ``path``; ignore one that another process replaced meanwhile."""
    descriptor = _opened(path, only_read=only_read)
    try:
        while True:
            with locked_file(descriptor, path, wait):
                if _is_at(path, descriptor):
                    yield descriptor
                    return
            new = _opened(path, only_read=only_read)
            os.dup2(new, descriptor, inheritable=False)
            os.close(new)
    finally:
        os.close(descriptor)


def _opened(path: Path, *, only_read: bool) -> int:
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | flags)
    except OSError as error:
        if only_read and error.errno in _READ_ONLY:
            with contextlib.suppress(OSError):
                return os.open(path, os.O_RDONLY | flags)
        raise UsageError(
            f"cannot open {path} for writing: {error.strerror}",
            hint="check the path and your rights",
        ) from None


def _is_at(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return True  # it was removed: what is written to it reaches nobody, as ever


@contextlib.contextmanager
def opened_images(
    paths: Sequence[Path],
    wait: float,
    make_slot: MakeSlot | None = None,
    *,
    only_read: bool = False,
) -> Iterator[list[OpenImage]]:
    """Open and lock images as :func:`opened_for_stamping` does; yield them in the same order.

    They are locked in sorted order, so that two processes never wait for each other.
    """
    with contextlib.ExitStack() as stack:
        opened = {
            path: stack.enter_context(
                opened_for_stamping(path, wait, make_slot, only_read=only_read)
            )
            for path in sorted(paths)
        }
        yield [opened[path] for path in paths]


def stamp(
    opened: Sequence[OpenImage], content: Callable[[int], bytes], check: Check | None = None
) -> list[bytes]:
    """Write device.conf into images, and update the checksum beside each; return what was written.

    Args:
        opened: the images.
        content: returns the data for a file of a size; called for all images before any is written.
        check: called with each image and its data after writing.

    Raises:
        ImageBuildError: an image cannot be written.
        ValueError: content returned data of another length.
    """
    contents = [content(each.location.size) for each in opened]
    for each, data in zip(opened, contents, strict=True):
        write_into(each, data)
        if check is not None:
            check(each, data)
        each.renew_sha1()
    return contents


def write_into(image: OpenImage, data: bytes) -> None:
    """Overwrite device.conf in one image.

    Raises:
        ImageBuildError: it cannot be written.
        ValueError: ``data`` does not have the file's length.
    """
    try:
        image.write(data)
    except OSError as error:
        raise ImageBuildError(
            f"cannot write {image.path}: {error.strerror}",
            hint="the image holds no identity now; check its disk, then run the same command again",
        ) from None


def blank(path: Path, wait: float, make_slot: MakeSlot | None = None) -> bool:
    """Restore the placeholder in an image; tell whether anything else was in it.

    ``make_slot`` is that of :func:`opened_for_stamping`.

    Raises:
        OperatorError: it has no device.conf, is being stamped, or cannot be written.
    """
    with opened_images([path], wait, make_slot) as opened:
        if opened[0].read() == placeholder(opened[0].location.size):
            return False
        stamp(opened, placeholder)
    return True


def to_be_stamped(content: bytes, ownership: Ownership) -> StagedFile:
    """Return the device.conf that a stamp will write; write nothing."""
    digest = hashlib.sha256(content).hexdigest()
    return StagedFile(path=DEVICE_CONF, mode=DEVICE_CONF_MODE, ownership=ownership, sha256=digest)


def stamped_content(build: Build, identity: DeviceIdentity, size: int | None = None) -> bytes:
    """Return the device.conf to stamp: rendered, and padded to the placeholder's size.

    Args:
        build: whose settings count.
        identity: the device's.
        size: bytes of the placeholder in the image; None: the configured size.

    Raises:
        UsageError: it is too long.
    """
    template = device_conf.template_of(build.settings.device_conf)
    room = build.settings.image.placeholder_size if size is None else size
    return padded(device_conf.render(template, identity), room)
