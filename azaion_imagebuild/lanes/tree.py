"""The tree of a lane: what it shares with the BSP, and what it copies.

Files that are only read are hard links. Of the base's images, it has copies of those that reach a
device. What NVIDIA's scripts may write is a copy, too:

- ``bootloader/`` (flash.sh rebuilds boot images and tables there), except the boot image of
  each device number, which is only read;
- ``tools/kernel_flash/images`` (the device mounts it read-write);
- ``kernel/dtb`` (flash.sh rewrites the ``.dtb.rec`` there, with ``-r`` too);
- ``tools/kernel_flash/initrdflash*.txt`` (packaging writes its parameters there);
- ``rootfs/boot``, ``rootfs/etc`` (kernel, extlinux.conf, nv_boot_control.conf).

This is what R35.3.1's own scripts wrote when they packed and flashed, with both methods.

The BSP's logs and temporary folders are omitted. Folders are always the lane's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .. import images
from ..errors import OperatorError
from ..identity import device_conf
from ..identity.placeholder import is_placeholder
from ..images import sha1sum, tar_index
from ..images.copy import shares_blocks
from ..l4t import image_files
from ..model import DEVICE_CONF, Finding, Image
from ..system.mounts import mounts_below
from .hardlink_copy import Share, twin

_OWN = (
    "bootloader/",
    "kernel/dtb/",
    "tools/kernel_flash/images/",
    "tools/kernel_flash/initrdflash",
    "rootfs/boot/",
    "rootfs/etc/",
)
_ONLY_READ = re.compile(r"bootloader/boot[0-9]\.img")
_LEFT_OUT = re.compile(
    r"(initrdlog|temp_initrdflash|mfi_[^/]*)|bootloader/system\.img[^/]*(\.bak|\.orig|~)"
)
_FOLDERS = ("bootloader", "tools", "tools/kernel_flash", "tools/kernel_flash/images")
_BUILD_IT = "build it: azaion-imagebuild base"


def make_tree(tree: Path, rootfs: Path, base: Image, lane: Path) -> Image:
    """Make a lane's tree; return the base's image in it.

    Args:
        tree: the BSP's own tree.
        rootfs: the root filesystem that the base was built from, in the BSP or elsewhere.
        base: the image with a placeholder, in ``tree``.
        lane: the folder to make.

    Raises:
        PreflightError: something cannot be linked.
        ImageBuildError: something cannot be copied.
    """
    carrying = [str(path.relative_to(tree)) for path in reaching_a_device(base)]
    inside = rootfs.resolve() == tree / "rootfs"

    def share(path: str) -> Share:
        if _LEFT_OUT.fullmatch(path) or (path == "rootfs" and not inside):
            return Share.LEAVE
        if image_files.is_image(path) and path not in carrying:
            return Share.LINK if path.startswith("tools/") else Share.LEAVE
        if path.startswith(_OWN) and not _ONLY_READ.fullmatch(path):
            return Share.COPY
        return Share.LINK

    with contextlib.ExitStack() as indexes:
        for name in carrying:
            indexes.enter_context(tar_index.copied_with(tree / name, lane / name))
        twin(tree, lane, share)
    if not inside:
        twin(rootfs.resolve(), lane / "rootfs", lambda path: share(f"rootfs/{path}"))
    (lane / "initrdlog").mkdir(mode=0o700)
    files = [lane / name for name in carrying]
    for name in carrying:
        sha1sum.copied(tree / name, lane / name)
    return Image(
        path=files[0],
        format=images.format_of(files[0]),
        also=tuple(files[1:]),
        base_sha256=base.base_sha256,
    )


def lanes_dir(tree: Path) -> Path:
    """Return the folder of a BSP's lanes: beside it, because hard links need its filesystem."""
    tree = tree.resolve()
    return tree.with_name(f"{tree.name}.lanes")


def reaching_a_device(base: Image) -> tuple[Path, ...]:
    """Return what is written to devices: flash.sh writes the sparse image, not its raw twin."""
    return tuple(path for path in (base.path, *base.also) if path.suffix != ".raw")


def findings(tree: Path, rootfs: Path, base: Image, lanes: int) -> list[Finding]:
    """Return what would keep a BSP from having lanes; change nothing."""
    if not tree.is_dir():
        return [_error(f"there is no BSP at {tree}", "give the Linux_for_Tegra folder by --bsp")]
    found = [*_tree_findings(tree, rootfs), *_base_findings(tree, base)]
    return found or list(_space_findings(tree, base, lanes))


def _tree_findings(tree: Path, rootfs: Path) -> Iterator[Finding]:
    device = tree.stat().st_dev
    if device != tree.parent.stat().st_dev:
        yield _error(
            f"{tree} is a mount point: lanes lie beside it, on the same filesystem",
            "mount that filesystem one folder higher",
        )
    for path in (lanes_dir(tree), *(tree / name for name in _FOLDERS)):
        if path.is_symlink():
            yield _error(f"{path} is a link: all lanes would share it", "move the folder there")
    if rootfs.is_dir() and rootfs.stat().st_dev != device:
        yield _error(
            f"{rootfs} lies on another filesystem than {tree}: its files cannot be linked",
            "move it to the BSP's own filesystem",
        )
    for point in {*mounts_below(tree), *mounts_below(rootfs)}:
        yield _error(f"something is mounted at {point}", f"umount {point}")


def _base_findings(tree: Path, base: Image) -> Iterator[Finding]:
    if not reaching_a_device(base):
        yield _error(f"no device can be flashed with {base.path}", _BUILD_IT)
    for path in (base.path, *base.also):
        if not path.is_file() or path.is_symlink() or tree not in path.parents:
            yield _error(f"the base {path} is not in {tree}", _BUILD_IT)
            continue
        try:
            entry = images.read_file(path, DEVICE_CONF, device_conf.LONGEST)
        except OperatorError as error:
            yield _error(error.message, _BUILD_IT)
            continue
        if entry is None or not is_placeholder(entry.data):
            yield _error(f"{path} holds no placeholder: it is not a base", _BUILD_IT)


def _space_findings(tree: Path, base: Image, lanes: int) -> Iterator[Finding]:
    files = reaching_a_device(base)
    needed = sum(path.stat().st_blocks * 512 for path in files) * lanes
    free = shutil.disk_usage(tree.parent).free
    if free < needed and not shares_blocks(files[0], tree.parent):
        yield _error(
            f"{tree.parent} has {free / 1e6:,.0f} MB free, the images of {lanes} lanes need"
            f" {needed / 1e6:,.0f} MB",
            "make room, flash fewer devices at once, or use btrfs or xfs, which share blocks",
        )


def written_meanwhile(tree: Path, rootfs: Path, since: int) -> list[str]:
    """Return the files that lanes share and that were written since then; no script should.

    Args:
        tree: the BSP's own tree.
        rootfs: the root filesystem.
        since: nanoseconds since the epoch, as st_mtime_ns.
    """
    tops = [tree] if rootfs.resolve() == tree / "rootfs" else [tree, rootfs]
    return sorted(path for top in tops for path in _written(str(top), since))


def _written(top: str, since: int) -> Iterator[str]:
    for folder, _, names in os.walk(top):
        for name in names:
            path = f"{folder}/{name}"
            with contextlib.suppress(OSError):
                at = os.lstat(path)
                if at.st_nlink > 1 and at.st_mtime_ns >= since:
                    yield path


def _error(message: str, hint: str) -> Finding:
    return Finding(message=message, hint=hint)
