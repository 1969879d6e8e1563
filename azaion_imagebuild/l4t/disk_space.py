"""Space for the images that NVIDIA's scripts write, on each of their filesystems."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from ..model import Build, Finding
from .image_files import present_images

_COPIES = (
    ("bootloader", ("flash", "initrd")),  # raw
    ("bootloader", ("flash", "initrd")),  # sparse
    ("tools/kernel_flash", ("initrd",)),  # the archive
    ("tools/kernel_flash", ("initrd",)),  # what it is packed from
)
"""Copies of the rootfs that the scripts leave on disk: where, and by which methods."""

_COPIES_OF_MASSFLASH = 4  # at the top of the tree: the rootfs, its tar, both again in an archive


class _Filesystem(Struct):
    folder: Path
    needed: int = 0


def findings(build: Build, tree: Path) -> Iterator[Finding]:
    """Check that the images of a build fit; those of an earlier build are removed first.

    A lane builds no image.
    """
    if not build.rootfs_dir.is_dir() or build.lane is not None:
        return
    for each in _filesystems(build, tree):
        free = shutil.disk_usage(each.folder).free + _freed(tree, each.folder)
        if free < each.needed:
            yield Finding(
                message=f"{each.folder} has {_megabytes(free)} free, the images need"
                f" {_megabytes(each.needed)}",
                hint=f"make room: du -xh --max-depth=2 {each.folder} | sort -h; then run the same"
                " command again",
            )


def _filesystems(build: Build, tree: Path) -> list[_Filesystem]:
    """Return each filesystem that gets images: ``bootloader/`` may be on another disk."""
    method = build.settings.bsp.method
    places = [name for name, methods in _COPIES if method in methods]
    if method == "initrd" and build.packed_for > 1:
        places += ["."] * _COPIES_OF_MASSFLASH
    size = _disk_usage(build.rootfs_dir)
    found: dict[int, _Filesystem] = {tree.stat().st_dev: _Filesystem(tree)}
    for name in places:
        folder = tree / name if (tree / name).is_dir() else tree
        found.setdefault(folder.stat().st_dev, _Filesystem(folder)).needed += size
    return list(found.values())


def _freed(tree: Path, folder: Path) -> int:
    """Return the bytes of images that a build removes first, on the filesystem of ``folder``."""
    device = folder.stat().st_dev
    stats = [path.stat() for path in present_images(tree)]
    return sum(each.st_blocks * 512 for each in stats if each.st_dev == device)


def _disk_usage(folder: Path) -> int:
    """Return the bytes that a tree takes on disk; ignore what cannot be read."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * 512  # noqa: PTH118
            except OSError:
                continue
    return total


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
