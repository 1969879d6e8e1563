"""Reading the ledger for people and programs: attempts, a serial's rows, exports."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, Literal, TextIO

from ..errors import UsageError
from ..text import spreadsheet_cell, to_the_second
from .entry import FIELDS
from .store import Ledger


def attempts(ledger: Ledger, serial: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the last row of each attempt as a JSON object.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    for entry in ledger.attempts(serial):
        yield entry.as_json()


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


def line_of(entry: dict[str, Any]) -> str:
    """Return an attempt as a line for the operator."""
    at = to_the_second(entry["at"])
    where = "SANDBOX " if entry["sandbox"] else ""
    flashed = f" → {entry['device']}" if entry["flashed"] and entry["device"] else ""
    error = f"  {entry['error']}" if entry["error"] else ""
    return (
        f"{at}  {entry['serial']:<16} {entry['outcome']:<8} {entry['step']:<18}"
        f" {where}{entry['operator']}@{entry['host']}{flashed}{error}"
    )
