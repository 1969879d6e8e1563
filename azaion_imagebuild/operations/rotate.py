"""A new credential for devices that have one: for one, where it is asked for; for all old ones."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pluggy
from msgspec import structs

from ..errors import ExitCode, UsageError
from ..identity.serial import email_for, parse_serial
from ..ledger import Credential, Ledger
from ..model import Build, BuildRecord
from ..pipeline import recipes as pipeline
from ..pipeline.events import Watcher, warnings_to
from ..pipeline.new import stamping_build
from ..pipeline.plugins import load_plugins
from ..pipeline.shared import SharedResources
from ..pipeline.target import Target
from ..settings import Settings
from ..system.files import is_own
from ..system.locks import locked
from ..text import utc
from .parts import ledger_to_read, parts_of_api, the_ledger
from .stamp import wants_sandbox
from .targets import ConfFile, ImageFile, RootfsFolder

_AGE = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>[hdw])", re.ASCII)
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_NEEDED = ("provision_identity",)

Told = Callable[[int, int, BuildRecord], None]
"""Called with number, total and record as each device has ended."""


def rotate(
    serial: str, targets: Sequence[Target], settings: Settings, watcher: Watcher
) -> BuildRecord:
    """Give one device's account a new credential, and write it into every target.

    Each target is looked at before the account is touched. The same command again ends well: it
    sets yet another credential and writes that.

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
    hook = load_plugins(settings.hooks, required=_NEEDED).hook
    if sandbox:
        _require_sandbox_device(serial, settings)
    with parts_of_api(settings) as used, the_ledger(used) as ledger:
        return pipeline.issue(_build(serial, used, sandbox), targets, hook, watcher, ledger)


def plan_all(age: timedelta, settings: Settings) -> dict[str, Any]:
    """Return, as one JSON object, which devices would get a new credential; nothing is changed.

    Raises:
        LedgerError: the ledger cannot be read.
        UsageError: no admin API is set, and there are no devices of the sandbox.
    """
    sandbox = _in_sandbox(settings)
    with ledger_to_read(settings) as ledger:
        devices = [structs.asdict(each) for each in _due(ledger, age, sandbox=sandbox)]
    return {
        "outcome": "planned",
        "sandbox": sandbox,
        "total": len(devices),
        "devices": devices,
        "exit_code": int(ExitCode.DONE),
    }


def rotate_all(
    age: timedelta, out: Path, settings: Settings, watcher: Watcher, told: Told
) -> dict[str, Any]:
    """Give every device whose credential is older than ``age`` a new one, in ``out/SERIAL.conf``.

    One failure stops no other device; the same again does those that are left.

    Args:
        age: how old a credential may be.
        out: folder of the new device.conf files, made (0700) if it is missing.
        settings: of the site.
        watcher: who is told of warnings; each device has one line only.
        told: told of each device that has ended.

    Returns:
        one JSON object: totals, and a record for each device.

    Raises:
        OperatorError: it could not begin; no account was touched.
    """
    hook = load_plugins(settings.hooks, required=_NEEDED).hook
    sandbox = _in_sandbox(settings)
    began = time.monotonic()
    records: list[BuildRecord] = []
    with (
        parts_of_api(settings) as used,
        the_ledger(used) as ledger,
        _opened_folder(out, settings.build.lock_wait),
    ):
        due = _due(ledger, age, sandbox=sandbox)
        with contextlib.suppress(KeyboardInterrupt), SharedResources() as shared:
            for each in due:
                build = structs.replace(_build(each.serial, used, sandbox), shared=shared)
                record = _one(build, out, hook, warnings_to(watcher), ledger)
                records.append(record)
                told(len(records), len(due), record)
                if record.exit_code == ExitCode.INTERRUPTED:
                    break
    return _summary(due, records, sandbox=sandbox, seconds=time.monotonic() - began) | {
        "out": str(out)
    }


def _one(
    build: Build,
    out: Path,
    hook: pluggy.HookRelay,
    watcher: Watcher,
    ledger: Ledger,
) -> BuildRecord:
    target = ConfFile(path=out / f"{build.serial}.conf", held=True)
    return pipeline.issue(build, [target], hook, watcher, ledger)


def _summary(
    due: Sequence[Credential], records: Sequence[BuildRecord], *, sandbox: bool, seconds: float
) -> dict[str, Any]:
    done = sum(record.error is None for record in records)
    stopped = any(record.exit_code == ExitCode.INTERRUPTED for record in records)
    if done == len(due):
        outcome, code = "done", ExitCode.DONE
    elif stopped or len(records) < len(due):
        outcome, code = "interrupted", ExitCode.INTERRUPTED
    else:
        outcome, code = "incomplete", ExitCode.FLEET_INCOMPLETE
    return {
        "outcome": outcome,
        "exit_code": int(code),
        "sandbox": sandbox,
        "total": len(due),
        "done": done,
        "failed": len(records) - done,
        "not_started": [each.serial for each in due[len(records) :]],
        "seconds": round(seconds, 3),
        "records": [record.as_json() for record in records],
    }


def parse_age(text: str) -> timedelta:
    """Return an age like ``90d``, ``12h`` or ``4w``.

    Raises:
        UsageError: it is none.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!a} is no age", hint="write it like 90d, 12h or 4w")
    try:
        age = timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
        _ago(age)
    except OverflowError:
        raise UsageError(
            f"{text!a} is older than any calendar", hint="write it like 90d, 12h or 4w"
        ) from None
    return age


def _due(ledger: Ledger, age: timedelta, *, sandbox: bool) -> list[Credential]:
    """Return the devices whose credential is older than ``age``, the oldest first."""
    before = utc(_ago(age).timestamp(), "microseconds")
    return [each for each in ledger.credentials(sandbox=sandbox) if each.since < before]


def _ago(age: timedelta) -> datetime:
    return datetime.now(timezone.utc) - age


def _build(serial: str, settings: Settings, sandbox: bool) -> Build:
    """Return the build of a rotation: that the device was flashed before is what it is for."""
    allowed = structs.replace(settings.ledger, reprovision="allow")
    settings = structs.replace(settings, ledger=allowed)
    return structs.replace(stamping_build(serial, settings, sandbox=sandbox), rotates=True)


def _require_sandbox_device(serial: str, settings: Settings) -> None:
    """Without an admin API only a device of the sandbox is meant; a real one is never taken for it.

    Raises:
        UsageError: the ledger knows no such device.
    """
    with ledger_to_read(settings) as ledger:
        known = ledger.standings({serial: email_for(serial)}, sandbox=True)[serial].last
    if known is None or known.outcome == "retired":
        raise UsageError(
            f"no admin API is set, and {serial} is no device of the sandbox",
            hint="give --api-url (API_URL=)",
        )


def _in_sandbox(settings: Settings) -> bool:
    if settings.admin_api.url is not None:
        return False
    with ledger_to_read(settings) as ledger:
        if not ledger.credentials(sandbox=True):
            raise UsageError(
                "no admin API is set, and the ledger knows no device of the sandbox",
                hint="give --api-url (API_URL=)",
            )
    return True


@contextlib.contextmanager
def _opened_folder(folder: Path, wait: float) -> Iterator[None]:
    """Make the folder of the new files, and hold it: two rotations do not write into one."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = is_own(folder)
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder}: {error.strerror}", hint="give another folder by --out"
        ) from None
    if not own:
        raise UsageError(
            f"{folder} belongs to another user, or everybody may write it",
            hint="give a folder of your own by --out",
        )
    with locked([folder], wait):
        yield
