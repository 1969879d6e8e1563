"""Why devices failed; failures that differ only in names and numbers have one cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

NOT_DONE = ("failed", "unknown")
"""Outcomes with a cause; a device that was not started has none."""

_LONGEST = 2000  # compared characters of a message
_OWN = ("image", "email", "attempt", "serial", "ecid", "device", "usb_instance")
_PATH = re.compile(r"/(?:[^\s'\",;:()/]+/)+(?=[^\s'\",;:()/])")
_NUMBER = re.compile(
    r"(?P<kept>\b(?:HTTP|ended with|exit|exit code|code|errno|signal) -?\d{1,3}\b)"
    r"|0x[0-9a-f]+|\b(?=[a-f]*\d)[0-9a-f]{8,}\b|\d+(?:[.:]\d+)*",
    re.IGNORECASE,
)
_NOBODY_SAW = (
    "nobody saw how it ended",
    "check the device, then record what you found: azaion-imagebuild ledger resolve SERIAL …",
)


class Cause(Struct, frozen=True, kw_only=True):
    """A cause, and the devices that failed because of it."""

    outcome: str
    step: str
    error: str
    """What is wrong, by the first device's message."""
    hint: str
    exit_code: int | None
    same: bool
    """All devices have exactly the same error and hint."""
    devices: tuple[tuple[int, str], ...]
    """(index in the records, serial) of each, in the order of the records."""


def find_causes(records: Iterable[Mapping[str, Any]]) -> list[Cause]:
    """Return the causes of all failures, the most frequent first."""
    members: dict[tuple[object, ...], list[tuple[int, Mapping[str, Any]]]] = {}
    for place, record in enumerate(records):
        if record.get("outcome") in NOT_DONE:
            members.setdefault(_key(record), []).append((place, record))
    return sorted(map(_cause, members.values()), key=lambda cause: -len(cause.devices))


def said(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return a record's error and hint, or defaults."""
    error, hint = record.get("error"), record.get("hint")
    if not error and record.get("outcome") == "unknown":
        return _NOBODY_SAW
    return str(error or "it gave no reason"), str(hint or "read its log")


def _key(record: Mapping[str, Any]) -> tuple[object, ...]:
    own = [str(value) for name in _OWN if len(str(value := record.get(name) or "")) > 2]
    error, hint = said(record)
    where = (record.get("outcome"), record.get("step"), record.get("exit_code"))
    return (*map(str, where), _pattern(error, own), _pattern(hint, own))


def _pattern(text: str, own: list[str]) -> str:
    """Return a message without what differs from device to device.

    The device's names, the folders of a path (its last name stays) and numbers are removed. A
    status stays, because HTTP 401 and HTTP 503 need different remedies.
    """
    text = text[:_LONGEST]
    for value in own:
        text = text.replace(value, "…")
    text = _PATH.sub("…/", text)
    return _NUMBER.sub(lambda found: found["kept"] or "#", text)


def _cause(members: list[tuple[int, Mapping[str, Any]]]) -> Cause:
    first = members[0][1]
    error, hint = said(first)
    return Cause(
        outcome=str(first.get("outcome")),
        step=str(first.get("step") or ""),
        error=error,
        hint=hint,
        exit_code=first.get("exit_code"),
        same=all(said(record) == (error, hint) for _, record in members),
        devices=tuple((place, str(record.get("serial"))) for place, record in members),
    )
