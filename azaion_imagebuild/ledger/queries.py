"""What the ledger's rows say: questions to ask over an open connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sql

from ..errors import LedgerError
from ..model import Receipt
from .entry import FIELDS, Entry
from .schema import head, rows
from .standing import FUSE, ROTATE, Credential, Standing

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

_MANY = 500  # values in one IN (…)


def standings(
    connection: Connection, accounts: Mapping[str, str], *, sandbox: bool
) -> dict[str, Standing]:
    """Return what is known of each serial, for ``accounts``: serial → e-mail of its account."""
    found: dict[str, list[Entry]] = {email: [] for email in accounts.values()}
    wanted = list(found)
    for start in range(0, len(wanted), _MANY):
        some = rows.c.email.in_(wanted[start : start + _MANY])
        query = sql.select(rows).where(some, rows.c.sandbox == sandbox)
        for row in connection.execute(query.order_by(rows.c.row.desc())):
            found[row.email].append(entry_of(row))
    return {
        serial: Standing(serial=serial, rows=found[email]) for serial, email in accounts.items()
    }


def recent(connection: Connection, count: int) -> list[Entry]:
    """Return the last rows that completed a build, newest first."""
    built = (rows.c.outcome == "done", rows.c.step.not_in((FUSE, ROTATE)))
    query = sql.select(rows).where(*built).order_by(rows.c.row.desc())
    return [entry_of(row) for row in connection.execute(query.limit(count))]


def attempts(connection: Connection, serial: str | None) -> Iterator[Entry]:
    """Yield the last row of each attempt, of one serial or of all, in the ledger's order."""
    newest = sql.select(sql.func.max(rows.c.row)).group_by(rows.c.attempt)
    if serial is not None:
        newest = newest.where(rows.c.serial == serial)
    query = sql.select(rows).where(rows.c.row.in_(newest)).order_by(rows.c.row)
    for row in _streamed(connection, query):
        yield entry_of(row)


def credentials(connection: Connection, *, sandbox: bool) -> list[Credential]:
    """Return the last known credential of each device in use, the oldest first.

    An attempt that failed before its credential could reach a device does not count.
    """
    wanted = sql.or_(rows.c.account.is_not(None), rows.c.outcome == "retired")
    columns = [rows.c[name] for name in ("serial", "email", "outcome", "credential", "at")]
    query = sql.select(*columns).where(wanted, rows.c.sandbox == sandbox).order_by(rows.c.row)
    found: dict[str, tuple[str, Credential]] = {}
    for row in _streamed(connection, query):
        if row.outcome == "retired":
            found.pop(row.serial, None)
        elif row.outcome == "failed":
            continue  # if it was flashed all the same, an earlier row says so
        elif row.serial not in found or found[row.serial][0] != row.credential:
            given = Credential(serial=row.serial, email=row.email, since=row.at)
            found[row.serial] = (row.credential, given)
    return sorted((each for _, each in found.values()), key=lambda each: each.since)


def numbered(connection: Connection, serial: str | None) -> Iterator[tuple[int, Entry, str]]:
    """Yield (number, row, hash), of one serial or of all, in the ledger's order."""
    query = sql.select(rows).order_by(rows.c.row)
    if serial is not None:
        query = query.where(rows.c.serial == serial)
    for row in _streamed(connection, query):
        yield row.row, entry_of(row), row.hash


def last(connection: Connection, **values: object) -> Entry | None:
    """Return the last row with these values in these columns."""
    query = sql.select(rows).filter_by(**values).order_by(rows.c.row.desc()).limit(1)
    row = connection.execute(query).first()
    return entry_of(row) if row else None


def receipt_of(connection: Connection, entry: Entry) -> Receipt | None:
    """Return where a row is that a lost connection may have committed."""
    same = [
        getattr(rows.c, name) == getattr(entry, name)
        for name in ("attempt", "step", "outcome", "at")
    ]
    row = connection.execute(sql.select(rows.c.row, rows.c.hash).where(*same)).first()
    return Receipt(row=row.row, hash=row.hash) if row else None


def head_of(connection: Connection) -> Receipt:
    """Return how many rows the ledger says it has, and the last one's hash.

    Raises:
        LedgerError: it does not say.
    """
    row = connection.execute(sql.select(head)).first()
    if row is None:
        raise LedgerError(
            "the ledger's head (its number of rows and last hash) is missing",
            hint="compare it with a backup: azaion-imagebuild ledger export",
        )
    return Receipt(row=row.rows, hash=row.hash)


def entry_of(row: Any) -> Entry:
    """Return a row of the table as an :class:`Entry`."""
    return Entry(**{name: getattr(row, name) for name in FIELDS})


def _streamed(connection: Connection, query: Select[Any]) -> Iterator[Any]:
    yield from connection.execution_options(yield_per=1000).execute(query)
