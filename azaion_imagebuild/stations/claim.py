"""A station's claim on one device, and the ledger rows that its attempt may write.

The queue's locks cannot stop a station that was declared dead and comes back. So each row is
written in one transaction with a check that the job still belongs to this station, and the serial
to this attempt. A takeover removes both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import structs

from ..errors import LedgerError, PreflightError
from ..ledger import Entry, Ledger, Standing
from ..ledger.entry import now
from ..ledger.standing import FLASH, FUSE
from ..model import Receipt
from ..settings import LedgerSettings
from .jobs import Job

if TYPE_CHECKING:
    import sqlalchemy as sql


class Lost(LedgerError):
    """The device now belongs to another station, or an operator has resolved it."""


@dataclass(slots=True, kw_only=True)
class Claim:
    """A job that a lane has taken: for one attempt, in one thread."""

    ledger: Ledger
    job: Job
    id: int
    """The number of the job's row."""
    worker: int
    station: str
    lane: str
    step: str | None = None
    """The step of the last intent that was written; None: nothing has begun."""
    asked: bool = False
    """The attempt asked the ledger whether it may begin."""
    is_lost: bool = False
    """The job or the serial now belongs to somebody else."""
    overtaken: bool = False
    """The claim was lost and the outcome is unknown: it was flashing, or another attempt began."""
    farewell: Receipt | None = None
    """The last row of a lost attempt, which says that it was lost."""

    def begin(self, entry: Entry, settings: LedgerSettings) -> Receipt:
        """Commit the intent to provision, and note the attempt in the job's row.

        Raises:
            PreflightError: the ledger refuses it, or the device was made since it was queued.
            LedgerError: the ledger cannot be written.
            Lost: the job no longer belongs to this station.
        """
        confirmed = settings.confirmed or self.job.confirmed
        settings = structs.replace(settings, confirmed=confirmed)
        self.asked = True
        self.step = entry.step  # before it is written: if the reply is lost, it may have been
        try:
            return self.ledger.begin(entry, settings, self._may_begin)
        except (PreflightError, Lost):
            self.step = None
            raise

    def write(self, entry: Entry) -> Receipt:
        """Commit another row.

        A lost attempt writes one last row. If another attempt has begun since, the serial becomes
        unknown: this attempt may have set the account's password last.

        Raises:
            LedgerError: the ledger cannot be written.
            Lost: the job or the serial no longer belongs to this attempt.
        """
        if self.farewell is not None:
            return self.farewell
        before = self.step
        if entry.outcome == "started":
            self.step = entry.step
        try:
            return self.ledger.write(entry, self._may_go_on)
        except Lost as lost:
            self.step = before  # a refused attempt has not begun
            self.farewell = self._say_farewell(entry, lost)
            raise

    def standings(self, accounts: Mapping[str, str], *, sandbox: bool) -> dict[str, Standing]:
        """Return the standing of each serial in the ledger."""
        return self.ledger.standings(accounts, sandbox=sandbox)

    def _may_begin(self, connection: sql.Connection, entry: Entry) -> None:
        self._require_job(connection)
        done = connection.exec_driver_sql(
            "SELECT outcome FROM ledger WHERE serial = %s AND sandbox = %s AND row > %s"
            " AND (flashed OR step = %s OR outcome IN ('done', 'unknown')) AND step <> %s LIMIT 1",
            (entry.serial, entry.sandbox, self.job.after, FLASH, FUSE),
        ).first()
        if done is not None:
            raise PreflightError(
                f"{entry.serial} was made or flashed since it was queued",
                hint=f"azaion-imagebuild ledger show {entry.serial}; to make it again, add"
                " --again to submit",
            )
        connection.exec_driver_sql(
            "INSERT INTO station_job (job, station, lane, attempt) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (job) DO UPDATE SET station = excluded.station, lane = excluded.lane,"
            " attempt = excluded.attempt, outcome = NULL, step = NULL, error = NULL, hint = NULL,"
            " exit_code = NULL, at = now()",
            (self.id, self.station, self.lane, entry.attempt),
        )

    def _may_go_on(self, connection: sql.Connection, entry: Entry) -> None:
        self._require_job(connection)
        if self._last(connection, entry) != (entry.attempt, "started"):
            raise self._lost()

    def _require_job(self, connection: sql.Connection) -> None:
        mine = connection.exec_driver_sql(
            "SELECT 1 FROM procrastinate_jobs"
            " WHERE id = %s AND worker_id = %s AND status = 'doing'",
            (self.id, self.worker),
        ).first()
        if mine is None:
            raise self._lost()

    def _lost(self) -> Lost:
        self.is_lost = True
        serial = self.job.serial
        return Lost(
            f"station {self.station} was declared dead and lost {serial}",
            hint="do not ship this device; see what happened to it: azaion-imagebuild ledger show"
            f" {serial}",
        )

    def _say_farewell(self, entry: Entry, lost: Lost) -> Receipt:
        went = "it continued to the end" if entry.outcome == "done" else f"it got to {entry.step}"
        flashed = ", and flashed its device" if entry.flashed else ""
        farewell = structs.replace(
            entry,
            step=self.step if self.step and entry.outcome == "started" else entry.step,
            outcome="failed",
            at=now(),
            flashed=False,
            exit_code=int(lost.exit_code),
            error=f"{lost.message}; {went}{flashed}",
        )
        try:
            return self.ledger.write(farewell, self._is_alone)
        except Lost:
            self.overtaken = True
            error = f"{farewell.error}. The account may have that attempt's password"
            return self.ledger.write(structs.replace(farewell, outcome="unknown", error=error))

    def _is_alone(self, connection: sql.Connection, entry: Entry) -> None:
        """Allow a last row that changes nothing: the serial stays as the takeover left it."""
        alone = self._last(connection, entry) == (entry.attempt, "failed")
        if self.step == FLASH or not alone:
            raise self._lost()

    def _last(self, connection: sql.Connection, entry: Entry) -> tuple[str, str] | None:
        """Return the attempt and the outcome of a serial's last row."""
        last = connection.exec_driver_sql(
            "SELECT attempt, outcome FROM ledger WHERE serial = %s AND sandbox = %s"
            " ORDER BY row DESC LIMIT 1",
            (entry.serial, entry.sandbox),
        ).first()
        return (last[0], last[1]) if last is not None else None
