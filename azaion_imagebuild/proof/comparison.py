"""Comparing the rootfs with the image, path by path: all that lstat(2) returns and tar keeps.

Contents are not read: a file that a broken copy left empty, short or outdated has another size or
time. :data:`EXPECTED` lists what differs in a good image, each with its reason.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

from msgspec import Struct

from ..errors import VerificationError
from ..images.entry import Entry
from ..model import DEVICE_CONF

EXPECTED: tuple[tuple[str, str], ...] = (
    (DEVICE_CONF, "the proof of the identity reads it, with its owner, mode and content"),
    ("etc/azaion", "device.conf is staged in it"),
    ("boot", "flash.sh writes the files below it"),
    ("boot/Image*", "flash.sh copies the kernel"),
    ("boot/initrd*", "flash.sh copies the initrd, and updates it for the board"),
    ("boot/*.dtb", "flash.sh copies the board's device tree"),
    ("boot/*.dtbo", "flash.sh copies the board's overlays"),
    ("boot/dtb", "flash.sh writes the files below it"),
    ("boot/dtb/*", "flash.sh copies the board's device tree"),
    ("boot/extlinux", "flash.sh writes extlinux.conf"),
    ("boot/extlinux/extlinux.conf", "flash.sh writes the root device into it"),
    ("etc", "flash.sh writes the files below it"),
    ("etc/nv_boot_control.conf", "flash.sh writes the board's specification"),
    ("etc/user_release_version", "flash.sh writes the time of its run"),
)
"""Paths of a good image whose size, time or target may differ, and why; the rest must match."""

_NOT_COPIED = "lost+found"  # every ext4 has its own; top-level dotfiles: see _top_level()


_LONGEST_SHOWN = 80
_CLOCK = 2.0  # seconds that a file's time may differ from the clock
_TIMES = 1 << 32  # mke2fs -d keeps only 32 bits of a time after 2038


class Wanted(Struct, frozen=True):
    """An entry of the rootfs; small, because there are about a hundred thousand."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    device: int
    inode: int
    recent: bool
    """Changed since the build began: the scripts write into the rootfs, even after the copy.

    A change in the future was made before: the host's clock has been set back since.
    """


def wanted_of(rootfs: Path, began: float) -> dict[str, Wanted]:
    """Return everything that a copy of the rootfs must hold, by path.

    Args:
        rootfs: the folder.
        began: start of the build, in seconds since 1970.

    Raises:
        VerificationError: a part of it cannot be read, and so not compared.
    """
    return dict(_walk(os.fspath(rootfs), began, time.time() + _CLOCK))


def _walk(rootfs: str, began: float, ended: float) -> Iterator[tuple[str, Wanted]]:
    to_list = [""]
    while to_list:
        folder = to_list.pop()
        for found in _listed(rootfs, folder):
            if not folder and not _top_level(found.name):
                continue
            path = folder + found.name
            try:
                at = found.stat(follow_symlinks=False)
            except OSError as error:
                _pass_over(error, path)
                continue
            if stat.S_ISDIR(at.st_mode):
                to_list.append(f"{path}/")
            if not stat.S_ISSOCK(at.st_mode):  # tar omits sockets
                yield path, _wanted(at, began <= at.st_ctime <= ended)


def _wanted(at: os.stat_result, recent: bool) -> Wanted:
    return Wanted(
        at.st_mode,
        at.st_uid,
        at.st_gid,
        at.st_size,
        at.st_mtime_ns // 1_000_000_000,
        at.st_rdev,
        at.st_ino,
        recent,
    )


class Comparison:
    """Compares an image with a rootfs, entry by entry."""

    def __init__(self, rootfs: Path, wanted: Mapping[str, Wanted]) -> None:
        self._rootfs = rootfs
        self._wanted = wanted
        self._seen: set[str] = set()
        self.differences: dict[str, str] = {}
        """The differences, by path."""

    def see(self, entry: Entry) -> None:
        """Compare one entry; the last one of a path counts."""
        wanted = self._wanted.get(entry.path)
        if wanted is None:
            return
        self._seen.add(entry.path)
        self.differences.pop(entry.path, None)
        if why := ", ".join(self._why(entry, wanted)):
            self.differences[entry.path] = why

    @cached_property
    def missing(self) -> list[str]:
        """What must be in the image, but was not seen: everything older than the build."""
        return [
            path
            for path, wanted in self._wanted.items()
            if not wanted.recent and path not in self._seen
        ]

    def _why(self, entry: Entry, wanted: Wanted) -> Iterator[str]:
        if entry.linked_to is not None:
            yield from self._why_not_linked(entry.linked_to, wanted)
            return
        kind = stat.S_IFMT(wanted.mode)
        if stat.S_IFMT(entry.mode) != kind:
            yield f"the type {_kind(entry.mode)}, not {_kind(wanted.mode)}"
            return
        if entry.mode != wanted.mode and kind != stat.S_IFLNK:  # a link's mode has no meaning
            found, asked = stat.S_IMODE(entry.mode), stat.S_IMODE(wanted.mode)
            yield f"mode {found:04o}, not {asked:04o}"
        if (entry.uid, entry.gid) != (wanted.uid, wanted.gid):
            yield f"owner {entry.uid}:{entry.gid}, not {wanted.uid}:{wanted.gid}"
        if entry.device != wanted.device:
            yield f"device {_numbers(entry.device)}, not {_numbers(wanted.device)}"
        if not wanted.recent and not _EXPECTED.fullmatch(entry.path):
            yield from self._why_not_content(entry, wanted, kind)

    def _why_not_content(self, entry: Entry, wanted: Wanted, kind: int) -> Iterator[str]:
        if kind == stat.S_IFREG and entry.size not in (wanted.size, None):
            yield f"{entry.size} bytes, not {wanted.size}"
        if kind == stat.S_IFLNK and entry.target != (target := self._target(entry.path)):
            yield f"the link target {entry.target!a}, not {target!a}"
        if (entry.mtime - wanted.mtime) % _TIMES:
            yield f"the time {_utc(entry.mtime)}, not {_utc(wanted.mtime)}"

    def _why_not_linked(self, other: str, wanted: Wanted) -> Iterator[str]:
        """In a tar, a hard link has no fields of its own: compare the other name."""
        linked = self._wanted.get(other)
        if other not in self._seen or linked is None or linked.inode != wanted.inode:
            yield f"a hard link to /{other}, which is another file in the rootfs"

    def _target(self, path: str) -> str | None:
        try:
            return os.readlink(f"{self._rootfs}/{path}")  # noqa: PTH115 - one of very many
        except OSError:
            return None


def _listed(rootfs: str, folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(f"{rootfs}/{folder}") as found:
            return list(found)
    except OSError as error:
        _pass_over(error, folder)
        return []


def _pass_over(error: OSError, path: str) -> None:
    """Pass over what was removed meanwhile; anything else would stay unproven.

    Raises:
        VerificationError: it is there, but cannot be read: a path of over 4095 bytes, for example.
    """
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        shown = path if len(path) < _LONGEST_SHOWN else f"{path[:_LONGEST_SHOWN]}…"
        raise VerificationError(
            f"{shown!a} in the rootfs cannot be compared: {error.strerror}",
            hint="make it readable, or take it out of the rootfs; then run the same command again",
        )


def _top_level(name: str) -> bool:
    """flash.sh copies the rootfs with ``tar *``, which omits dotfiles at the top."""
    return not name.startswith(".") and name != _NOT_COPIED


def _kind(mode: int) -> str:
    names = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "link",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
    }
    return names.get(stat.S_IFMT(mode), "thing of an unknown type")


def _utc(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"


def _numbers(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


_EXPECTED = re.compile("|".join(fnmatch.translate(pattern) for pattern, _ in EXPECTED))
