"""A fleet's report as one HTML page that runs no script, loads nothing, and can be printed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..shipped import shipped
from ..text import counted, local_time, visible, word
from .causes import NOT_DONE, find_causes, said
from .durations import Axis, device_median, spoken, step_times
from .totals import Totals, percent

if TYPE_CHECKING:
    import jinja2

_GROUP = 500
"""Devices in one table: a browser lays out only the tables that are open."""

_CAUSES = 50
"""Causes shown; the table has the rest."""

_KINDS = {"done": "done", "done before": "before", "failed": "failed", "unknown": "unknown"}
_LONGEST = 1000  # characters shown of an error; report.json has all of it
_LONGEST_CELL = 300  # and in the table


class Row(Struct, frozen=True, kw_only=True):
    """One device, as the table shows it."""

    place: int
    serial: str
    email: str
    kind: str
    """The outcome's name in the page's style sheet."""
    outcome: str
    account: str
    device: str
    ecid: str
    format: str
    digest: str
    """Of the image, or of the base that it was stamped into."""
    ledger: str
    lane: str
    began: str
    took: str
    step: str
    error: str


def chunks(fleet: Mapping[str, Any]) -> Iterator[str]:
    """Yield the page in pieces."""
    pieces = _template().stream(_context(fleet))
    pieces.enable_buffering(500)
    yield from pieces


@cache
def _template() -> jinja2.Template:
    import jinja2  # imported late: other commands do not need it

    environment = jinja2.Environment(
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "spoken": spoken,
        "digits": "{:,}".format,
        "counted": counted,
    }
    return environment.from_string((shipped("templates") / "report.html").read_text("utf-8"))


def _finalized(value: Any) -> Any:
    """Escape control characters in every value of the page, except markup."""
    return value if hasattr(value, "__html__") else visible(word(value), _LONGEST)


def _context(fleet: Mapping[str, Any]) -> dict[str, Any]:
    records = fleet.get("records") or []
    times = step_times(records)
    causes = find_causes(records)
    return {
        "outcome": word(fleet.get("outcome")),
        "sandbox": bool(fleet.get("sandbox")),
        "version": word(fleet.get("version")),
        "totals": Totals.of(fleet),
        "facts": _facts(fleet),
        "device_median": device_median(records),
        "causes": causes[:_CAUSES],
        "other_causes": len(causes[_CAUSES:]),
        "times": times,
        "axis": Axis.over(times),
        "groups": [_group(records, start) for start in range(0, len(records), _GROUP)],
        "rows": lambda group: _rows(records, group, _time(fleet.get("began"))[:10]),
    }


def _facts(fleet: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return who ran it, where and when; omit unknown facts."""
    facts = [
        ("began", _time(fleet.get("began"))),
        ("ended", _time(fleet.get("ended"))),
        ("station", word(fleet.get("station"))),
        ("host", word(fleet.get("host"))),
        ("operator", word(fleet.get("operator"))),
    ]
    return [(name, value) for name, value in facts if value]


def _group(records: Sequence[Mapping[str, Any]], start: int) -> dict[str, Any]:
    members = records[start : start + _GROUP]
    return {
        "start": start,
        "count": len(members),
        "first": members[0].get("serial"),
        "last": members[-1].get("serial"),
        "missing": sum(not str(each.get("outcome")).startswith("done") for each in members),
    }


def _rows(
    records: Sequence[Mapping[str, Any]], group: Mapping[str, Any], today: str
) -> Iterator[Row]:
    start = group["start"]
    for place, record in enumerate(records[start : start + _GROUP], start):
        yield _row(place, record, today)


def _row(place: int, record: Mapping[str, Any], today: str) -> Row:
    outcome = str(record.get("outcome"))
    usb, ecid, seconds = (record.get(name) for name in ("usb_instance", "ecid", "seconds"))
    flashed = (record.get("device"), f"USB {usb}" if usb else None)
    return Row(
        place=place,
        serial=word(record.get("serial")),
        email=word(record.get("email")),
        kind=_KINDS.get(outcome, "waiting"),
        outcome=outcome,
        account=word(record.get("account")),
        device=", ".join(word(each) for each in flashed if each) if record.get("flashed") else "",
        ecid=f"ECID {ecid}" if ecid else "",
        format=word(record.get("image_format")),
        digest=_digest(record),
        ledger=word((record.get("ledger") or {}).get("row")),
        lane=word(record.get("lane")),
        began=_clock(record.get("began"), today),
        took=spoken(seconds) if seconds is not None else "",
        step=word(record.get("step")),
        error=visible(said(record)[0], _LONGEST_CELL) if outcome in NOT_DONE else "",
    )


def _time(value: object) -> str:
    """Return an ISO time in UTC as a local time with its offset; anything else unchanged."""
    text = word(value)
    with contextlib.suppress(ValueError):
        return local_time(text)
    return text


def _clock(value: object, today: str) -> str:
    """Return a local time without its offset, and without its date if that is ``today``."""
    text = _time(value)
    return text[:19].removeprefix(today).strip() if text != word(value) else text


def _digest(record: Mapping[str, Any]) -> str:
    if digest := word(record.get("image_sha256")):
        return digest[:16]
    base = word(record.get("base_sha256"))
    return f"of its base: {base[:16]}" if base else ""
