"""Which stations there are, who they are, and which of them are dead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .. import __version__
from ..ledger.process_id import is_alive

if TYPE_CHECKING:
    import sqlalchemy as sql


class Station(Struct, frozen=True, kw_only=True):
    """One process that makes devices, as it has signed on."""

    name: str
    worker: int
    """Of procrastinate; a new one each time that it signs on."""
    sandbox: bool
    host: str
    process: str
    operator: str
    version: str = __version__
    dead_after: float
    """Seconds of silence after which others may take its devices."""
    lanes: Mapping[str, Any]
    """Lane → what it does, as it was when the station last gave a sign of life."""
    silent: float | None = 0.0
    """Seconds since its last sign of life; None: its worker is gone."""
    age: float = 0.0
    """Seconds since it signed on."""

    @property
    def is_dead(self) -> bool:
        """Tell whether others may take its devices."""
        return self.silent is None or self.silent > self.dead_after

    @property
    def is_gone(self) -> bool:
        """Tell whether its process has certainly ended; another machine's is believed to live."""
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
    """Return every station that has signed on, and not off.

    A database server that has just started is no reason to take a station for dead.
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
    """Note a station, and return the worker that it is from now on."""
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
    """Take a station out; a job that it leaves behind has no worker then."""
    for table, column in (("procrastinate_workers", "id"), ("station", "worker")):
        connection.exec_driver_sql(f"DELETE FROM {table} WHERE {column} = %s", (station.worker,))  # noqa: S608
