"""A row of the ledger, and its hash, which includes the previous row's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from typing import Any, Literal, get_args, get_type_hints

from msgspec import Struct, structs

from .. import __version__
from ..errors import LedgerError
from ..model import BuildRecord
from ..secret import redact, redacted
from ..text import utc
from .process_id import this_host, this_process, user

Outcome = Literal["started", "done", "failed", "unknown", "retired"]
FIRST_HASH = "0" * 64
"""The previous hash of the first row."""
_LONGEST = 4000
_WORDS = {bool: "true or false", str: "text", int: "an integer", float: "a number"}


class Entry(Struct, frozen=True, kw_only=True):
    """One row: the progress of an attempt at one moment, and all that was known then.

    The last row of an attempt has all of its facts. Names are those of the one-line record. The
    table's columns are these fields, in this order (:mod:`.schema`).
    """

    attempt: str
    serial: str
    email: str
    sandbox: bool
    step: str
    """The step that is about to run (``started``), or the last step."""
    outcome: Outcome
    """``started``: the intent, committed before the step. ``unknown``: it died while flashing, or
    the fuse command failed. ``done`` of the step ``fuse``: the attempt continues after it.
    ``retired``: the device is out of use; its serial and its account are free again."""
    at: str
    """UTC, as ISO 8601 with microseconds."""
    account: str | None = None
    """``created`` or ``updated``: the account has this attempt's password from now on."""
    credential: str | None = None
    """A fingerprint of the password (:meth:`.Secret.fingerprint`), never the password."""
    image: str | None = None
    image_format: str | None = None
    image_sha256: str | None = None
    """Digest of an image that was built with the identity (:func:`.images.digest.image_digest`)."""
    base_sha256: str | None = None
    """Digest of the image with a placeholder that the identity was stamped into."""
    proof: str | None = None
    flashed: bool = False
    device: str | None = None
    usb_instance: str | None = None
    ecid: str | None = None
    """The chip's id, if known."""
    seconds: float | None = None
    exit_code: int | None = None
    error: str | None = None
    station: str | None = None
    operator: str | None = None
    host: str | None = None
    process: str | None = None
    """:func:`.this_process` of the writer, which shows whether the attempt is still running."""
    version: str | None = None
    release: str | None = None
    """Release of the BSP, e.g. ``R35.3.1``."""
    board: str | None = None
    extra: str | None = None
    """Fields that plug-ins added to the record, as JSON."""

    @classmethod
    def of(cls, record: BuildRecord, *, step: str, outcome: Outcome) -> Entry:
        """Return the row for the present state of a build's record."""
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
        """Return the row as a JSON object.

        Raises:
            LedgerError: what plug-ins added is not JSON any more.
        """
        row = {each: getattr(self, each) for each in FIELDS}
        row["extra"] = self._extra()
        return row

    def _extra(self) -> dict[str, Any]:
        extra: object = None
        with contextlib.suppress(ValueError, RecursionError):
            extra = json.loads(self.extra or "{}")
        if isinstance(extra, dict):
            return extra
        raise LedgerError(
            f"a row of {self.serial} was altered: extra is not a JSON object",
            hint="find every change: azaion-imagebuild ledger verify",
        )

    def hash_after(self, number: int, previous: str) -> str:
        """Return the hash of this row: SHA-256 of the previous hash, its number and its fields."""
        values = [getattr(self, each) for each in FIELDS]
        text = json.dumps([previous, number, *values], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


FIELDS: tuple[str, ...] = Entry.__struct_fields__
OUTCOMES: tuple[str, ...] = get_args(Outcome)


def _kinds(name: str, hints: dict[str, Any]) -> tuple[type, ...]:
    kinds = get_args(hints[name]) or (hints[name],)
    return tuple(each if isinstance(each, type) else str for each in kinds)


KINDS = {name: _kinds(name, hints) for hints in [get_type_hints(Entry)] for name in FIELDS}
"""Field → the types of its values, with NoneType if it may be missing."""

_sound: set[tuple[type, ...]] = set()  # types of rows that were found to be valid


def odd_hash(seal: object) -> list[str]:
    """Return what is wrong with the type of a row's hash."""
    return [] if type(seal) is str else [f"hash is {ascii(seal)[:60]}, not text"]


def odd_number(number: object) -> list[str]:
    """Return what is wrong with the type of a row's number."""
    found = ascii(number)[:60]
    return [] if type(number) is int else [f"its number is {found}, not a whole number"]


def odd_values(entry: Entry) -> list[str]:
    """Return what is wrong with the types of a row's values from a database.

    SQLite stores any value in any column, and a query may see another value than the hash does.
    """
    values = structs.astuple(entry)
    kinds = tuple(map(type, values))
    if kinds in _sound:
        return []
    found = [
        f"{name} is {ascii(value)[:60]}, not {_WORDS[KINDS[name][0]]}"
        for name, value, kind in zip(FIELDS, values, kinds, strict=True)
        if kind not in KINDS[name]
    ]
    if not found:
        _sound.add(kinds)
    return found


def text_of(text: str) -> str:
    """Return text that every database can store: UTF-8 without NUL, at most 4,000 characters."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[:_LONGEST]


def now() -> str:
    """Return the current time in the format of ``at``."""
    return utc(time.time(), "microseconds")
