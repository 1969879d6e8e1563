"""NVIDIA's flash.sh: builds the image without a device, later writes it to one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, Finding, FlashResult, Image

if TYPE_CHECKING:
    from azaion_imagebuild.bsp import LinuxForTegra


@hookimpl
def preflight(build: Build) -> list[Finding]:
    if build.bsp_dir is None:  # only the rootfs is provisioned
        return []
    return _bsp(build.bsp_dir).findings(build)


@hookimpl
def build_image(build: Build) -> Image | None:
    return _bsp(build.bsp_dir).build_image(build) if build.bsp_dir else None


@hookimpl
def flash(build: Build) -> FlashResult | None:
    return _bsp(build.bsp_dir).flash(build) if build.bsp_dir else None


def _bsp(path: Path) -> LinuxForTegra:
    from azaion_imagebuild.bsp import LinuxForTegra  # late: `provision` needs none

    return LinuxForTegra(path)
