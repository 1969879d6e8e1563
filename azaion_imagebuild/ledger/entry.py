"""One row of the ledger, and how it is chained to the row before."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import pwd
import time
from functools import cache
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from .. import __version__
from ..model import BuildRecord
from ..secret import redact, redacted
from ..text import utc

Outcome = Literal["started", "done", "failed", "unknown", "retired"]
FIRST_HASH = "0" * 64
"""What the first row is chained to."""
_LONGEST = 4000
_UNKNOWN = "?"


class Entry(Struct, frozen=True, kw_only=True):
    """What one row says: how far an attempt had come at one moment, and all that was known then.

    The last row of an attempt holds the whole of it. Names are those of the one-line record.
    """

    attempt: str
    serial: str
    email: str
    sandbox: bool
    step: str
    """The step that is about to be done (``started``), or the last one that was reached."""
    outcome: Outcome
    """``started``: the intent, committed before the step. ``unknown``: it died while flashing, or
    the fuse command did not end well. ``done`` of the step ``fuse``: the attempt goes on after it.
    ``retired``: the device is out of use, its serial and its account are free again."""
    at: str
    """UTC, as ISO 8601 with microseconds."""
    account: str | None = None
    """``created`` or ``updated``: from then on the account's password is of this attempt."""
    credential: str | None = None
    """A fingerprint of the password (:meth:`.Secret.fingerprint`), never the password."""
    image: str | None = None
    image_format: str | None = None
    image_sha256: str | None = None
    base_sha256: str | None = None
    """Of the image with a placeholder that the identity was stamped into."""
    proof: str | None = None
    flashed: bool = False
    device: str | None = None
    usb_instance: str | None = None
    ecid: str | None = None
    """The chip's id, where it is known."""
    seconds: float | None = None
    exit_code: int | None = None
    error: str | None = None
    station: str | None = None
    operator: str | None = None
    host: str | None = None
    process: str | None = None
    """Who does it (:func:`this_process`): by this a dead attempt is told from a living one."""
    version: str | None = None
    release: str | None = None
    """The BSP's, e.g. ``R35.3.1``."""
    board: str | None = None
    extra: str | None = None
    """What plug-ins added to the record, as JSON."""

    @classmethod
    def of(cls, record: BuildRecord, *, step: str, outcome: Outcome) -> Entry:
        """Return the row for what is known of a build at this moment."""
        build, settings = record.build, record.build.settings
        flashed = record.flashed
        extra = json.dumps(redacted(dict(record.extra)), default=str) if record.extra else None
        return cls(
            attempt=build.attempt,
            serial=build.serial,
            email=build.email,
            sandbox=build.sandbox,
            step=step,
            outcome=outcome,
            at=now(),
            account=record.enrolled,
            credential=record.credential,
            image=text_of(str(record.image.path)) if record.image else None,
            image_format=record.image.format if record.image else None,
            image_sha256=record.image_sha256,
            base_sha256=record.base_sha256,
            proof=record.proof,
            flashed=flashed is not None,
            device=text_of(flashed.device) if flashed else None,
            usb_instance=flashed.usb_instance if flashed else None,
            ecid=flashed.ecid if flashed else None,
            seconds=round(record.seconds, 3),
            exit_code=record.exit_code if record.error else None,
            error=text_of(redact(record.error.message)) if record.error else None,
            station=text_of(settings.ledger.station) if settings.ledger.station else None,
            operator=text_of(settings.ledger.operator or user()),
            host=this_host(),
            process=this_process(),
            version=__version__,
            release=record.release,
            board=text_of(settings.bsp.board),
            extra=extra,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        row = {each: getattr(self, each) for each in FIELDS}
        row["extra"] = json.loads(self.extra) if self.extra else {}
        return row

    def hash_after(self, number: int, previous: str) -> str:
        """Return the hash of this row: SHA-256 over the hash before, its number and its fields."""
        values = [getattr(self, each) for each in FIELDS]
        text = json.dumps([previous, number, *values], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


FIELDS: tuple[str, ...] = Entry.__struct_fields__


def text_of(text: str) -> str:
    """Return a text as every database takes it: UTF-8 without NUL, of a bounded length."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[:_LONGEST]


@cache
def user() -> str:
    """Return who runs this process; behind sudo, who called it."""
    behind = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    try:
        return behind or pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def now() -> str:
    """Return this moment, as ``at`` holds it."""
    return utc(time.time(), "microseconds")


@cache
def this_host() -> str:
    """Return the name of this machine."""
    return platform.node() or "?"


def this_process() -> str:
    """Return ``BOOT PID START SPACE MACHINE``, which no other process ever has.

    START is field 22 of /proc/PID/stat, SPACE the namespace in which PID counts (a container's).
    """
    return _process(os.getpid(), os.getpid())


@cache
def _process(pid: int, _fork_guard: int) -> str:
    return f"{_boot()} {pid} {_started(pid)} {_space()} {_machine()}"


def is_alive(host: str | None, process: str | None) -> bool:
    """Tell whether the process of a row still runs; one that cannot be seen is believed to."""
    if process is None:
        return True
    seen = is_running(process)
    if seen is not None:
        return seen
    boot, _, _, _, machine = _words(process)
    restarted = host == this_host() and machine in (_UNKNOWN, _machine()) and boot != _boot()
    return not restarted


def is_running(process: str) -> bool | None:
    """Tell whether a process runs; None: it is of another machine, container or boot."""
    boot, pid, started, space, _ = _words(process)
    if boot != _boot() or space not in (_UNKNOWN, _space()):
        return None
    return pid.isdigit() and _started(int(pid)) == started


def _words(process: str) -> list[str]:
    return [*process.split(" "), *[_UNKNOWN] * 5][:5]


@cache
def _space() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    return _UNKNOWN


@cache
def _machine() -> str:
    """Return a digest of the machine's id, which itself is not to be shown (machine-id(5))."""
    with contextlib.suppress(OSError):
        found = Path("/etc/machine-id").read_bytes().strip()
        if found:
            return hashlib.sha256(b"azaion-imagebuild machine\0" + found).hexdigest()[:16]
    return _UNKNOWN


@cache
def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return _UNKNOWN


def _started(pid: int) -> str:
    try:
        # The program's name, in parentheses, may hold spaces and parentheses itself.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone"
    return "gone" if words[0] in ("Z", "X") else words[19]
