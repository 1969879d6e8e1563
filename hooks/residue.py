"""Residue: takes the images out of the BSP tree, and looks whether the password is gone."""

from __future__ import annotations

from typing import Any

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, DeviceIdentity, Image


@hookimpl
def post_flash(build: Build, identity: DeviceIdentity, image: Image) -> dict[str, Any]:
    if build.bsp_dir is None:
        return {}
    from azaion_imagebuild.l4t.cleanup import clear_after  # late: `provision` needs none

    return clear_after(build, identity, image, build.bsp_dir)


@hookimpl
def build_failed(build: Build) -> None:
    if build.bsp_dir is not None and build.bsp_dir.is_dir():
        from azaion_imagebuild.l4t import base_image as bases
        from azaion_imagebuild.l4t import image_files as residue

        if build.stamps and bases.has_base(build.bsp_dir):
            return  # the plug-in base has put the placeholder back
        residue.remove(build.bsp_dir, since=build.began)
