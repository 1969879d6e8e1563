"""Building a device's image, a base, or only its device.conf."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from ..errors import UsageError
from ..identity.serial import parse_serial
from ..model import BuildRecord
from ..pipeline import recipes as pipeline
from ..pipeline.events import Watcher
from ..pipeline.hookspecs import REQUIRED, STAGING
from ..pipeline.new import base_build, device_build, rootfs_build
from ..pipeline.plugins import load_plugins
from ..settings import Settings
from .parts import parts, the_ledger


def build_image(serial: str, settings: Settings, watcher: Watcher) -> BuildRecord:
    """Build, prove and flash one device's image; in the sandbox when no BSP and no API are set.

    Raises:
        UsageError: the serial or the settings are wrong; nothing has been done.
    """
    serial = parse_serial(serial, settings.serial.pattern)
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    with parts(settings) as (used, sandbox), the_ledger(settings) as ledger:
        build = device_build(serial, used, sandbox=sandbox)
        return pipeline.run(build, hook, watcher, ledger)


def build_base(settings: Settings, watcher: Watcher, out: Path | None) -> BuildRecord:
    """Build an image with a placeholder instead of an identity; copy it to ``out`` if given.

    Raises:
        UsageError: the settings are wrong, or ``out`` cannot be created; nothing has been done.
        ImageBuildError: the image was built, but cannot be copied.
    """
    from ..images.copy import check_new_file, copy_image  # imported late: `provision` needs none

    if out is not None:
        check_new_file(out)
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    with parts(settings) as (used, sandbox):
        record = pipeline.build_base(base_build(used, sandbox=sandbox), hook, watcher)
    if out is None or record.image is None or record.error is not None:
        return record
    copy_image(record.image.path, out)
    return structs.replace(record, image=structs.replace(record.image, path=out, also=()))


def provision(serial: str, settings: Settings, watcher: Watcher) -> BuildRecord:
    """Create or update the account and write device.conf, which stays (runbook, step 4).

    Raises:
        UsageError: the serial or the settings are wrong; nothing has been done.
    """
    serial = parse_serial(serial, settings.serial.pattern)
    rootfs_dir = settings.bsp.rootfs_dir
    if rootfs_dir is None or settings.admin_api.url is None:
        raise UsageError(
            "provision needs an admin API and a rootfs",
            hint="give --api-url and --rootfs-dir, or try the sandbox: azaion-imagebuild image",
        )
    hook = load_plugins(settings.hooks, required=STAGING).hook
    return pipeline.provision(rootfs_build(serial, settings, rootfs_dir), hook, watcher)
