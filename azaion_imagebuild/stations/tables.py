"""The tables that stations share: procrastinate's and two of our own, in the ledger's database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LedgerError, UsageError, install_hint
from ..ledger import Ledger
from ..settings import Settings

if TYPE_CHECKING:
    import sqlalchemy as sql

STEPS = (
    """
    CREATE TABLE station (
        name text PRIMARY KEY,
        worker bigint NOT NULL,
        sandbox boolean NOT NULL,
        host text NOT NULL,
        process text NOT NULL,
        operator text NOT NULL,
        version text NOT NULL,
        dead_after double precision NOT NULL,
        lanes jsonb NOT NULL,
        began timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE station_job (
        job bigint PRIMARY KEY REFERENCES procrastinate_jobs (id) ON DELETE CASCADE,
        station text NOT NULL,
        lane text,
        attempt text,
        outcome text,
        step text,
        error text,
        hint text,
        exit_code integer,
        at timestamptz NOT NULL DEFAULT now()
    );
    """,
)
"""What each version of this tool adds to the previous one; a released step never changes."""

_NOTE = "CREATE TABLE station_schema (version integer NOT NULL, queue text NOT NULL)"


def shared_ledger(settings: Settings, *, patience: float = 60.0) -> Ledger:
    """Return the ledger in the database that the stations share.

    Raises:
        UsageError: none is set, or it is not PostgreSQL, or its driver is not installed.
    """
    url = settings.ledger.database
    if url is None or not url.startswith(("postgresql://", "postgresql+psycopg://")):
        what = "no database is set" if url is None else "the ledger is not in PostgreSQL"
        raise UsageError(
            f"{what}: stations share one PostgreSQL",
            hint="set [ledger] database (--database) to postgresql://…",
        )
    try:
        import procrastinate  # noqa: F401 - is it installed?
        import psycopg_pool  # noqa: F401
    except ImportError:
        raise UsageError(
            "stations need procrastinate and psycopg, which are not installed",
            hint=install_hint("station"),
        ) from None
    return Ledger(url, patience=patience)


def prepare(ledger: Ledger) -> None:
    """Bring the tables to this version; a new database gets them.

    Raises:
        LedgerError: they cannot be created, or a newer version of this tool made them.
    """
    with ledger.writing() as pen:
        connection = pen.connection
        if not are_there(connection):
            _create(connection)
        version, queue = connection.exec_driver_sql("SELECT * FROM station_schema").one()
        newest = _queue_steps()[-1].name
        if version > len(STEPS) or queue > newest:
            raise LedgerError(
                "a newer version of this tool made the stations' tables",
                hint="update azaion-imagebuild (and procrastinate) on this host",
            )
        for step in STEPS[version:]:
            execute(connection, step)
        for path in _queue_steps():
            if path.name > queue:
                execute(connection, path.read_text(encoding="utf-8"))
        if (version, queue) != (len(STEPS), newest):
            connection.exec_driver_sql(
                "UPDATE station_schema SET version = %s, queue = %s", (len(STEPS), newest)
            )


def are_there(connection: sql.Connection) -> bool:
    """Tell whether a station or a submission has used this database."""
    found = connection.exec_driver_sql("SELECT to_regclass('station_schema') IS NOT NULL")
    return bool(found.scalar_one())


def _create(connection: sql.Connection) -> None:
    from procrastinate.schema import SchemaManager

    there = connection.exec_driver_sql("SELECT to_regclass('procrastinate_jobs') IS NOT NULL")
    if not there.scalar_one():  # the site may use it for other jobs
        execute(connection, SchemaManager.get_schema())
    execute(connection, _NOTE)
    connection.exec_driver_sql(
        "INSERT INTO station_schema VALUES (0, %s)", (_queue_steps()[-1].name,)
    )


def _queue_steps() -> list[Path]:
    """Return procrastinate's own migrations, in their order."""
    from procrastinate.schema import SchemaManager

    return sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))


def execute(connection: sql.Connection, statements: str) -> None:
    """Execute a script as it is; SQLAlchemy would read its ``%`` as parameters.

    Raises:
        LedgerError: the database refuses it.
    """
    import psycopg

    try:
        driver(connection).execute(statements)
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise LedgerError(
            f"cannot create the stations' tables: {reason}",
            hint="let the database's user create tables: make it the owner of the database",
        ) from None


def driver(connection: sql.Connection) -> Any:
    """Return psycopg's own connection, in the same transaction."""
    return connection.connection.driver_connection
