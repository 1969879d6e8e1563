"""Is the image whole? NVIDIA's scripts end with 0 when the copy of the rootfs broke off."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .. import images
from ..images.e2fsprogs import damaged
from ..model import GROUP, LUKS, PASSWD, Build, Finding, Image
from ..rootfs.accounts import LARGEST_PASSWD
from ..rootfs.tree import Rootfs

_LOOK = "look at flash.sh's log, then run the same command again; do not flash this image"
_MOST_NAMES = 8


def findings(build: Build, image: Image) -> list[Finding]:
    """Compare the image with the rootfs it was built from, and its copies with each other."""
    if image.format == LUKS:
        return []
    return [
        *_missing(build, image),
        *_other_accounts(build, image),
        *_disagreeing(image),
        *(damaged(image.path) if image.format == "ext4" else []),
    ]


def _missing(build: Build, image: Image) -> Iterator[Finding]:
    """Find what the rootfs has and the image has not, by name."""
    missing = _paths(build.rootfs_dir, build.began)
    with images.opened(image.path) as filesystem:
        for path in filesystem.paths():
            missing.discard(path)
    if missing:
        shown = ", ".join(f"/{path}" for path in sorted(missing)[:_MOST_NAMES])
        more = f" and {len(missing) - _MOST_NAMES} more" if len(missing) > _MOST_NAMES else ""
        yield Finding(
            message=f"{image.path} is not whole: it lacks {shown}{more} of the rootfs", hint=_LOOK
        )


def _other_accounts(build: Build, image: Image) -> Iterator[Finding]:
    """The owner of device.conf means something only with the accounts it was looked up in."""
    with Rootfs(build.rootfs_dir) as rootfs, images.opened(image.path) as filesystem:
        for path in (PASSWD, GROUP):
            wanted = rootfs.read_file(path, LARGEST_PASSWD)
            found = filesystem.read_file(path, LARGEST_PASSWD)
            if (wanted and wanted.data) != (found and found.data):
                message = f"/{path} in {image.path} is not that of the rootfs"
                yield Finding(message=message, hint=_LOOK)


def _paths(rootfs: Path, before: float) -> set[str]:
    """Return what must be in the image: all that was last changed before the build began.

    flash.sh copies the rootfs by ``tar *``, so dotfiles at the top never arrive; tar leaves
    sockets. The scripts write into the rootfs themselves: what is newer may be missing.
    """
    found = set()
    top = str(rootfs)
    for folder, folders, files in os.walk(top):
        within = folder[len(top) + 1 :]
        if not within:
            folders[:] = [name for name in folders if name[0] != "." and name != "lost+found"]
            files = [name for name in files if name[0] != "."]
        for name in (*folders, *files):
            try:
                at = os.lstat(f"{folder}/{name}")
            except OSError:
                continue
            if at.st_ctime < before and not stat.S_ISSOCK(at.st_mode):
                found.add(f"{within}/{name}" if within else name)
    return found


def _disagreeing(image: Image) -> Iterator[Finding]:
    """The raw image and its sparse twin are one filesystem only when their superblocks agree."""
    first = images.superblock(image.path)
    for path in image.also:
        if path.name.removesuffix(".raw") != image.path.name.removesuffix(".raw"):
            continue  # ROOTFS_AB's second image is a filesystem of its own
        if images.superblock(path) != first:
            message = f"{path.name} was not made from {image.path.name}: they do not agree"
            yield Finding(message=message, hint=_LOOK)
