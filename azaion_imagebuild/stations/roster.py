"""The registered stations, and which of them are dead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .. import __version__
from ..ledger.process_id import is_alive

if TYPE_CHECKING:
    import sqlalchemy as sql


class Station(Struct, frozen=True, kw_only=True):
    """A process that makes devices, as it registered."""

    name: str
    worker: int
    """procrastinate's number for it; a new one each time that it registers."""
    sandbox: bool
    host: str
    process: str
    operator: str
    version: str = __version__
    dead_after: float
    """Seconds of silence after which others may take its devices."""
    lanes: Mapping[str, Any]
    """Lane → what it was doing at the last heartbeat."""
    silent: float | None = 0.0
    """Seconds since its last heartbeat; None: its worker is gone."""
    age: float = 0.0
    """Seconds since it registered."""

    @property
    def is_dead(self) -> bool:
        """Tell whether others may take its devices."""
        return self.silent is None or self.silent > self.dead_after

    @property
    def is_gone(self) -> bool:
        """Tell whether its process has certainly ended; on another machine nobody can tell."""
        return not is_alive(self.host, self.process)

    def as_json(self) -> dict[str, Any]:
        """Return the station as a JSON object."""
        return {
            "name": self.name,
            "alive": not self.is_dead,
            "sandbox": self.sandbox,
            "host": self.host,
            "process": self.process.split(" ")[1],
            "operator": self.operator,
            "version": self.version,
            "silent": None if self.silent is None else round(self.silent, 1),
            "age": round(self.age, 1),
            "lanes": dict(self.lanes),
        }


def stations(connection: sql.Connection) -> list[Station]:
    """Return every registered station.

    Silence counts from the start of the database server at the earliest.
    """
    rows = connection.exec_driver_sql(
        "SELECT s.name, s.worker, s.sandbox, s.host, s.process, s.operator, s.version,"
        " s.dead_after, s.lanes,"
        " extract(epoch FROM clock_timestamp()"
        "  - greatest(w.last_heartbeat, pg_postmaster_start_time()))::float"
        "  + CASE WHEN w.id IS NULL THEN NULL ELSE 0 END AS silent,"
        " extract(epoch FROM clock_timestamp() - s.began)::float AS age"
        " FROM station s LEFT JOIN procrastinate_workers w ON w.id = s.worker ORDER BY s.name"
    )
    return [Station(**row._mapping) for row in rows]


def sign_on(connection: sql.Connection, station: Station) -> int:
    """Register a station, and return its worker number."""
    from procrastinate.sql import queries
    from psycopg.types.json import Jsonb

    worker = int(connection.exec_driver_sql(queries["register_worker"]).scalar_one())
    connection.exec_driver_sql(
        "INSERT INTO station"
        " (name, worker, sandbox, host, process, operator, version, dead_after, lanes)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            station.name,
            worker,
            station.sandbox,
            station.host,
            station.process,
            station.operator,
            station.version,
            station.dead_after,
            Jsonb(dict(station.lanes)),
        ),
    )
    return worker


def sign_off(connection: sql.Connection, station: Station) -> None:
    """Unregister a station; a job that it leaves behind then has no worker."""
    for table, column in (("procrastinate_workers", "id"), ("station", "worker")):
        connection.exec_driver_sql(f"DELETE FROM {table} WHERE {column} = %s", (station.worker,))  # noqa: S608
