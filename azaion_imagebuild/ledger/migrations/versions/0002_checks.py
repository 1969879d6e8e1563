"""Checks of every value: SQLite stores any type in any column, and would store a second head.

Rows that fail a check stay, so that ``ledger verify`` names them.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sql
from alembic import op

revision = "0002"
down_revision = "0001"

_FLAGS = ("sandbox", "flashed")
_NEEDED = ("attempt", "serial", "email", "step", "outcome", "at", "hash")
_COLUMNS = (
    "attempt", "serial", "email", "sandbox", "step", "outcome", "at", "account", "credential",
    "image", "image_format", "image_sha256", "base_sha256", "proof", "flashed", "device",
    "usb_instance", "ecid", "seconds", "exit_code", "error", "station", "operator", "host",
    "process", "version", "release", "board", "extra", "hash",
)  # fmt: skip
_OUTCOME = "outcome IN ('started', 'done', 'failed', 'unknown', 'retired')"
_HIDDEN = "typeof(\"email\") <> 'text'"


def upgrade() -> None:
    """Add the checks; SQLite needs new tables for that."""
    if op.get_bind().dialect.name != "sqlite":
        _add("ledger", "ledger_known_outcome", _OUTCOME)
        _add("ledger_head", "ledger_head_is_one_row", "id = 1")
        return
    op.execute("PRAGMA ignore_check_constraints = ON")
    for index in ("ix_ledger_attempt", "ledger_serial", "ledger_email"):
        op.drop_index(index)
    _copy(
        "ledger", *map(_column, _COLUMNS), *map(_check, _COLUMNS), _named(_OUTCOME, "known_outcome")
    )
    op.create_index("ix_ledger_attempt", "ledger", ["attempt"])
    op.create_index("ledger_serial", "ledger", ["serial", "row"])
    op.create_index("ledger_email", "ledger", ["email", "row"])
    op.create_index("ledger_hidden", "ledger", ["row"], sqlite_where=sql.text(_HIDDEN))
    _copy(
        "ledger_head",
        sql.Column("rows", sql.Integer, nullable=False),
        sql.Column("hash", sql.String(64), nullable=False),
        _named("typeof(\"rows\") = 'integer'", "head_rows"),
        _named("typeof(\"hash\") = 'text'", "head_hash"),
        _named("id = 1", "head_is_one_row"),
    )
    op.execute("PRAGMA ignore_check_constraints = OFF")


def _copy(name: str, *parts: sql.Column[object] | sql.CheckConstraint) -> None:
    op.rename_table(name, f"{name}_0001")
    key = "row" if name == "ledger" else "id"
    op.create_table(
        name, sql.Column(key, sql.Integer, primary_key=True, autoincrement=False), *parts
    )
    op.execute(f"INSERT INTO {name} SELECT * FROM {name}_0001")  # noqa: S608
    op.drop_table(f"{name}_0001")


def _column(name: str) -> sql.Column[object]:
    kinds: dict[str, Any] = {
        "seconds": sql.Double(),
        "exit_code": sql.Integer(),
        "hash": sql.String(64),
    }
    kinds |= dict.fromkeys(_FLAGS, sql.Boolean())
    return sql.Column(name, kinds.get(name, sql.String()), nullable=name not in (*_FLAGS, *_NEEDED))


def _check(name: str) -> sql.CheckConstraint:
    kinds = {"seconds": "real", "exit_code": "integer", "sandbox": "integer", "flashed": "integer"}
    condition = f"typeof(\"{name}\") = '{kinds.get(name, 'text')}'"
    if name in _FLAGS:
        condition += f' AND "{name}" IN (0, 1)'
    elif name not in _NEEDED:
        condition += f' OR "{name}" IS NULL'
    return _named(condition, name)


def _named(condition: str, name: str) -> sql.CheckConstraint:
    return sql.CheckConstraint(condition, name=f"ledger_{name}")


def _add(table: str, name: str, condition: str) -> None:
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID")
    odd = f"SELECT count(*) FROM {table} WHERE NOT ({condition})"  # noqa: S608
    if op.get_bind().scalar(sql.text(odd)) == 0:
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
