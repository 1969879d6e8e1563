"""What becomes of a job whose device is not done: tried again, given back, or left to a person."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from procrastinate import BaseRetryStrategy, RetryDecision
from procrastinate.jobs import Job as Row

from ..errors import ExitCode
from ..ledger.standing import FLASH
from ..settings import StationSettings
from .claim import Claim


class Outcome(Struct, frozen=True, kw_only=True):
    """How one device ended, for the operator and for the queue."""

    outcome: str
    """``done``, ``failed``, ``unknown``, ``waits`` (for another try) or ``given back``."""
    wait: float | None = None
    """Seconds until it may be tried again; None: not by itself."""
    orphaned: bool = False
    """The queue is told nothing: whoever takes over reads in the ledger how far it had come."""


def outcome_of(
    record: Mapping[str, Any], claim: Claim, attempts: int, settings: StationSettings
) -> Outcome:
    """Decide on a device.

    Once the intent to flash is written it is never tried again: only a person can tell what the
    device holds. What the admin API refused is tried a few times, ever later, and so is what could
    not begin for another reason than the ledger's. An interrupted device goes back at once, and one
    for which no hardware was plugged in. (A smoke test has its own patience, ``[smoke] wait``,
    within the attempt.)
    """
    if record["outcome"] == "done":
        return Outcome(outcome="done")
    if claim.is_lost:
        return Outcome(outcome="unknown" if claim.overtaken else "given back")
    if record["outcome"] == "not started" and claim.step is not None:
        return Outcome(outcome="unknown", orphaned=True)  # interrupted while it wrote
    if claim.step == FLASH:
        return Outcome(outcome="failed")
    if record["outcome"] == "not started" or record["exit_code"] == ExitCode.INTERRUPTED:
        return Outcome(outcome="given back", wait=0.0)
    if not claim.asked and record["exit_code"] == ExitCode.PREFLIGHT:
        return Outcome(outcome="given back", wait=settings.retry_wait)
    may_pass = not claim.asked or record["exit_code"] == ExitCode.PROVISIONING
    if may_pass and attempts < settings.retries:
        return Outcome(outcome="waits", wait=settings.retry_wait * 2.0**attempts)
    return Outcome(outcome="failed")


def note_of(claim: Claim, record: Mapping[str, Any], end: Outcome) -> dict[str, Any]:
    """Return what the table of the stations' jobs says of it."""
    return {
        "job": claim.id,
        "station": claim.station,
        "lane": claim.lane,
        "attempt": record["attempt"],
        "outcome": end.outcome,
        "step": record.get("step"),
        "error": record.get("error", "its station was stopped"),
        "hint": record.get("hint"),
        "exit_code": record.get("exit_code"),
    }


class Undone(Exception):
    """A device is not done: procrastinate's way to say so."""

    def __init__(self, end: Outcome) -> None:
        super().__init__(end.outcome)
        self.end = end


class Again(BaseRetryStrategy):
    """procrastinate's way to ask whether a job is tried again."""

    def get_retry_decision(self, *, exception: BaseException, job: Row) -> RetryDecision | None:
        """Return when, or None."""
        if not isinstance(exception, Undone) or exception.end.wait is None:
            return None
        pause = datetime.timedelta(seconds=exception.end.wait)
        return RetryDecision(retry_at=datetime.datetime.now(datetime.timezone.utc) + pause)
