"""Taking over the devices of a dead station: they are requeued, or become unknown.

Each job ends in one transaction with the row that ends its attempt. The job's row is removed and
a new one is queued: procrastinate lets any worker end any job, so a station that comes back must
find no job to end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from ..errors import UsageError
from ..ledger import Entry, Ledger, Pen
from ..ledger.standing import FLASH, RESOLVE
from ..ledger.store import ended
from .jobs import TASK, Job, put, queue_of, resolve_command, station_of
from .roster import Station, sign_off, sign_on, stations
from .tables import are_there

if TYPE_CHECKING:
    import sqlalchemy as sql

MOST_LOST = 3
"""Stations that may die over one device before it is left alone."""


class Orphan(Struct, frozen=True, kw_only=True):
    """A job in progress whose station is dead."""

    id: int
    job: Job
    station: str
    attempt: str | None
    """The attempt; None: it had not begun."""


class Taken(Struct, frozen=True, kw_only=True):
    """What a takeover did with an orphan."""

    serial: str
    station: str
    outcome: Literal["queued", "unknown", "failed", "done"]
    reason: str


def sign_on_alone(ledger: Ledger, station: Station) -> tuple[Station, list[Taken]]:
    """Register a station; take over the devices of a dead one of the same name.

    Raises:
        UsageError: another station of that name is alive.
        LedgerError: the database cannot be written.
    """
    with ledger.writing() as pen:
        taken: list[Taken] = []
        for other in stations(pen.connection):
            if other.name != station.name:
                continue
            own = (other.host, other.process) == (station.host, station.process)
            if not (own or other.is_dead or other.is_gone):
                raise UsageError(
                    f"a station {other.name} is at work: {other.operator} on {other.host}, process"
                    f" {other.process.split(' ')[1]}",
                    hint="give this station another --name, or stop the other one first",
                )
            taken += _taken_from(pen, [other])
        return structs.replace(station, worker=sign_on(pen.connection, station)), taken


def take_over(ledger: Ledger) -> list[Taken]:
    """Take over the devices of dead stations, and those without a station.

    Raises:
        LedgerError: the database cannot be written.
    """
    with ledger.writing() as pen:
        if not are_there(pen.connection):
            return []
        return _taken_from(pen, [each for each in stations(pen.connection) if each.is_dead])


def reassign(ledger: Ledger, name: str | None) -> tuple[list[Taken], list[str]]:
    """Make the devices of a station (None: of every dead one) available to other stations.

    Devices in the station's own queue move to the common one. A station that is alive keeps the
    devices in progress.

    Returns:
        what was taken over, and the serials that were waiting.

    Raises:
        UsageError: there is no such station.
        LedgerError: the database cannot be written.
    """
    with ledger.writing() as pen:
        if not are_there(pen.connection):
            return [], []
        known = stations(pen.connection)
        chosen = [each for each in known if name in (None, each.name)]
        taken = _taken_from(pen, [each for each in chosen if each.is_dead or each.is_gone])
        alive = {each.name for each in stations(pen.connection)}
        waiting = [
            (queue, serial, job)
            for queue, serial, job in _pinned(pen.connection)
            if (station_of(queue) == name if name else station_of(queue) not in alive)
        ]
        if name and not chosen and not waiting:
            raise UsageError(
                f"there is no station {name}", hint="azaion-imagebuild station status lists them"
            )
        for queue, _, job in waiting:
            common = queue_of(None, sandbox=queue.startswith(queue_of(None, sandbox=True)))
            pen.connection.exec_driver_sql(
                "UPDATE procrastinate_jobs SET queue_name = %s WHERE id = %s AND status = 'todo'",
                (common, job),
            )
    return taken, [serial for _, serial, _ in waiting]


def _pinned(connection: sql.Connection) -> list[tuple[str, str, int]]:
    rows = connection.exec_driver_sql(
        "SELECT queue_name, args->>'serial', id FROM procrastinate_jobs"
        " WHERE status = 'todo' AND task_name = %s AND strpos(queue_name, '@') > 0"
        " ORDER BY id FOR UPDATE",
        (TASK,),
    )
    return [(row[0], row[1], row[2]) for row in rows]


def _taken_from(pen: Pen, dead: list[Station]) -> list[Taken]:
    taken = [_ended(pen, each) for each in list(_orphans(pen.connection, dead))]
    for station in dead:
        sign_off(pen.connection, station)
    return taken


def _orphans(connection: sql.Connection, dead: list[Station]) -> Iterator[Orphan]:
    rows = connection.exec_driver_sql(
        "SELECT j.id, j.args, j.queue_name, coalesce(s.name, t.station, '?'), t.attempt"
        " FROM procrastinate_jobs j LEFT JOIN station s ON s.worker = j.worker_id"
        " LEFT JOIN station_job t ON t.job = j.id"
        " WHERE j.status = 'doing' AND j.task_name = %s"
        " AND (s.name IS NULL OR s.worker = ANY(%s)) ORDER BY j.id FOR UPDATE OF j",
        (TASK, [each.worker for each in dead]),
    )
    for number, args, queue, station, attempt in rows:
        job = Job.of(args, queue)
        yield Orphan(id=number, job=job, station=station, attempt=attempt)


def _ended(pen: Pen, orphan: Orphan) -> Taken:
    """End an orphan's attempt; requeue its job, fail it, or remove it."""
    row = pen.last(attempt=orphan.attempt) if orphan.attempt else None
    if row is not None and row.outcome == "started":
        lost = f"its station {orphan.station} was lost during {row.step}"
        row = structs.replace(ended(row), error=lost)
        pen.write(row)
    outcome, reason = _verdict(row, orphan)
    if outcome in ("queued", "done"):
        pen.connection.exec_driver_sql("DELETE FROM procrastinate_jobs WHERE id = %s", (orphan.id,))
    if outcome == "queued":
        put(pen.connection, [structs.replace(orphan.job, lost=orphan.job.lost + 1)])
    elif outcome != "done":
        _fail(pen.connection, orphan, row, outcome, reason)
    return Taken(serial=orphan.job.serial, station=orphan.station, outcome=outcome, reason=reason)


def _verdict(
    row: Entry | None, orphan: Orphan
) -> tuple[Literal["queued", "unknown", "failed", "done"], str]:
    """Return what to do with a job whose attempt's last row is ``row``."""
    if row is not None and (row.outcome in ("done", "retired") or row.step == RESOLVE):
        return "done", "it had ended, but the queue was not updated"
    if row is not None and row.outcome == "unknown":
        return "unknown", f"{row.error}: nobody knows what that device holds"
    if row is not None and (row.flashed or row.step == FLASH):
        return "failed", row.error or "its flash failed"
    if orphan.job.lost + 1 >= MOST_LOST:
        return "failed", f"{MOST_LOST} stations died while making it"
    return "queued", (row.error if row is not None else None) or "it had not begun"


def _fail(
    connection: sql.Connection, orphan: Orphan, row: Entry | None, outcome: str, reason: str
) -> None:
    from procrastinate.sql import queries

    end = {"job_id": orphan.id, "status": "failed", "delete_job": False}
    connection.exec_driver_sql(queries["finish_job"], end)
    serial = orphan.job.serial
    hint = (
        f"check that device, then {resolve_command(serial, sandbox=orphan.job.sandbox)}"
        if outcome == "unknown"
        else f"see azaion-imagebuild ledger show {serial}, then submit it again"
    )
    connection.exec_driver_sql(
        "INSERT INTO station_job (job, station, attempt, outcome, step, error, hint)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (job) DO UPDATE SET"
        " outcome = excluded.outcome, step = excluded.step, error = excluded.error,"
        " hint = excluded.hint, at = now()",
        (
            orphan.id,
            orphan.station,
            orphan.attempt,
            outcome,
            row.step if row else None,
            reason,
            hint,
        ),
    )
