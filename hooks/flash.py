"""The image: has NVIDIA's scripts build it without a device, and later write it to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, FlashResult, Image

if TYPE_CHECKING:
    from azaion_imagebuild.flashing import FlashSh, InitrdFlash


@hookimpl
def build_image(build: Build) -> Image | None:
    method = _method(build)
    return method.build_image(build) if method else None


@hookimpl
def flash(build: Build) -> FlashResult | None:
    method = _method(build)
    return method.flash(build) if method else None


def _method(build: Build) -> FlashSh | InitrdFlash | None:
    if build.bsp_dir is None:  # only the rootfs is provisioned
        return None
    from azaion_imagebuild.flashing import FlashSh, InitrdFlash  # late: `provision` needs none

    method = InitrdFlash if build.settings.bsp.method == "initrd" else FlashSh
    return method(build.bsp_dir)
