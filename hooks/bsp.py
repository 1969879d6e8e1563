"""The BSP: looks whether it is ready, and gives back what its scripts leave attached."""

from __future__ import annotations

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, Finding


@hookimpl
def preflight(build: Build) -> list[Finding]:
    if build.bsp_dir is None:  # only the rootfs is provisioned
        return []
    from azaion_imagebuild.l4t.bsp import LinuxForTegra  # late: `provision` needs none

    return LinuxForTegra(build.bsp_dir).findings(build)


@hookimpl
def cleanup(build: Build) -> None:
    if build.bsp_dir is not None and build.bsp_dir.is_dir():
        from azaion_imagebuild.l4t.cleanup import give_back
        from azaion_imagebuild.lanes.lane import remove_lanes

        remove_lanes(build.bsp_dir, build.settings.build.lock_wait)  # of a fleet that was killed
        give_back(build.bsp_dir)
