"""The ledger's tables, and bringing a database to this version of them (alembic, forward only)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sql

from ..errors import LedgerError

if TYPE_CHECKING:
    from alembic.config import Config

VERSION = "0001"
"""The newest revision in ``migrations/versions``."""

metadata = sql.MetaData()

rows = sql.Table(
    "ledger",
    metadata,
    sql.Column("row", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("attempt", sql.String, nullable=False, index=True),
    sql.Column("serial", sql.String, nullable=False),
    sql.Column("email", sql.String, nullable=False),
    sql.Column("sandbox", sql.Boolean, nullable=False),
    sql.Column("step", sql.String, nullable=False),
    sql.Column("outcome", sql.String, nullable=False),
    sql.Column("at", sql.String, nullable=False),
    sql.Column("account", sql.String),
    sql.Column("credential", sql.String),
    sql.Column("image", sql.String),
    sql.Column("image_format", sql.String),
    sql.Column("image_sha256", sql.String),
    sql.Column("base_sha256", sql.String),
    sql.Column("proof", sql.String),
    sql.Column("flashed", sql.Boolean, nullable=False),
    sql.Column("device", sql.String),
    sql.Column("usb_instance", sql.String),
    sql.Column("ecid", sql.String),
    sql.Column("seconds", sql.Double),
    sql.Column("exit_code", sql.Integer),
    sql.Column("error", sql.String),
    sql.Column("station", sql.String),
    sql.Column("operator", sql.String),
    sql.Column("host", sql.String),
    sql.Column("process", sql.String),
    sql.Column("version", sql.String),
    sql.Column("release", sql.String),
    sql.Column("board", sql.String),
    sql.Column("extra", sql.String),
    sql.Column("hash", sql.String(64), nullable=False),
    sql.Index("ledger_serial", "serial", "row"),
    sql.Index("ledger_email", "email", "row"),
)

head = sql.Table(
    "ledger_head",
    metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("rows", sql.Integer, nullable=False),
    sql.Column("hash", sql.String(64), nullable=False),
)
"""One line: how many rows there are, and the last one's hash."""


def migrate(engine: sql.Engine) -> None:
    """Bring the database to this version; a new one gets its tables.

    Raises:
        LedgerError: it is of a newer version of this tool.
    """
    found = _version(engine)
    if found == VERSION:
        return
    if found is not None:
        _refuse_a_newer(found)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(sql.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        found = _version_of(connection)  # another process may have been first
        if found is None:
            _create(connection)
        elif found != VERSION:
            _upgrade(connection)


def _create(connection: sql.Connection) -> None:
    """Make what all migrations together make, without alembic: importing it takes 0.3 s."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(head.insert().values(id=1, rows=0, hash="0" * 64))
    connection.execute(
        sql.text(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
            " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
    )
    stamp = sql.text("INSERT INTO alembic_version (version_num) VALUES (:version)")
    connection.execute(stamp, {"version": VERSION})


def _upgrade(connection: sql.Connection) -> None:
    from alembic import command

    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _refuse_a_newer(found: str) -> None:
    from alembic.script import ScriptDirectory

    known = {each.revision for each in ScriptDirectory.from_config(_alembic()).walk_revisions()}
    if found not in known:
        raise LedgerError(
            f"the ledger is of a newer version ({found}) than this tool knows ({VERSION})",
            hint="update azaion-imagebuild on this host",
        )


def _alembic() -> Config:
    from alembic.config import Config

    config = Config(attributes={})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


LOCK = 0x617A61696F6E  # "azaion": PostgreSQL's advisory lock around each write


def _version(engine: sql.Engine) -> str | None:
    with engine.connect() as connection:
        return _version_of(connection)


def _version_of(connection: sql.Connection) -> str | None:
    if not sql.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sql.text("SELECT version_num FROM alembic_version"))
    return found
