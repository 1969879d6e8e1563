"""Residue: removes the images from the BSP tree and checks that the password is gone."""

from __future__ import annotations

from typing import Any

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, DeviceIdentity, Image


@hookimpl
def post_flash(build: Build, identity: DeviceIdentity, image: Image) -> dict[str, Any]:
    if build.bsp_dir is None:
        return {}
    from azaion_imagebuild.l4t.cleanup import (
        clean_up,
    )  # imported late: `provision` does not need it

    said = clean_up(build, identity, image, build.bsp_dir)
    if not build.flash:
        from azaion_imagebuild.l4t.handover import flash_later

        said["flash_command"] = flash_later(build, build.bsp_dir)
    return said


@hookimpl
def build_failed(build: Build) -> None:
    if build.bsp_dir is not None and build.bsp_dir.is_dir():
        from azaion_imagebuild.l4t.base_image import has_base
        from azaion_imagebuild.l4t.cleanup import remove_images_since
        from azaion_imagebuild.l4t.retry import is_kept

        if build.stamps and has_base(build.bsp_dir):
            return  # hooks/base.py has restored the placeholder
        if is_kept(build.bsp_dir):
            return  # it holds no identity
        remove_images_since(build.bsp_dir, build.began)
