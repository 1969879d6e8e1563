"""The proof: reads device.conf back out of every file that holds the finished image."""

from __future__ import annotations

from collections.abc import Sequence

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import (
    DEVICE_CONF,
    Build,
    DeviceIdentity,
    Finding,
    Image,
    StagedFile,
)


@hookimpl
def verify_image(
    build: Build, identity: DeviceIdentity, staged: Sequence[StagedFile], image: Image
) -> list[Finding]:
    from azaion_imagebuild import device_conf, images  # late: `provision` needs none
    from azaion_imagebuild.proof import prove

    (ownership,) = (each.ownership for each in staged if each.path == DEVICE_CONF)
    return [
        finding
        for path in (image.path, *image.also)
        for finding in prove(
            images.read_file(path, DEVICE_CONF, device_conf.LONGEST),
            str(path),
            email=build.email,
            owner=(ownership.uid, ownership.gid),
            password=identity.password,
        )
    ]
