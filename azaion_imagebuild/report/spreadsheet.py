"""A fleet's records as CSV (RFC 4180, UTF-8): one line a device, safe to open as a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..model import FLEET_FIELDS
from ..pipeline.hookspecs import EVERY_STEP
from ..text import spreadsheet_cell, word

_NO_COLUMN = ("proof", "device_conf", "ledger", "log")
FIELDS = tuple(name for name in FLEET_FIELDS if name not in _NO_COLUMN)
"""The columns from fields of a record; those of the ledger and the steps follow."""

_UNTIMED = ("pre_provision", "post_provision", "build_failed", "cleanup")
_TIMED = tuple(step for step in EVERY_STEP if step not in _UNTIMED)

COLUMNS = (*FIELDS, "ledger_row", "ledger_hash", *(f"seconds_{step}" for step in _TIMED), "other")
"""Always these, in this order; fields that plug-ins add are in ``other``, as JSON."""


def lines(fleet: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines, first the heading; each ends in CRLF."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    yield _line(buffer, writer, COLUMNS)
    for record in fleet.get("records") or ():
        cells = _cells({"sandbox": fleet.get("sandbox"), **record})
        yield _line(buffer, writer, map(_cell, cells))


def _line(buffer: io.StringIO, writer: Any, cells: Iterable[object]) -> str:
    writer.writerow(cells)
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


def _cells(record: dict[str, Any]) -> Iterator[Any]:
    for name in FIELDS:
        yield record.pop(name, None)
    ledger = record.pop("ledger", None) or {}
    yield ledger.get("row")
    yield ledger.get("hash")
    steps = dict(record.pop("steps", None) or {})
    for name in _TIMED:
        yield steps.pop(name, None)
    other = record | ({"steps": steps} if steps else {})
    yield json.dumps(other, ensure_ascii=False) if other else None


def _cell(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return spreadsheet_cell(word(value))
