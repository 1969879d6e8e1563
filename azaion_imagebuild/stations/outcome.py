"""What happens to a job whose device is not done: retried, requeued, or left to the operator."""

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
from .jobs import GIVEN_BACK


class Outcome(Struct, frozen=True, kw_only=True):
    """How one device ended, for the operator and for the queue."""

    outcome: str
    """``done``, ``failed``, ``unknown``, ``waits`` (for a retry) or :data:`.jobs.GIVEN_BACK`."""
    wait: float | None = None
    """Seconds until the retry; None: the station does not retry it."""
    orphaned: bool = False
    """The queue is not updated: the station that takes over reads the progress in the ledger."""


def outcome_of(
    record: Mapping[str, Any], claim: Claim, attempts: int, settings: StationSettings
) -> Outcome:
    """Decide what happens to a device after an attempt.

    A device is never retried once the intent to flash it is written: only a person can tell what it
    holds. It is retried a few times, with growing pauses, if the admin API refused it or the
    attempt could not begin (unless the ledger refused it). It is requeued if the attempt was
    interrupted or no hardware was plugged in. (The smoke test retries within the attempt:
    ``[smoke] wait``.)
    """
    if record["outcome"] == "done":
        return Outcome(outcome="done")
    if claim.is_lost:
        return Outcome(outcome="unknown" if claim.overtaken else GIVEN_BACK)
    if record["outcome"] == "not started" and claim.step is not None:
        return Outcome(outcome="unknown", orphaned=True)  # interrupted while it wrote
    if claim.step == FLASH:
        return Outcome(outcome="failed")
    if record["outcome"] == "not started" or record["exit_code"] == ExitCode.INTERRUPTED:
        return Outcome(outcome=GIVEN_BACK, wait=0.0)
    if not claim.asked and record["exit_code"] == ExitCode.PREFLIGHT:
        return Outcome(outcome=GIVEN_BACK, wait=settings.retry_wait)
    may_pass = not claim.asked or record["exit_code"] == ExitCode.PROVISIONING
    if may_pass and attempts < settings.retries:
        return Outcome(outcome="waits", wait=settings.retry_wait * 2.0**attempts)
    return Outcome(outcome="failed")


def note_of(claim: Claim, record: Mapping[str, Any], end: Outcome) -> dict[str, Any]:
    """Return the row of ``station_job``."""
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
    """Tells procrastinate that a device is not done."""

    def __init__(self, end: Outcome) -> None:
        super().__init__(end.outcome)
        self.end = end


class Again(BaseRetryStrategy):
    """Tells procrastinate whether and when to retry a job."""

    def get_retry_decision(self, *, exception: BaseException, job: Row) -> RetryDecision | None:
        """Return the time of the retry; None if it is not tried again."""
        if not isinstance(exception, Undone) or exception.end.wait is None:
            return None
        pause = datetime.timedelta(seconds=exception.end.wait)
        return RetryDecision(retry_at=datetime.datetime.now(datetime.timezone.utc) + pause)
