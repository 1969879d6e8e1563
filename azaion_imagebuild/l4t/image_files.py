"""Where a password is left in a BSP tree after a build: removing those files, and looking again."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..images.tar_index import NOTES
from ..secret import Secret

IMAGES = (
    "bootloader/system.img",
    "bootloader/system.img.raw",
    "bootloader/system.img_b",
    "bootloader/system.img_b.raw",
    "tools/kernel_flash/images/internal/system.img",
    "tools/kernel_flash/images/external/system.img",
    "tools/kernel_flash/images/internal/system.img_b",
    "tools/kernel_flash/images/external/system.img_b",
)
"""Every file of a Linux_for_Tegra in which NVIDIA's scripts put the root filesystem."""

_COPIES = ("mfi_*",)
BASE_NOTE = "bootloader/azaion-base.json"
"""What a base was built from (see :mod:`.base_image`); it goes with the images it speaks of."""

_PLACES = (f"bootloader/{NOTES}", f"tools/kernel_flash/images/*/{NOTES}")
_UNPACKED = (
    "bootloader/mnt/etc/azaion/device.conf",
    "tools/kernel_flash/images/mnt/etc/azaion/device.conf",
)
_BACKUPS = ("bootloader/system.img*.bak", "bootloader/system.img*.orig", "bootloader/system.img*~")
_WINDOW = 1 << 20
_CLOCK = 2.0  # seconds by which a file's time may lag behind the clock


def present_images(tree: Path) -> list[Path]:
    """Return the images that are there."""
    return [path for name in IMAGES if (path := tree / name).is_file() and not path.is_symlink()]


def hide_images(tree: Path) -> None:
    """Make every image readable by its owner only: NVIDIA leaves them 0755 or 0644."""
    for path in present_images(tree):
        with contextlib.suppress(FileNotFoundError):  # the script may remove one at any time
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)


@contextlib.contextmanager
def out_of_sight(tree: Path) -> Iterator[None]:
    """Close ``bootloader/`` to other users while a script works in it; give its mode back."""
    folder = tree / "bootloader"
    mode = stat.S_IMODE(folder.stat().st_mode) if folder.is_dir() else 0
    if mode & 0o077:
        folder.chmod(mode & 0o700)
    try:
        yield
    finally:
        hide_images(tree)
        if mode & 0o077:
            folder.chmod(mode)


def remove_images(tree: Path) -> None:
    """Remove the images of whatever earlier build: a stale one must not pass for a new one."""
    for path in (*present_images(tree), tree / BASE_NOTE, *_matching(tree, (*_UNPACKED, *_PLACES))):
        path.unlink(missing_ok=True)


def remove_copies(tree: Path) -> None:
    """Remove what massflash packs for other hosts: the rootfs and every image once more."""
    for path in _matching(tree, _COPIES):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove(tree: Path, *, since: float, keep: Iterable[Path] = ()) -> list[str]:
    """Remove the images, their backups, and massflash's copies; return their names.

    Args:
        tree: the Linux_for_Tegra folder.
        keep: files to leave.
        since: seconds since the epoch; what was last changed before is not of this build and stays.
    """
    kept = set(keep)
    doomed = [*present_images(tree), *_matching(tree, (*_UNPACKED, *_BACKUPS, *_COPIES, *_PLACES))]
    removed = []
    for path in doomed:
        if path in kept or path.lstat().st_ctime < since - _CLOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(str(path.relative_to(tree)))
    return removed


def _matching(tree: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in tree.glob(pattern))


def holders(tree: Path, secret: Secret, since: float, *, linked: bool = False) -> list[Path]:
    """Return the files below ``tree`` that hold the secret, among those changed since then.

    What was changed before the secret was made cannot hold it. Holes are skipped; memory is
    bounded. Links are not followed and only regular files are opened.

    Args:
        since: seconds since the epoch, compared with each file's ctime.
        linked: the tree is a lane. A file that it shares with others counts by its mtime: every
            lane that is made or removed changes the ctime of all of them.
    """
    needle = secret.reveal().encode()
    changed = _changed(tree, since - _CLOCK, linked)
    return [path for path in changed if _holds(path, needle)]


def _changed(tree: Path, since: float, linked: bool) -> Iterator[Path]:
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            try:
                found = path.lstat()
            except OSError:
                continue
            shared = linked and found.st_nlink > 1
            when = found.st_mtime if shared else found.st_ctime
            if stat.S_ISREG(found.st_mode) and when >= since:
                yield path


def _holds(path: Path, needle: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        tail, position = b"", 0
        for start, data in _data(descriptor):
            joined = (tail if start == position else b"") + data
            if needle in joined:
                return True
            tail, position = joined[-len(needle) + 1 :], start + len(data)
        return False
    finally:
        os.close(descriptor)


def _data(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of what a file really holds; holes are left out."""
    position = 0
    while True:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole up to the end
            raise
        end = os.lseek(descriptor, position, os.SEEK_HOLE)
        while position < end:
            block = os.pread(descriptor, min(_WINDOW, end - position), position)
            if not block:
                return
            yield position, block
            position += len(block)
