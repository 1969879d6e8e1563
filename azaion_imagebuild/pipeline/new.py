"""Making a new Build from a serial and the settings."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from msgspec import structs

from ..config.state_dir import state_dir_of
from ..identity.serial import email_for
from ..model import BASE, Build
from ..settings import Settings


def device_build(serial: str, settings: Settings, *, sandbox: bool) -> Build:
    """Return the build of a device's image in the settings' BSP."""
    bsp_dir = settings.bsp.dir
    assert bsp_dir is not None  # noqa: S101 - operations.parts has checked it
    return structs.replace(
        rootfs_build(serial, settings, settings.bsp.rootfs_dir or bsp_dir / "rootfs"),
        bsp_dir=bsp_dir,
        sandbox=sandbox,
        fuse=settings.build.fuse,
        stamps=settings.image.inject == "stamp",
        packed_for=settings.bsp.massflash,
    )


def base_build(settings: Settings, *, sandbox: bool, lanes: int = 1) -> Build:
    """Return the build of an image with a placeholder, which is never flashed.

    Args:
        settings: of the site; ``[bsp] massflash`` says for how many devices at once it is packed.
        sandbox: it is built in the sandbox.
        lanes: how many devices need it at once, if they are more.
    """
    build = device_build(BASE, settings, sandbox=sandbox)
    return structs.replace(
        build,
        is_base=True,
        log_dir=state_dir_of(settings) / "logs" / "base" / build.attempt,
        flash=False,
        packed_for=max(build.packed_for, lanes),
    )


def stamping_build(serial: str, settings: Settings, *, sandbox: bool = False) -> Build:
    """Return the build of a device whose finished image is stamped: it uses no rootfs."""
    build = rootfs_build(serial, settings, Path(os.devnull))
    return structs.replace(build, sandbox=sandbox, stamps=True)


def rootfs_build(serial: str, settings: Settings, rootfs_dir: Path) -> Build:
    """Return the build that only stages an identity into a rootfs."""
    attempt = unique_name()
    return Build(
        serial=serial,
        email=email_for(serial),
        attempt=attempt,
        settings=settings,
        rootfs_dir=rootfs_dir,
        log_dir=state_dir_of(settings) / "logs" / serial / attempt,
        flash=settings.build.flash,
    )


def unique_name() -> str:
    """Return a name that no other attempt or fleet has; names sort by their time (UTC)."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(6)}"
