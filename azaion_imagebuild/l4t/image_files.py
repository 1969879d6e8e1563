"""The files of a BSP tree that hold an image, and who may read them."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..images.tar_index import NOTES
from ..system.files import NEW_SUFFIX, read_text

_PLACES = (
    "bootloader/system.img*",
    "tools/kernel_flash/images/*/system.img*",
    "unified_flash/out/bsp_images*/**/system.img*",
)
"""Where NVIDIA's scripts put the root filesystem, in R35, R36 and R38."""

_FOLDERS = (
    "rootfs",
    "bootloader",
    "tools",
    "tools/kernel_flash",
    "tools/kernel_flash/images",
    "tools/kernel_flash/images/*",
    "unified_flash",
    "unified_flash/out",
    "unified_flash/out/bsp_images*",
)
"""The folders of these images, and that of the rootfs itself."""

_IMAGE = re.compile(
    r"(bootloader|tools/kernel_flash/images/[^/]+|unified_flash/out/bsp_images[^/]*(/[^/]+)*)"
    r"/system\.img(_[a-z]+)?(\.raw)?(\.zst)?"
)
"""``system.img_b`` is of ROOTFS_AB; R36.4 and newer pack ``system.img.zst`` for ``--sparse``."""

BASE_NOTE = "bootloader/azaion-base.json"
"""What a base was built from (see :mod:`.base_image`); it is removed together with its images."""

_APP = re.compile(r"^APP(?:_ext)?=([A-Za-z0-9._+-]+)$", re.MULTILINE)
RETRY_NOTE = "bootloader/azaion-retry.json"
"""Which images wait for the next attempt (see :mod:`.retry`); it is removed together with them."""

_MASSFLASH_ARCHIVES = ("mfi_*",)
_UNIFIED_OUTPUTS = ("unified_flash/out/bsp_images*",)
_UNFINISHED = tuple(
    f"{folder}/.system.img*{NEW_SUFFIX}" for folder in ("bootloader", "tools/kernel_flash/images/*")
)
_TAR_INDEXES = (f"bootloader/{NOTES}", f"tools/kernel_flash/images/*/{NOTES}")
_UNPACKED = (
    "bootloader/mnt/etc/azaion/device.conf",
    "tools/kernel_flash/images/mnt/etc/azaion/device.conf",
)
_BACKUPS = tuple(
    f"{folder}/system.img*{suffix}"
    for folder in ("bootloader", "tools/kernel_flash/images/*")
    for suffix in (".bak", ".orig", "~")
)


def packed_app(folder: Path) -> Path:
    """Return the file in a package that the device writes to APP, there or not.

    R36.4 and newer name it in ``flash.cfg`` (``--sparse`` makes it ``system.img.zst``); the last
    line counts, as in a shell.
    """
    try:
        names = _APP.findall(read_text(folder / "flash.cfg"))
    except OSError:
        names = []
    return folder / (names[-1] if names else "system.img")


def is_image(name: str) -> bool:
    """Tell whether a file, named from the tree on, is an image of the root filesystem."""
    return _IMAGE.fullmatch(name) is not None and ".." not in name.split("/")


def is_raw(path: Path) -> bool:
    """Tell whether an image is the raw one, by its name."""
    return path.suffix == ".raw"


def present_images(tree: Path) -> list[Path]:
    """Return the images that exist in the tree; links do not count."""
    return [
        path
        for path in _matching(tree, _PLACES)
        if is_image(path.relative_to(tree).as_posix()) and path.is_file() and not path.is_symlink()
    ]


def hide_images(tree: Path) -> None:
    """Make every image readable by its owner only: NVIDIA leaves them 0755 or 0644."""
    for path in present_images(tree):
        with contextlib.suppress(FileNotFoundError):  # the script may remove one at any time
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)


@contextlib.contextmanager
def hidden_from_others(tree: Path) -> Iterator[None]:
    """Close ``bootloader/`` to other users while a script runs there; restore its mode after."""
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


def linked_folders(tree: Path) -> list[Path]:
    """Return the folders that are links, often to a larger disk, where scripts write the rootfs."""
    return [path for path in _matching(tree, _FOLDERS) if path.is_symlink() and path.is_dir()]


def derived_files(tree: Path) -> list[Path]:
    """Return what scripts and this tool derive from images: unpacked copies, tar indexes."""
    return _matching(tree, (*_UNPACKED, *_TAR_INDEXES, *_UNFINISHED))


def backups(tree: Path) -> list[Path]:
    """Return backups of images."""
    return _matching(tree, _BACKUPS)


def massflash_archives(tree: Path) -> list[Path]:
    """Return what massflash packs for other hosts: the rootfs and every image once more."""
    return _matching(tree, _MASSFLASH_ARCHIVES)


def unified_outputs(tree: Path) -> list[Path]:
    """Return the folders in which R38's unified flash (Thor) keeps every image once more."""
    return _matching(tree, _UNIFIED_OUTPUTS)


def _matching(tree: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in tree.glob(pattern))
