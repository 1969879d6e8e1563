"""The command with which a site flashes an image that was built with ``FLASH=0``."""

from __future__ import annotations

import shlex
from pathlib import Path

from msgspec import structs

from ..model import Build
from .flashing import flash_method


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
    variables = [f"{name}={shlex.quote(value)}" for name, value in environ.items()]
    return f"cd {shlex.quote(str(tree))} && sudo {' '.join(variables)} {shlex.join(call)}"
