"""The host's side of ``l4t_initrd_flash.sh``, done once for all lanes.

NVIDIA's wrapper numbers devices in the order found and flashes them all from one tree. Lanes need
their own numbers and trees, so the script that it starts for each device is started by us
(:class:`.flashing.InitrdFlash`), and the rest of its work is done here. As read in R35 and R36
(``tools/kernel_flash``: ``l4t_initrd_flash.sh``, ``l4t_network_flash.func``):

- It links ``host_udev/*.rules`` into ``/etc/udev/rules.d`` (NetworkManager must leave the devices'
  network alone) and removes the links at the end.
- It, or in R35 the script for each device, exports the tree by NFS (see :mod:`.nfs_exports`).
- Newer ones set USB autosuspend to -1 meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import FlashError, PreflightError
from ..model import Build, Finding
from ..system.files import read_text
from .bsp import INITRD_FLASH_SH, INITRD_INTERNAL_SH
from .initrd_host import Host, host_of
from .nfs_exports import export, unexport
from .releases import flashes_unified, network_of

PARAMETERS = "tools/kernel_flash/initrdflashparam.txt"
"""The arguments with which the packages were built, written by the wrapper."""
BOOT_IMAGES = "tools/kernel_flash/initrdflashimgmap.txt"
"""``flashimg<number>=<file>`` for each device that was packed for (``--massflash``)."""
ENVIRON = {"initrd_flash_step": "1"}
"""What the wrapper exports to the script for each device."""


def findings(build: Build, tree: Path, numbers: Sequence[int]) -> Iterator[Finding]:
    """Return what would keep lanes of ``tree`` from being flashed; change nothing."""
    if not os.access(tree / INITRD_INTERNAL_SH, os.X_OK):
        yield _error(
            f"the BSP has no {INITRD_INTERNAL_SH}", "this release cannot be flashed in lanes"
        )
    if flashes_unified(tree, build.settings.bsp.board):
        yield _error(
            f"{build.settings.bsp.board} uses unified flash, which has no lanes",
            "flash one device at a time",
        )
    if build.settings.bsp.network not in ("usb0", ""):
        yield _error(
            f"[bsp] network is {build.settings.bsp.network!a}: only over USB can the devices of"
            " several lanes be told apart",
            'set [bsp] network = "usb0"',
        )
    if network_of(build) and not host_of(build).has("exportfs"):
        yield _error(
            "exportfs is not installed: devices are flashed over NFS",
            "sudo apt-get install nfs-kernel-server",
        )
    try:
        packed_parameters(tree, build)
    except FlashError as error:
        yield _error(error.message, error.hint)
    missing = [number for number in numbers if number not in _packed_numbers(tree)]
    if missing:
        yield _error(
            f"the base was packed for {missing[0]} of the {len(numbers)} devices",
            f"set [bsp] massflash = {len(numbers)} and rebuild it: azaion-imagebuild base",
        )


def packed_parameters(tree: Path, build: Build) -> list[str]:
    """Return the arguments with which the packages of a tree were built.

    Raises:
        FlashError: there are none, or they are of another board.
    """
    try:
        words = shlex.split(read_text(tree / PARAMETERS))
    except (OSError, ValueError):
        words = []
    wanted = [build.settings.bsp.board, build.settings.bsp.rootdev]
    if words[-2:] != wanted:
        raise FlashError(
            f"{tree / PARAMETERS} is not of packages for {' '.join(wanted)}",
            hint="rebuild the base: azaion-imagebuild base",
        )
    return words


def _packed_numbers(tree: Path) -> set[int]:
    try:
        text = read_text(tree / BOOT_IMAGES)
    except OSError:
        return set()
    return {int(number) for number in re.findall(r"^flashimg([0-9])=", text, re.MULTILINE)}


@contextlib.contextmanager
def host_prepared(build: Build, tree: Path, lanes: Mapping[int, Path]) -> Iterator[None]:
    """Prepare the host for the devices of lanes; undo all of it at the end.

    Only for the holder of :func:`.initrd_host.exclusive`. What a killed run left is removed first.

    Args:
        build: of the fleet.
        tree: the BSP's own tree.
        lanes: device instance → the lane's tree, in ``FOLDER/<USB instance>/``.

    Raises:
        PreflightError: the host cannot export the lanes.
        StagingError: a part of it could not be undone.
    """
    host = host_of(build)
    folder = next(iter(lanes.values())).parent.parent
    with contextlib.ExitStack() as undo:
        try:
            _link_rules(host, tree, undo)
            _keep_awake(host, tree, undo)
            if network_of(build):
                unexport(host, folder)
                undo.callback(unexport, host, folder)
                export(host, lanes)
        except OSError as error:
            raise PreflightError(
                f"cannot prepare the host: {error.strerror} ({error.filename})",
                hint="an initrd flash writes into /etc/udev/rules.d and /etc/exports.d",
            ) from None
        yield


def _link_rules(host: Host, tree: Path, undo: contextlib.ExitStack) -> None:
    """Link the BSP's udev rules; a site's own file with that name stays."""
    for rule in sorted((tree / "tools/kernel_flash/host_udev").glob("*.rules")):
        link = host.udev_rules / rule.name
        if link.is_symlink() and link.readlink().parent.name == "host_udev":
            link.unlink()  # of a killed run
        if link.is_symlink() or link.exists():
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(rule.resolve())
        undo.callback(link.unlink, missing_ok=True)


def _keep_awake(host: Host, tree: Path, undo: contextlib.ExitStack) -> None:
    """Keep the kernel from suspending USB devices, if this BSP's own wrapper does so."""
    try:
        does_so = "autosuspend" in read_text(tree / INITRD_FLASH_SH)
        before = read_text(host.autosuspend)
    except OSError:
        return
    if does_so and before.strip() != "-1":
        host.autosuspend.write_text("-1\n")
        undo.callback(host.autosuspend.write_text, before)


def _error(message: str, hint: str) -> Finding:
    return Finding(message=message, hint=hint)
