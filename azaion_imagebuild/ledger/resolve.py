"""An operator's verdict on an attempt without a known end, or on a device."""

from __future__ import annotations

from typing import Literal

from msgspec import structs

from ..errors import UsageError
from ..identity.serial import email_for
from ..model import Receipt
from .entry import Entry, Outcome, now, text_of
from .process_id import is_running, this_host, this_process, user
from .standing import FUSE, RESOLVE, died
from .store import Ledger, ended

Verdict = Literal["done", "failed", "retired", "fused", "unfused"]
_STEPS: dict[Verdict, tuple[str, Outcome]] = {
    "done": (RESOLVE, "done"),
    "failed": (RESOLVE, "failed"),
    "retired": (RESOLVE, "retired"),
    "fused": (FUSE, "done"),
    "unfused": (FUSE, "failed"),
}
"""Verdict → step and outcome of its row."""


def resolve(
    ledger: Ledger, serial: str, verdict: Verdict, reason: str, *, sandbox: bool
) -> Receipt:
    """Record an operator's verdict on a serial's last attempt.

    Args:
        ledger: where to record it.
        serial: the device.
        verdict: ``done``: the device has its identity; ``failed``: it does not, and may be built
            again; ``retired``: it is out of use, and its serial and its account are free again;
            ``fused``, ``unfused``: its fuses are burned, or none is.
        reason: why, for later readers.
        sandbox: it is a device of the sandbox.

    Raises:
        UsageError: the serial is not in the ledger, or its attempt is still running.
        LedgerError: the ledger cannot be written.
    """
    last = _last_row(ledger, serial, sandbox)
    if last.outcome == "started" and is_running(last.process or ""):
        raise UsageError(
            f"{serial} is being built right now by process {str(last.process).split(' ')[1]} of"
            " this machine",
            hint="wait until it ends, or stop it; then check the ledger again",
        )
    if _STEPS[verdict][0] == FUSE and last.outcome == "started":
        # The verdict is about the fuses only: first end the attempt as it was.
        if not died(last):
            raise UsageError(
                f"{serial} is being built on another machine or in a container, according to the"
                " ledger",
                hint="if that machine or container is gone: ledger resolve … failed comes first",
            )
        ledger.write(ended(last))
    return ledger.write(_row(last, verdict, reason))


def retire_sandbox(ledger: Ledger) -> None:
    """Retire every device of the sandbox, because its accounts are gone.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    last = {entry.serial: entry for entry in ledger.attempts() if entry.sandbox}
    with ledger.writing() as pen:  # one commit for all of them
        for entry in last.values():
            if entry.outcome != "retired":
                pen.write(_row(entry, "retired", "the sandbox was reset"))


def _last_row(ledger: Ledger, serial: str, sandbox: bool) -> Entry:
    account = {serial: email_for(serial)}
    last = ledger.standings(account, sandbox=sandbox)[serial].last
    if last is not None:
        return last
    if ledger.standings(account, sandbox=not sandbox)[serial].last is not None:
        raise UsageError(
            f"{serial} is a real device, not one of the sandbox"
            if sandbox
            else f"{serial} is a device of the sandbox only",
            hint="leave --sandbox out" if sandbox else "add --sandbox",
        )
    raise UsageError(
        f"{serial} is not in the ledger{' as a device of the sandbox' if sandbox else ''}",
        hint="list what is: azaion-imagebuild ledger list",
    )


def _row(last: Entry, verdict: Verdict, reason: str) -> Entry:
    step, outcome = _STEPS[verdict]
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
