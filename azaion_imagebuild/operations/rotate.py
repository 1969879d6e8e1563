"""A new credential for one device, written into the targets that the operator names."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from ..errors import UsageError
from ..identity.serial import email_for, parse_serial
from ..model import Build, BuildRecord
from ..pipeline import recipes as pipeline
from ..pipeline.events import Watcher
from ..pipeline.new import stamping_build
from ..pipeline.plugins import load_plugins
from ..pipeline.target import Target
from ..settings import Settings
from .image_target import ImageFile
from .parts import ledger_to_read, parts_of_api, the_ledger
from .rootfs_target import RootfsFolder
from .stamp import wants_sandbox

NEEDED = ("provision_identity",)


def rotate(
    serial: str, targets: Sequence[Target], settings: Settings, watcher: Watcher
) -> BuildRecord:
    """Give one device's account a new credential, and write it into every target.

    Each target is checked before the account is touched. Repeating the command is safe: it sets yet
    another credential and writes that.

    Raises:
        UsageError: the serial, the targets or the settings are wrong; nothing has been done.
    """
    serial = parse_serial(serial, settings.serial.pattern)
    if not targets:
        raise UsageError(
            "a new password that is written nowhere locks the device out",
            hint="say where to: --rootfs-dir, --image or --device-conf, or several of them",
        )
    sandbox = settings.admin_api.url is None
    for target in targets:
        if isinstance(target, ImageFile | RootfsFolder):
            wants_sandbox(target.path, settings)
    hook = load_plugins(settings.hooks, required=NEEDED).hook
    if sandbox:
        _require_sandbox_device(serial, settings)
    with parts_of_api(settings) as used, the_ledger(used) as ledger:
        return pipeline.issue(rotation_build(serial, used, sandbox), targets, hook, watcher, ledger)


def rotation_build(serial: str, settings: Settings, sandbox: bool) -> Build:
    """Return the build of a rotation: a device that was flashed before is expected."""
    allowed = structs.replace(settings.ledger, reprovision="allow")
    settings = structs.replace(settings, ledger=allowed)
    return structs.replace(stamping_build(serial, settings, sandbox=sandbox), rotates=True)


def _require_sandbox_device(serial: str, settings: Settings) -> None:
    """Refuse a serial that was not built in the sandbox: without an admin API only those count.

    Raises:
        UsageError: the ledger has no such device.
    """
    with ledger_to_read(settings) as ledger:
        known = ledger.standings({serial: email_for(serial)}, sandbox=True)[serial].last
    if known is None or known.outcome == "retired":
        raise UsageError(
            f"no admin API is set, and {serial} was not built in the sandbox",
            hint="give --api-url (API_URL=)",
        )
