"""A station's right to make one device, and the ledger as that attempt may write it.

The queue's own locks cannot stop a station that was taken for dead and comes back. So each row is
written in one transaction with the look whether the job is still this station's, and the serial
still this attempt's: the job's row and the attempt are the token, and whoever gives the device to
another station takes both away.
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
    """The device was given to another station, or an operator has decided on it."""


@dataclass(slots=True, kw_only=True)
class Claim:
    """One job that a station's lane has taken. For one attempt, and one thread."""

    ledger: Ledger
    job: Job
    id: int
    """Of the job's row."""
    worker: int
    station: str
    lane: str
    step: str | None = None
    """The last intent that was written; None: nothing has begun."""
    asked: bool = False
    """The attempt got as far as to ask whether it may begin."""
    is_lost: bool = False
    """The job or the serial was taken away."""
    overtaken: bool = False
    """It was lost and is unknown: it was flashing, or another attempt has begun since."""
    farewell: Receipt | None = None
    """The row by which a lost attempt says so."""

    def begin(self, entry: Entry, settings: LedgerSettings) -> Receipt:
        """Commit the intent to provision; the job's row knows the attempt from then on.

        Raises:
            PreflightError: what speaks against it, or the device was done since it was queued.
            LedgerError: the ledger cannot be written.
            Lost: the job is not this station's any more.
        """
        confirmed = settings.confirmed or self.job.confirmed
        settings = structs.replace(settings, confirmed=confirmed)
        self.asked = True
        self.step = entry.step  # before it is written: a lost answer may have been a yes
        try:
            return self.ledger.begin(entry, settings, self._may_begin)
        except (PreflightError, Lost):
            self.step = None
            raise

    def write(self, entry: Entry) -> Receipt:
        """Commit a further row.

        An attempt that was lost says so, once. If another one has begun meanwhile, the serial is
        unknown from then on: the account may have got this attempt's password last.

        Raises:
            LedgerError: the ledger cannot be written.
            Lost: the job or the serial is not this attempt's any more.
        """
        if self.farewell is not None:
            return self.farewell
        before = self.step
        if entry.outcome == "started":
            self.step = entry.step
        try:
            return self.ledger.write(entry, self._may_go_on)
        except Lost as lost:
            self.step = before  # what was refused has not begun
            self.farewell = self._say_farewell(entry, lost)
            raise

    def standings(self, accounts: Mapping[str, str], *, sandbox: bool) -> dict[str, Standing]:
        """Return what the ledger knows of each serial."""
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
                hint=f"azaion-imagebuild ledger show {entry.serial}; submit it with --again if it"
                " shall be made once more",
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
            f"{serial} was taken away from station {self.station}, which was taken for dead",
            hint=f"do not ship this device: azaion-imagebuild ledger show {serial} says what"
            " became of it",
        )

    def _say_farewell(self, entry: Entry, lost: Lost) -> Receipt:
        went = "it went on to its end" if entry.outcome == "done" else f"it got to {entry.step}"
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
        """Let a farewell pass that changes nothing: the serial is as the takeover left it."""
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
