"""Is the image whole? NVIDIA's scripts end with 0 when the copy of the rootfs broke off."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from . import images
from .model import LUKS, Build, Finding, Image
from .process import run

_SYSTEM_PATH = "/usr/sbin:/sbin"
_LOOK = "look at flash.sh's log, then run the same command again; do not flash this image"
_MOST_NAMES = 8


def findings(build: Build, image: Image) -> list[Finding]:
    """Compare the image with the rootfs it was built from, and its copies with each other."""
    if image.format == LUKS:
        return []
    return [
        *_missing(build, image),
        *_disagreeing(image),
        *(_damaged(image.path) if image.format == "ext4" else []),
    ]


def _missing(build: Build, image: Image) -> Iterator[Finding]:
    """Find what the rootfs has and the image has not: names at the top, and the count of files.

    flash.sh copies the rootfs by ``tar *``: dotfiles at the top never arrive. What changed since
    the build began is left out of the count: the scripts write into the rootfs themselves.
    """
    with images.opened(image.path) as filesystem:
        names, count = filesystem.top_names(), filesystem.count()
    expected = {entry.name for entry in os.scandir(build.rootfs_dir)} - {"lost+found"}
    missing = sorted(name for name in expected - names if not name.startswith("."))
    if missing:
        shown = ", ".join(missing[:_MOST_NAMES])
        yield Finding(message=f"{image.path} lacks /{shown} of the rootfs", hint=_LOOK)
        return
    files = _count(build.rootfs_dir, build.began, by_name=image.format == "tar")
    if count < files:
        message = f"{image.path} holds {count} files, the rootfs {files}: it is not whole"
        yield Finding(message=message, hint=_LOOK)


def _count(rootfs: Path, before: float, *, by_name: bool) -> int:
    """Count the files below ``rootfs`` last changed before then: inodes, or names of an archive."""
    seen: set[tuple[int, int]] = set()
    names = 0
    for folder, folders, files in os.walk(rootfs):
        if Path(folder) == rootfs:
            folders[:] = [name for name in folders if not name.startswith(".")]
            files = [name for name in files if not name.startswith(".")]
        for name in (*folders, *files):
            try:
                found = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - half the time
            except OSError:
                continue
            if found.st_ctime < before and not stat.S_ISSOCK(found.st_mode):  # tar leaves sockets
                names += 1
                seen.add((found.st_dev, found.st_ino))
    return names if by_name else len(seen)


def _disagreeing(image: Image) -> Iterator[Finding]:
    """The raw image and its sparse twin are one filesystem only when their superblocks agree."""
    first = images.superblock(image.path)
    for path in image.also:
        if path.name.removesuffix(".raw") != image.path.name.removesuffix(".raw"):
            continue  # ROOTFS_AB's second image is a filesystem of its own
        if images.superblock(path) != first:
            message = f"{path.name} was not made from {image.path.name}: they do not agree"
            yield Finding(message=message, hint=_LOOK)


def _damaged(raw: Path) -> Iterator[Finding]:
    e2fsck = shutil.which("e2fsck", path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}")
    if e2fsck is None:
        return  # preflight has asked for it
    checked = run([e2fsck, "-fn", str(raw)], cwd=raw.parent, timeout=1800)
    if checked.returncode != 0:
        message = f"e2fsck finds {raw} damaged: {checked.last_words()}"
        yield Finding(message=message, hint=_LOOK)
