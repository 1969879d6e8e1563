"""Queries of the ledger's rows over an open connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sql

from ..errors import LedgerError
from ..model import Receipt
from .entry import FIELDS, KINDS, OUTCOMES, Entry, odd_hash, odd_number, odd_values
from .schema import HIDDEN, head, rows
from .standing import FLASH, FUSE, ROTATE, Credential, Standing

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

COMPARE = "compare it with a backup (azaion-imagebuild ledger export); find out who wrote it"
FLAGS = [name for name in FIELDS if KINDS[name] == (bool,)]
_MANY = 500  # values in one IN (…)


def standings(
    connection: Connection, accounts: Mapping[str, str], *, sandbox: bool
) -> dict[str, Standing]:
    """Return each serial's standing, for ``accounts``: serial → e-mail of its account."""
    found: dict[str, list[Entry]] = {email: [] for email in accounts.values()}
    wanted = list(found)
    for start in range(0, len(wanted), _MANY):
        some = rows.c.email.in_(wanted[start : start + _MANY])
        # Compared here, not in SQL: a value that is neither 0 nor 1 must not hide a row.
        for row in connection.execute(sql.select(rows).where(some).order_by(rows.c.row.desc())):
            entry = entry_of(row)
            if entry.sandbox == sandbox:
                found[entry.email].append(entry)
    _refuse_hidden(connection)
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


def newest(connection: Connection) -> Iterator[Entry]:
    """Yield every row, newest first: a reader of the last ones stops early."""
    for row in _streamed(connection, sql.select(rows).order_by(rows.c.row.desc())):
        yield entry_of(row)


def unknown(connection: Connection, *, sandbox: bool) -> list[Entry]:
    """Return the row that left each device, or its fuses, unknown, the oldest first."""
    later = rows.alias()
    is_open = (
        rows.c.outcome == "started",
        rows.c.step.in_((FLASH, FUSE)),
        ~sql.exists().where(later.c.attempt == rows.c.attempt, later.c.row > rows.c.row),
    )
    perhaps = sql.or_(rows.c.outcome == "unknown", sql.and_(*is_open))
    query = sql.select(rows.c.serial, rows.c.email).where(perhaps).distinct()
    accounts = {row.serial: row.email for row in connection.execute(query)}
    found = standings(connection, accounts, sandbox=sandbox).values()
    doubts = [each.doubt or each.perhaps_fused for each in found if not each.at_work]
    return sorted(filter(None, doubts), key=lambda row: row.at)


def credentials(connection: Connection, *, sandbox: bool) -> list[Credential]:
    """Return the last known credential of each device in use, the oldest first.

    An attempt that failed before its credential could reach a device does not count.
    """
    others = [each for each in OUTCOMES if each != "retired"]
    wanted = sql.or_(rows.c.account.is_not(None), rows.c.outcome.not_in(others))
    query = sql.select(rows).where(wanted).order_by(rows.c.row)
    found: dict[str, tuple[str | None, Credential]] = {}
    for row in map(entry_of, _streamed(connection, query)):
        if row.sandbox != sandbox:
            continue
        if row.outcome == "retired":
            found.pop(row.serial, None)
        elif row.outcome == "failed":
            continue  # if it was flashed nevertheless, an earlier row says so
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


def stored(connection: Connection) -> Iterator[tuple[int, Entry, str]]:
    """Yield (number, row, hash) of every row as stored, including invalid values."""
    for row in _streamed(connection, sql.select(rows).order_by(rows.c.row)):
        yield row.row, _as_stored(row), row.hash


def last(connection: Connection, **values: object) -> Entry | None:
    """Return the last row with these values in these columns."""
    query = sql.select(rows).filter_by(**values).order_by(rows.c.row.desc()).limit(1)
    row = connection.execute(query).first()
    return entry_of(row) if row else None


def receipt_of(connection: Connection, entry: Entry) -> Receipt | None:
    """Return the receipt of a row that a lost connection may have committed."""
    same = [
        getattr(rows.c, name) == getattr(entry, name)
        for name in ("attempt", "step", "outcome", "at")
    ]
    row = connection.execute(sql.select(rows.c.row, rows.c.hash).where(*same)).first()
    return Receipt(row=row.row, hash=row.hash) if row else None


def head_of(connection: Connection) -> Receipt:
    """Return the number of rows in the ledger's head, and the last one's hash.

    Raises:
        LedgerError: the head is missing, or there are several.
    """
    found = connection.execute(sql.select(head).order_by(head.c.id).limit(2)).all()
    if not found:
        raise LedgerError(
            "the ledger's head (its number of rows and last hash) is missing", hint=COMPARE
        )
    if len(found) > 1:
        raise LedgerError("the ledger has more than one head: a row was added", hint=COMPARE)
    ((number, count, seal),) = found
    if (number, type(count), type(seal)) != (1, int, str):
        raise LedgerError(
            f"the ledger's head was altered: {ascii(tuple(found[0]))[:100]}", hint=COMPARE
        )
    return Receipt(row=count, hash=seal)


def entry_of(row: Any) -> Entry:
    """Return a row of the table as an :class:`Entry`.

    Raises:
        LedgerError: a value has a type that this tool never writes.
    """
    entry = _as_stored(row)
    if odd := odd_number(row.row) + odd_values(entry) + odd_hash(row.hash):
        raise LedgerError(
            f"row {row.row} of the ledger was altered: {'; '.join(odd)}",
            hint="find every change: azaion-imagebuild ledger verify",
        )
    return entry


def _as_stored(row: Any) -> Entry:
    fields = dict(zip(FIELDS, row[1:], strict=False))  # its number comes before them
    for name in FLAGS:
        if type(fields[name]) is int and fields[name] in (0, 1):  # as SQLite stores a Boolean
            fields[name] = bool(fields[name])
    return Entry(**fields)


def _refuse_hidden(connection: Connection) -> None:
    """Refuse a ledger with a row that no search for an account finds.

    Raises:
        LedgerError: there is such a row.
    """
    if connection.dialect.name != "sqlite":  # the others store text in a column of text
        return
    hidden = sql.select(rows).where(sql.text(HIDDEN)).limit(1)
    for row in connection.execute(hidden):
        entry_of(row)


def _streamed(connection: Connection, query: Select[Any]) -> Iterator[Any]:
    yield from connection.execution_options(yield_per=1000).execute(query)
