"""Reading the ledger, checking it, and an operator's word on an attempt that ended unseen."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, Literal, TextIO

from msgspec import structs

from ..errors import UsageError
from ..identity.serial import email_for
from ..model import Receipt
from ..text import spreadsheet_cell, to_the_second
from . import Entry, Ledger, this_process
from .entry import FIELDS, Outcome, is_running, now, text_of, this_host, user
from .standing import FUSE, RESOLVE, died
from .store import ended

Verdict = Literal["done", "failed", "retired", "fused", "unfused"]
_VERDICTS: dict[Verdict, tuple[str, Outcome]] = {
    "done": (RESOLVE, "done"),
    "failed": (RESOLVE, "failed"),
    "retired": (RESOLVE, "retired"),
    "fused": (FUSE, "done"),
    "unfused": (FUSE, "failed"),
}
"""An operator's word → step and outcome of its row."""


def attempts(ledger: Ledger, serial: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield each attempt as a JSON object: its last row.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    for entry in ledger.attempts(serial):
        yield entry.as_json()


def history(ledger: Ledger, serial: str) -> list[dict[str, Any]]:
    """Return every row of a serial as a JSON object, with its number and hash.

    Raises:
        LedgerError: the ledger cannot be read.
        UsageError: it knows no such serial.
    """
    found = [
        {"row": row, **entry.as_json(), "hash": seal} for row, entry, seal in ledger.rows(serial)
    ]
    if not found:
        raise UsageError(
            f"the ledger knows no {serial}",
            hint="azaion-imagebuild ledger list shows what it knows",
        )
    return found


def export(ledger: Ledger, stream: TextIO, form: Literal["csv", "json"]) -> int:
    """Write every row; JSON as an array with one row a line. Return how many there are.

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


def resolve(
    ledger: Ledger, serial: str, verdict: Verdict, reason: str, *, sandbox: bool
) -> Receipt:
    """Write down what an operator found out about a serial's last attempt.

    Args:
        ledger: what it is written into.
        serial: the device.
        verdict: ``done``: the device has its identity; ``failed``: it has not, and may be built
            again; ``retired``: it is out of use, its serial and its account are free again;
            ``fused``, ``unfused``: its fuses are burned, or none is.
        reason: why, for whoever asks later.
        sandbox: a device of the sandbox.

    Raises:
        UsageError: the ledger knows no such serial, or its attempt goes on.
        LedgerError: it cannot be written.
    """
    account = {serial: email_for(serial)}
    standing = ledger.standings(account, sandbox=sandbox)[serial]
    last = standing.last
    if last is None:
        if ledger.standings(account, sandbox=not sandbox)[serial].last is not None:
            raise UsageError(
                f"{serial} is a device of the sandbox only"
                if not sandbox
                else f"{serial} is no device of the sandbox",
                hint="leave --sandbox out" if sandbox else "add --sandbox",
            )
        raise UsageError(
            f"the ledger knows no {serial}{' in the sandbox' if sandbox else ''}",
            hint="azaion-imagebuild ledger list shows what it knows",
        )
    if last.outcome == "started" and is_running(last.process or ""):
        raise UsageError(
            f"{serial} is being built right now, by this machine's process"
            f" {str(last.process).split(' ')[1]}",
            hint="wait for it to end, or stop it; then look at the ledger again",
        )
    if _VERDICTS[verdict][0] == FUSE and last.outcome == "started":
        # What else it was about to do is not decided by this.
        if not died(last):
            raise UsageError(
                f"{serial} is being built elsewhere, as far as the ledger knows",
                hint="if that machine or container is gone: ledger resolve … failed comes first",
            )
        ledger.write(ended(last))
    return ledger.write(_verdict(last, verdict, reason))


def retire_sandbox(ledger: Ledger) -> None:
    """Retire every device of the sandbox: its accounts are gone.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    last = {entry.serial: entry for entry in ledger.attempts() if entry.sandbox}
    with ledger.writing() as pen:  # one commit for all of them
        for entry in last.values():
            if entry.outcome != "retired":
                pen.write(_verdict(entry, "retired", "the sandbox was reset"))


def _verdict(last: Entry, verdict: Verdict, reason: str) -> Entry:
    step, outcome = _VERDICTS[verdict]
    return structs.replace(
        last,
        step=step,
        outcome=outcome,
        at=now(),
        flashed=verdict == "done" if step == RESOLVE else last.flashed,
        error=text_of(reason),
        exit_code=None,
        operator=user(),
        host=this_host(),
        process=this_process(),
    )


def _cell(value: object) -> object:
    return spreadsheet_cell(value) if isinstance(value, str) else value


def line_of(entry: dict[str, Any]) -> str:
    """Return an attempt on one line, for a person."""
    at = to_the_second(entry["at"])
    where = "SANDBOX " if entry["sandbox"] else ""
    flashed = f" → {entry['device']}" if entry["flashed"] and entry["device"] else ""
    error = f"  {entry['error']}" if entry["error"] else ""
    return (
        f"{at}  {entry['serial']:<16} {entry['outcome']:<8} {entry['step']:<18}"
        f" {where}{entry['operator']}@{entry['host']}{flashed}{error}"
    )
