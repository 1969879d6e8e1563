"""[image] inject = "stamp": a base built once, each device's identity stamped into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import DEVICE_CONF, Build, DeviceIdentity, Image, Ownership, StagedFile


@hookimpl
def pre_flash(
    build: Build, identity: DeviceIdentity, ownership: Ownership
) -> list[StagedFile] | None:
    if not _stamps(build):
        return None
    from azaion_imagebuild.images import stamp  # imported late: only stamping needs it

    return [stamp.to_be_stamped(stamp.stamped_content(build, identity), ownership)]


@hookimpl
def build_image(
    build: Build, identity: DeviceIdentity, staged: Sequence[StagedFile]
) -> Image | None:
    if not _stamps(build):
        return None
    from azaion_imagebuild.images import stamp
    from azaion_imagebuild.l4t import base_image

    (conf,) = (each for each in staged if each.path == DEVICE_CONF)
    image = base_image.current_base(build, conf.ownership)
    base_image.stamp_base(build, image, stamp.stamped_content(build, identity))
    return image


@hookimpl
def post_flash(build: Build, image: Image) -> dict[str, Any] | None:
    if not _stamps(build):
        return None
    from azaion_imagebuild.l4t import base_image

    kept = build.keeps_image or not build.flash
    return {"cleared": base_image.clear_base(build, keep=image.path if kept else None)}


@hookimpl
def build_failed(build: Build) -> None:
    if _stamps(build):
        from azaion_imagebuild.l4t import base_image

        base_image.clear_base(build)


def _stamps(build: Build) -> bool:
    return build.stamps and build.bsp_dir is not None
