"""The BSP: checks that it is ready, and releases what its scripts leave mounted or attached."""

from __future__ import annotations

from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import FlashError, raise_for
from azaion_imagebuild.model import Build, DeviceIdentity, Finding


@hookimpl
def preflight(build: Build) -> list[Finding]:
    if build.bsp_dir is None:  # only the rootfs is provisioned
        return []
    from azaion_imagebuild.l4t.bsp import (
        LinuxForTegra,  # imported late: `provision` does not need it
    )

    return LinuxForTegra(build.bsp_dir).findings(build)


@hookimpl(tryfirst=True)
def activate_identity(build: Build, identity: DeviceIdentity) -> bool:
    """Check again that the flash can begin: after this, only a flash lets the device log in.

    Building takes minutes, in which the device can leave, or another flash can begin on this host.
    """
    if build.bsp_dir is not None and build.flash and identity.pending is not None:
        from azaion_imagebuild.l4t.initrd_host import exclusive
        from azaion_imagebuild.l4t.usb import lasting_findings

        if build.settings.bsp.method == "initrd" and build.lane is None:
            with exclusive(build):
                pass
        raise_for(lasting_findings(build), FlashError)
    return False


@hookimpl
def cleanup(build: Build) -> None:
    if build.bsp_dir is not None and build.bsp_dir.is_dir():
        from azaion_imagebuild.l4t.cleanup import release
        from azaion_imagebuild.lanes.lane import remove_lanes

        remove_lanes(build.bsp_dir, build.settings.build.lock_wait)  # left by a killed fleet
        release(build.bsp_dir)
