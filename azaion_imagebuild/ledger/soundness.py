"""What a write relies on: no trigger of another program, and rows that were not altered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import sqlalchemy as sql

from ..errors import LedgerError
from ..model import Receipt
from .chain import ALTERED, NOT_LAST
from .entry import FIRST_HASH, Entry
from .queries import entry_of
from .schema import rows

if TYPE_CHECKING:
    from sqlalchemy import Connection

_FOREIGN = {
    "sqlite": (
        "SELECT type, name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
        " OR (type <> 'table' AND name IN ('ledger', 'ledger_head'))"
    ),
    "postgresql": (
        "WITH ours AS (SELECT oid, relname, relkind, relrowsecurity FROM pg_class"
        " WHERE oid IN (to_regclass('ledger'), to_regclass('ledger_head')))"
        " SELECT 'trigger', tgname, relname FROM pg_trigger JOIN ours ON ours.oid = tgrelid"
        " WHERE NOT tgisinternal"
        " UNION ALL SELECT 'rule', rulename, relname FROM pg_rewrite JOIN ours"
        " ON ours.oid = ev_class"
        " UNION ALL SELECT 'row security', relname, relname FROM ours WHERE relrowsecurity"
        " UNION ALL SELECT 'partition or view', relname, relname FROM ours WHERE relkind <> 'r'"
    ),
}
"""Queries of what changes, hides or drops rows: kind, name, table. This tool makes none of them."""


def foreign(connection: Connection) -> list[str]:
    """Return what is in the ledger's schema that this tool did not make, in words."""
    found = connection.exec_driver_sql(_FOREIGN[connection.dialect.name])
    return [
        f"the {kind} {name} on {table} was not created by this tool" for kind, name, table in found
    ]


def damage(connection: Connection) -> list[str]:
    """Return what SQLite finds wrong with its file, in words.

    An index that differs from its table hides a row from every search, but not from the chain.
    """
    if connection.dialect.name != "sqlite":
        return []
    found = connection.exec_driver_sql(f"PRAGMA integrity_check({_MOST})")
    return [f"the database file is damaged: {text}" for (text,) in found if text != "ok"]


_MOST = 5


def refuse_foreign(connection: Connection) -> None:
    """Refuse to write into tables that another program's trigger or rule may change.

    Raises:
        LedgerError: there is one.
    """
    if found := foreign(connection):
        raise LedgerError(
            f"the ledger cannot be trusted: {'; '.join(found)}",
            hint="find out who added it, drop it, then check: azaion-imagebuild ledger verify",
        )


def refuse_altered(connection: Connection, entry: Entry, head: Receipt) -> None:
    """Refuse to go on from rows that were altered: the last one, and those of this account.

    The whole chain is checked by ``ledger verify`` only.

    Raises:
        LedgerError: one was edited, removed or added.
    """
    for problem in _altered(connection, entry.email, head):
        raise LedgerError(
            f"the ledger was changed by another program: {problem}",
            hint="find every change: azaion-imagebuild ledger verify; then restore a backup",
        )


def _altered(connection: Connection, email: str, head: Receipt) -> Iterator[str]:
    # Two queries: for one with OR, SQLite reads the whole table.
    yield from _unchained(connection, rows.c.email == email)
    yield from _unchained(connection, rows.c.row >= head.row)
    query = sql.select(rows.c.row, rows.c.hash).order_by(rows.c.row.desc()).limit(1)
    found = connection.execute(query).first()
    last = Receipt(row=found.row, hash=found.hash) if found else Receipt(row=0, hash=FIRST_HASH)
    if last.row < head.row:
        yield f"row {head.row} was removed from its end"
    elif last != head:
        yield NOT_LAST.format(last.row, head.row)


def _unchained(connection: Connection, wanted: sql.ColumnElement[bool]) -> Iterator[str]:
    """Yield which of these rows are not chained to the one before."""
    before = rows.alias()
    query = (
        sql.select(rows, before.c.hash.label("previous"))
        .outerjoin(before, before.c.row == rows.c.row - 1)
        .where(wanted)
    )
    for row in connection.execute(query):
        entry = entry_of(row)
        previous = row.previous if row.row > 1 else FIRST_HASH
        if previous is None:
            yield f"row {row.row - 1} was removed"
        elif entry.hash_after(row.row, previous) != row.hash:
            yield ALTERED.format(row.row)
