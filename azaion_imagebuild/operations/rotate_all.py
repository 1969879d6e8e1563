"""A new credential for every device whose credential is old."""

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
from ..ledger import Credential, Ledger
from ..model import Build, BuildRecord
from ..pipeline import recipes as pipeline
from ..pipeline.events import Watcher, warnings_to
from ..pipeline.plugins import load_plugins
from ..pipeline.shared import SharedResources
from ..settings import Settings
from ..system.files import distrust
from ..system.locks import locked
from ..system.signals import (
    hold_to_the_end,
    interruptible,
    is_stopping,
    let_threads_go_on,
    noted,
)
from ..text import utc
from .file_target import ConfFile
from .parts import ledger_to_read, parts_of_api, the_ledger
from .rotate import NEEDED, rotation_build

_AGE = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>[hdw])", re.ASCII)
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}

Told = Callable[[int, int, BuildRecord], None]
"""Called with number, total and record whenever a device has ended."""


def plan_all(age: timedelta, settings: Settings) -> dict[str, Any]:
    """Return which devices would get a new credential, as a JSON object; change nothing.

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

    A failure does not stop the other devices; the same command again does the rest.

    Args:
        age: how old a credential may be.
        out: folder of the new device.conf files, made (0700) if it is missing.
        settings: of the site.
        watcher: who is told of warnings; each device has one line only.
        told: called whenever a device has ended.

    Returns:
        one JSON object: totals, and a record for each device.

    Raises:
        OperatorError: it could not begin; no account was touched.
    """
    hook = load_plugins(settings.hooks, required=NEEDED).hook
    sandbox = _in_sandbox(settings)
    began = time.monotonic()
    records: list[BuildRecord] = []
    with (
        parts_of_api(settings) as used,
        the_ledger(used) as ledger,
        _opened_folder(out, settings.build.lock_wait),
    ):
        due = _due(ledger, age, sandbox=sandbox)
        with _until_stopped(), SharedResources() as shared:
            for each in due:
                if is_stopping():
                    break
                with interruptible():
                    build = rotation_build(each.serial, used, sandbox)
                    build = structs.replace(build, shared=shared)
                    records.append(_one(build, out, hook, warnings_to(watcher), ledger))
                told(len(records), len(due), records[-1])
                if records[-1].exit_code == ExitCode.INTERRUPTED:
                    break
    return _summary(due, records, sandbox=sandbox, seconds=time.monotonic() - began) | {
        "out": str(out)
    }


@contextlib.contextmanager
def _until_stopped() -> Iterator[None]:
    """Let signals stop a loop, but lose nothing of what it has done: that is still told."""
    let_threads_go_on()
    with noted():
        try:
            with contextlib.suppress(KeyboardInterrupt):
                yield
        finally:
            hold_to_the_end()


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
        UsageError: it is not valid.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"invalid age {text!a}", hint="write it like 90d, 12h or 4w")
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


def _in_sandbox(settings: Settings) -> bool:
    if settings.admin_api.url is not None:
        return False
    with ledger_to_read(settings) as ledger:
        if not ledger.credentials(sandbox=True):
            raise UsageError(
                "no admin API is set, and the ledger has no device of the sandbox",
                hint="give --api-url (API_URL=)",
            )
    return True


@contextlib.contextmanager
def _opened_folder(folder: Path, wait: float) -> Iterator[None]:
    """Create and lock the folder of the new files: two rotations must not write into one."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        wrong = distrust(folder)
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder}: {error.strerror}", hint="give another folder by --out"
        ) from None
    if wrong is not None:
        raise UsageError(
            f"cannot write into {folder}: {wrong[0]}",
            hint=f"{wrong[1]}; or give a folder of your own by --out",
        )
    with locked([folder], wait):
        yield
