"""The image: NVIDIA's scripts build it without a device, and later write it to one."""

from __future__ import annotations

from collections.abc import Sequence

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, DeviceIdentity, FlashResult, Image, StagedFile


@hookimpl
def build_image(
    build: Build, identity: DeviceIdentity, staged: Sequence[StagedFile]
) -> Image | None:
    if build.bsp_dir is None or build.stamps:
        return None
    from azaion_imagebuild.l4t.flashing import (
        flash_method,
    )  # imported late: `provision` does not need it
    from azaion_imagebuild.l4t.retry import kept_image

    kept = kept_image(build, identity, staged)
    return kept or flash_method(build, build.bsp_dir).build_image(build)


@hookimpl
def flash(build: Build) -> FlashResult | None:
    if build.bsp_dir is None:
        return None
    from azaion_imagebuild.l4t.flashing import flash_method

    return flash_method(build, build.bsp_dir).flash(build)
