"""Rows of a ledger, as the tests write them."""

from __future__ import annotations

import os
from typing import Any

from world import SERIAL

from azaion_imagebuild.ledger import Entry, Ledger, this_process
from azaion_imagebuild.ledger.entry import now
from azaion_imagebuild.ledger.process_id import this_host


def entry(serial: str = SERIAL, **changes: Any) -> Entry:
    suffix = serial.rpartition("-")[2].lower()
    fields: dict[str, Any] = {
        "attempt": f"attempt-{serial}",
        "serial": serial,
        "email": f"azaion-jetson-{suffix}@azaion.com",
        "sandbox": False,
        "step": "provision_identity",
        "outcome": "started",
        "at": now(),
        "host": this_host(),
        "process": this_process(),
    }
    return Entry(**fields | changes)


def died(**changes: Any) -> Entry:
    """Return the intent of an attempt whose process is gone."""
    return entry(process=this_process().replace(str(os.getpid()), "999999999"), **changes)


def flashed(**changes: Any) -> Entry:
    return entry(step="post_flash", outcome="done", account="created", flashed=True, **changes)


def ten(ledger: Ledger) -> None:
    for number in range(10):
        ledger.write(entry(f"AZJN-{number}"))
