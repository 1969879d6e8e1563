"""The command with which a site flashes an image that was built with ``FLASH=0``."""

from __future__ import annotations

import shlex
from pathlib import Path

from msgspec import structs

from ..model import Build
from .flashing import flash_method

_SHOWN = (
    "USER", "BOARDID", "FAB", "BOARDSKU", "BOARDREV", "CHIPREV", "CHIP_SKU", "RAMCODE_ID",
    "EMC_FUSE", "ROOTFS_AB", "ROOTFS_ENC", "ROOTFS_RETRY_COUNT_MAX", "SKIP_EEPROM_CHECK",
)  # fmt: skip
"""Variables of NVIDIA's scripts that hold no secret; a value of any other one may be a key."""


def flash_later(build: Build, tree: Path) -> str:
    """Return the shell line that flashes the proven image.

    NVIDIA's scripts check the variable USER, not the user, and must be started in the tree. A
    rootfs overlay is gone by then: ``-R`` names the configured rootfs.
    """
    if build.overlays:
        rootfs = build.settings.bsp.rootfs_dir or tree / "rootfs"
        build = structs.replace(build, rootfs_dir=rootfs)
    call = flash_method(build, tree).flash_command(build)
    environ = {**build.settings.bsp.environment, "USER": "root"}
    variables = [f"{name}={_shown(name, value)}" for name, value in environ.items()]
    return f"cd {shlex.quote(str(tree))} && sudo {' '.join(variables)} {shlex.join(call)}"


def _shown(name: str, value: str) -> str:
    """Return a value for the shell; one that may be secret as the variable of who runs the line."""
    return shlex.quote(value) if name in _SHOWN else f'"${name}"'
