"""The JSON object with the result of a fleet."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from .. import __version__
from ..identity.serial_list import Listed
from ..ledger import Entry
from ..ledger.process_id import user
from ..ledger.standing import resolve_command
from ..settings import Settings
from ..text import to_the_second, utc
from .plan import Plan
from .run import Run, blank_record, exit_code, failed
from .scans import Answer

T = TypeVar("T")


def summary_of(
    plan: Plan,
    run: Run,
    began: float,
    settings: Settings,
    refused: Sequence[Answer] = (),
    *,
    scanned: bool = False,
    attended: bool = False,
) -> dict[str, Any]:
    """Return the fleet's JSON object: totals, and a record for each serial.

    Refused scans do not count as failed devices. A person has seen them and scanned again; to a
    program that piped a list, they say that part of it is not done.
    """
    records = [
        *run.records.values(),
        *(failed(each, error) for each, error in plan.refused),
        *(_known(each, row, "done before") for each, row in plan.done_before),
        *(_known(each, row, "unknown") for each, row in plan.unknown),
        *(blank_record(each) for each in plan.todo if each.serial not in run.records),
    ]
    counts = _counted(record["outcome"] for record in records)
    whole = counts["done"] + counts["done before"] == len(records) and (attended or not refused)
    outcome = "done" if whole else "interrupted" if run.interrupted else "incomplete"
    place = {serial: number for number, serial in enumerate(plan.serials)}
    records.sort(key=lambda record: place[record["serial"]])
    return {
        "outcome": outcome,
        "exit_code": int(exit_code(outcome)),
        "sandbox": plan.sandbox,
        "command": "fleet",
        "version": __version__,
        "host": platform.node(),
        "station": settings.ledger.station,
        "operator": settings.ledger.operator or user(),
        "began": utc(began),
        "ended": utc(time.time()),
        "seconds": round(time.time() - began, 3),
        "total": len(records),
        "done": counts["done"],
        "done_before": counts["done before"],
        "failed": counts["failed"],
        "unknown": counts["unknown"],
        "not_started": counts["not started"],
        "scanned": scanned,
        "refused": [answer.as_json() for answer in refused],
        "records": records,
    }


def _known(each: Listed, row: Entry, outcome: str) -> dict[str, Any]:
    """Return the record of a device that was done, or died, in an earlier run."""
    said = {
        "step": row.step,
        "error": "its last attempt died while flashing: what the device holds is not known",
        "hint": "flash that very device: azaion-imagebuild image --serial"
        f" {each.serial}; or record what you know: "
        f"{resolve_command(row)} done (or failed)",
    }
    known = blank_record(each)
    fields = {name: getattr(row, name) for name in known if hasattr(row, name)}
    return {
        **known,
        **fields,
        "outcome": outcome,
        "began": to_the_second(row.at),
        **(said if outcome == "unknown" else {}),
    }


def _counted(outcomes: Iterable[str]) -> dict[str, int]:
    counts = dict.fromkeys(("done", "done before", "failed", "unknown", "not started"), 0)
    for outcome in outcomes:
        counts[outcome] += 1
    return counts
