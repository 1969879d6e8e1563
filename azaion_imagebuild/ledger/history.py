"""Reading the ledger for people and programs: attempts, a serial's rows, exports."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, Literal, TextIO

from msgspec import Struct, structs

from ..errors import UsageError
from ..text import spreadsheet_cell, to_the_second
from .entry import FIELDS, Entry, Outcome
from .standing import FLASH, died
from .store import Ledger


class Wanted(Struct, frozen=True, kw_only=True):
    """Which attempts are asked for; by default all."""

    serial: str | None = None
    failed: bool = False
    unknown: bool = False
    """Devices that are unknown, by the attempt that died while flashing them."""
    since: str | None = None
    """As :attr:`.Entry.at`."""
    last: int | None = None
    """So many of the newest."""


def attempts(ledger: Ledger, wanted: Wanted | None = None) -> list[dict[str, Any]]:
    """Return each attempt as a JSON object, oldest first: its last row.

    An attempt whose process is gone is ``unknown`` if it died while flashing, else ``failed``.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    wanted = wanted or Wanted()
    found = [] if wanted.unknown and not wanted.failed else [*_ended(ledger, wanted)]
    if wanted.unknown:
        found = sorted([*found, *_unknown(ledger, wanted)], key=lambda each: each.at)
    chosen = [each.as_json() for each in found if each.at >= (wanted.since or "")]
    return chosen[-wanted.last :] if wanted.last else chosen


def _ended(ledger: Ledger, wanted: Wanted) -> Iterator[Entry]:
    for each in map(_as_it_ended, ledger.attempts(wanted.serial)):
        if each.outcome == "failed" or not wanted.failed:
            yield each


def _unknown(ledger: Ledger, wanted: Wanted) -> Iterator[Entry]:
    for sandbox in (False, True):
        for each in ledger.unknown(sandbox=sandbox):
            if wanted.serial in (None, each.serial):
                yield structs.replace(_as_it_ended(each), outcome="unknown")


def _as_it_ended(entry: Entry) -> Entry:
    if not died(entry):
        return entry
    outcome: Outcome = "unknown" if entry.step == FLASH else "failed"
    return structs.replace(entry, outcome=outcome, error=f"its process died at {entry.step}")


def history(ledger: Ledger, serial: str) -> list[dict[str, Any]]:
    """Return every row of a serial as a JSON object, with its number and hash.

    Raises:
        LedgerError: the ledger cannot be read.
        UsageError: the serial is not in it.
    """
    found = [
        {"row": row, **entry.as_json(), "hash": seal} for row, entry, seal in ledger.rows(serial)
    ]
    if not found:
        raise UsageError(
            f"{serial} is not in the ledger",
            hint="list what is: azaion-imagebuild ledger list",
        )
    return found


def export(ledger: Ledger, stream: TextIO, form: Literal["csv", "json"]) -> int:
    """Write every row, as CSV or as a JSON array with one row a line; return their number.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    return (_export_csv if form == "csv" else _export_json)(ledger, stream)


def _export_csv(ledger: Ledger, stream: TextIO) -> int:
    table = csv.writer(stream)
    table.writerow(["row", *FIELDS, "hash"])
    count = 0
    for row, entry, seal in ledger.rows():
        table.writerow([row, *(_cell(getattr(entry, name)) for name in FIELDS), seal])
        count += 1
    return count


def _export_json(ledger: Ledger, stream: TextIO) -> int:
    stream.write("[")
    count = 0
    for row, entry, seal in ledger.rows():
        line = json.dumps({"row": row, **entry.as_json(), "hash": seal})
        stream.write(f"{',' if count else ''}\n{line}")
        count += 1
    stream.write("\n]\n")
    return count


def _cell(value: object) -> object:
    return spreadsheet_cell(value) if isinstance(value, str) else value


HEADER = (
    f"{'WHEN':<20}  {'SERIAL':<16} {'OUTCOME':<8} {'STEP':<18} {'FLASHED':<7} BY, WHERE AND WHY"
)
"""The titles above :func:`line_of`."""


def line_of(entry: dict[str, Any]) -> str:
    """Return an attempt as a line for the operator."""
    at = to_the_second(entry["at"])
    where = "SANDBOX " if entry["sandbox"] else ""
    flashed = f" → {entry['device']}" if entry["flashed"] and entry["device"] else ""
    error = f"  {entry['error']}" if entry["error"] else ""
    return (
        f"{at}  {entry['serial']:<16} {entry['outcome']:<8} {entry['step']:<18}"
        f" {_flashed(entry):<7} {where}{entry['operator']}@{entry['host']}{flashed}{error}"
    )


def _flashed(entry: dict[str, Any]) -> str:
    """Return whether a device got the identity: a build with FLASH=0 is ``done``, too."""
    if entry["outcome"] == "unknown":
        return "?"
    return "yes" if entry["flashed"] else "no"
