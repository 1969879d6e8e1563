"""The status of all stations: their queues, devices in progress, orphans, and failed devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..ledger import Ledger
from .jobs import TASK, station_of
from .roster import Station, stations
from .tables import are_there

if TYPE_CHECKING:
    import sqlalchemy as sql

_MOST = 20  # devices listed under one heading

Status = Mapping[str, Any]
"""What ``station status --json`` prints."""


def read_status(ledger: Ledger) -> Status:
    """Return the status of all stations; change nothing.

    Raises:
        LedgerError: the database cannot be read.
    """
    with ledger.reading() as connection:
        if not are_there(connection):
            return {name: [] for name in ("stations", "queues", "running", "orphans", "undone")}
        known = stations(connection)
        running = list(_running(connection, known))
        return {
            "stations": [each.as_json() for each in known],
            "queues": list(_queues(connection, known)),
            "running": [each for each in running if not each["orphan"]],
            "orphans": [each for each in running if each["orphan"]],
            "undone": list(_undone(connection)),
        }


def _queues(connection: sql.Connection, known: list[Station]) -> Iterator[dict[str, Any]]:
    rows = connection.exec_driver_sql(
        "SELECT j.queue_name, count(*) FILTER (WHERE j.status = 'todo'),"
        " count(*) FILTER (WHERE j.status = 'doing'),"
        " count(*) FILTER (WHERE j.status = 'failed'),"
        " extract(epoch FROM now() - min(e.at) FILTER (WHERE j.status = 'todo'))::float"
        " FROM procrastinate_jobs j"
        " LEFT JOIN procrastinate_events e ON e.job_id = j.id AND e.type = 'deferred'"
        " WHERE j.task_name = %s GROUP BY j.queue_name ORDER BY j.queue_name",
        (TASK,),
    )
    for queue, waiting, running, failed, oldest in rows:
        station, sandbox = station_of(queue), queue.startswith("sandbox")
        served = [
            each.name
            for each in known
            if not each.is_dead and each.sandbox == sandbox and station in (None, each.name)
        ]
        yield {
            "queue": queue,
            "station": station,
            "waiting": waiting,
            "running": running,
            "failed": failed,
            "oldest": None if oldest is None else round(oldest, 1),
            "served_by": served,
        }


def _running(connection: sql.Connection, known: list[Station]) -> Iterator[dict[str, Any]]:
    alive = {each.worker: each.name for each in known if not each.is_dead}
    rows = connection.exec_driver_sql(
        "SELECT j.args->>'serial', j.worker_id, coalesce(s.name, t.station), t.lane,"
        " (SELECT l.step FROM ledger l WHERE l.attempt = t.attempt ORDER BY l.row DESC LIMIT 1),"
        " (SELECT extract(epoch FROM now() - max(e.at))::float FROM procrastinate_events e"
        "  WHERE e.job_id = j.id AND e.type = 'started')"
        " FROM procrastinate_jobs j LEFT JOIN station s ON s.worker = j.worker_id"
        " LEFT JOIN station_job t ON t.job = j.id"
        " WHERE j.status = 'doing' AND j.task_name = %s ORDER BY j.id",
        (TASK,),
    )
    for serial, worker, station, lane, step, seconds in rows:
        yield {
            "serial": serial,
            "station": station,
            "lane": lane,
            "step": step,
            "seconds": None if seconds is None else round(seconds, 1),
            "orphan": worker not in alive,
        }


def _undone(connection: sql.Connection) -> Iterator[dict[str, Any]]:
    """Yield the devices that failed or wait for a retry, and why."""
    rows = connection.exec_driver_sql(
        "SELECT j.args->>'serial', CASE WHEN j.status = 'todo' THEN 'waits for another try'"
        "  ELSE coalesce(t.outcome, 'failed') END, t.station, t.step, t.error, t.hint,"
        " t.exit_code, to_char(t.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
        " FROM procrastinate_jobs j LEFT JOIN station_job t ON t.job = j.id"
        " WHERE j.task_name = %s AND (j.status NOT IN ('todo', 'doing')"
        "  OR (j.status = 'todo' AND t.error IS NOT NULL)) ORDER BY j.id",
        (TASK,),
    )
    names = ("serial", "outcome", "station", "step", "error", "hint", "exit_code", "at")
    for row in rows:
        yield dict(zip(names, row, strict=True))


def lines_of(status: Status) -> Iterator[str]:
    """Yield the status as lines for the operator."""
    for station in status["stations"]:
        yield _station(station)
        for lane, doing in sorted(station["lanes"].items()):
            yield f"  {lane}: {doing or 'free'}"
    for queue in status["queues"]:
        yield _queue(queue)
    yield from _some(status["running"], "in progress", _doing)
    yield from _some(status["orphans"], "orphans: their station is dead", _doing)
    if status["orphans"]:
        yield "hint: others take them over; at once: azaion-imagebuild station reassign --dead"
    yield from _some(status["undone"], "not done", _why)
    for hint in dict.fromkeys(each["hint"] for each in status["undone"][:_MOST] if each["hint"]):
        yield f"hint: {hint}"
    if not any(status.values()):
        yield "nothing is queued, and no station is running"


def _station(station: Mapping[str, Any]) -> str:
    where = "SANDBOX  " if station["sandbox"] else ""
    silent = "its worker is gone" if station["silent"] is None else f"{station['silent']:.0f} s ago"
    state = f"alive, last heartbeat {silent}" if station["alive"] else f"DEAD, {silent}"
    return (
        f"{where}station {station['name']}  {state}  {station['operator']} on {station['host']},"
        f" process {station['process']}, for {_age(station['age'])}"
    )


def _queue(queue: Mapping[str, Any]) -> str:
    name = f"of station {queue['station']}" if queue["station"] else "common"
    oldest = f", the oldest for {_age(queue['oldest'])}" if queue["oldest"] is not None else ""
    served = ", ".join(queue["served_by"]) or "NOBODY"
    return (
        f"queue {name}: {queue['waiting']} waiting{oldest}, {queue['running']} in progress,"
        f" {queue['failed']} failed; served by {served}"
    )


def _doing(each: Mapping[str, Any]) -> str:
    lane = f" {each['lane']}" if each["lane"] else ""
    age = "" if each["seconds"] is None else f" for {_age(each['seconds'])}"
    return f"{each['serial']}  {each['station'] or '?'}{lane}  {each['step'] or 'begins'}{age}"


def _why(each: Mapping[str, Any]) -> str:
    return f"{each['serial']}  {each['outcome'].upper()}  {each['error'] or '?'}"


def _some(rows: list[Any], title: str, line_of: Any) -> Iterator[str]:
    if rows:
        yield f"{title}:"
        yield from (f"  {line_of(each)}" for each in rows[:_MOST])
        if len(rows) > _MOST:
            yield f"  … and {len(rows) - _MOST} more: --json names all"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
