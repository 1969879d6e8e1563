"""The ledger's tables, and the migration of a database to them (alembic, only forward)."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import sqlalchemy as sql

from ..errors import LedgerError
from .entry import FIELDS, FIRST_HASH, KINDS, OUTCOMES

if TYPE_CHECKING:
    from alembic.config import Config

VERSION = "0002"
"""The newest revision in ``migrations/versions``."""

HIDDEN = "typeof(\"email\") <> 'text'"
"""SQLite's condition for a row that no search for an account finds; an index holds only these."""


class _Flag(sql.Boolean):
    """A Boolean that is read as stored, which in SQLite may be 2."""

    cache_ok = True

    def result_processor(self, dialect: Any, coltype: Any) -> None:
        return None


_TYPES: dict[type, type[sql.types.TypeEngine[Any]]] = {
    bool: _Flag,
    float: sql.Double,
    int: sql.Integer,
    str: sql.String,
}
_AFFINITIES = {bool: "integer", float: "real", int: "integer", str: "text"}


def _column(name: str) -> sql.Column[Any]:
    kinds = KINDS[name]
    return sql.Column(name, _TYPES[kinds[0]], nullable=NoneType in kinds, index=name == "attempt")


def _check(table: str, name: str, kinds: tuple[type, ...]) -> sql.CheckConstraint:
    """Return the check that SQLite, which stores any type in any column, needs for a column."""
    condition = f"typeof(\"{name}\") = '{_AFFINITIES[kinds[0]]}'"
    if kinds[0] is bool:
        condition += f' AND "{name}" IN (0, 1)'
    if NoneType in kinds:
        condition += f' OR "{name}" IS NULL'
    return sql.CheckConstraint(condition, name=f"{table}_{name}").ddl_if(dialect="sqlite")


metadata = sql.MetaData()

rows = sql.Table(
    "ledger",
    metadata,
    sql.Column("row", sql.Integer, primary_key=True, autoincrement=False),
    *map(_column, FIELDS),
    sql.Column("hash", sql.String(64), nullable=False),
    sql.Index("ledger_serial", "serial", "row"),
    *(_check("ledger", name, kinds) for name, kinds in KINDS.items()),
    _check("ledger", "hash", (str,)),
    sql.CheckConstraint(f"outcome IN {OUTCOMES}", name="ledger_known_outcome"),
    sql.Index("ledger_email", "email", "row"),
    sql.Index("ledger_hidden", "row", sqlite_where=sql.text(HIDDEN)).ddl_if(dialect="sqlite"),
)

head = sql.Table(
    "ledger_head",
    metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("rows", sql.Integer, nullable=False),
    sql.Column("hash", sql.String(64), nullable=False),
    _check("ledger_head", "rows", (int,)),
    _check("ledger_head", "hash", (str,)),
    sql.CheckConstraint("id = 1", name="ledger_head_is_one_row"),
)
"""A table of one row: the number of rows in the ledger, and the last one's hash."""


def migrate(engine: sql.Engine, *, create: bool = True) -> None:
    """Migrate the database to this version; with ``create``, a new one gets its tables.

    Raises:
        LedgerError: a newer version of this tool wrote it.
    """
    found = _version(engine)
    if found == VERSION:
        return
    if found is not None:
        _refuse_a_newer(found)
    elif not create:
        raise LedgerError(
            "there is no ledger in this database",
            hint="name the right one by --database, or restore it from a backup",
        )
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(sql.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        found = _version_of(connection)  # another process may have been faster
        if found is None:
            _create(connection)
        elif found != VERSION:
            _upgrade(connection)


def _create(connection: sql.Connection) -> None:
    """Create the tables as all migrations would, but without alembic, whose import takes 0.3 s."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(head.insert().values(id=1, rows=0, hash=FIRST_HASH))
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
            f"the ledger has a newer version ({found}) than this tool supports ({VERSION})",
            hint="update azaion-imagebuild on this host",
        )


def _alembic() -> Config:
    from alembic.config import Config

    config = Config(attributes={})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


LOCK = 0x617A61696F6E  # "azaion": PostgreSQL's advisory lock for each write


def _version(engine: sql.Engine) -> str | None:
    with engine.connect() as connection:
        return _version_of(connection)


def _version_of(connection: sql.Connection) -> str | None:
    if not sql.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sql.text("SELECT version_num FROM alembic_version"))
    return found
