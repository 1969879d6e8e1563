"""Writing the ledger: one or many rows in a commit, after the guards have agreed."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from ..errors import LedgerError, OperatorError, PreflightError, raise_for
from ..model import Receipt
from ..settings import LedgerSettings
from ..system.signals import check_interrupt
from .engine import FILE, Database, database_errors
from .entry import FIELDS, Entry, now
from .standing import FLASH, FUSE, Credential, Standing, died

if TYPE_CHECKING:
    import sqlalchemy as sql
    from typing_extensions import Self

_AWAY_FOR = 60.0  # seconds to wait for a database server that restarts

Fence = Callable[["sql.Connection", Entry], None]
"""Called in the transaction that writes a row; raises if it must not be written."""


def ledger_of(settings: LedgerSettings, state_dir: Path, *, create: bool = True) -> Ledger:
    """Return the ledger of the settings; the default is one in the state folder."""
    return Ledger(settings.database or state_dir / FILE, create=create)


@dataclasses.dataclass(slots=True)
class Ticket:
    """A row on its way into the ledger."""

    entry: Entry
    guard: LedgerSettings | None = None
    fence: Fence | None = None
    receipt: Receipt | None = None
    error: OperatorError | None = None
    tried: bool = False

    @property
    def settled(self) -> bool:
        return self.receipt is not None or self.error is not None


class Ledger:
    """Opened on first use; a context manager that closes it. Safe for threads.

    Rows of several threads are committed together, with one fsync.
    """

    def __init__(
        self, url: str | Path, *, patience: float = _AWAY_FOR, create: bool = True
    ) -> None:
        """Name the database.

        Args:
            url: a URL as SQLAlchemy writes it, or an SQLite file.
            patience: seconds to wait for a server that has gone away.
            create: create a missing ledger; otherwise a missing one is a LedgerError.
        """
        self.url = url
        self._patience = patience
        self._database = Database(url, create=create)
        self._writing, self._queueing = threading.Lock(), threading.Lock()
        self._waiting: list[Ticket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def begin(self, entry: Entry, settings: LedgerSettings, fence: Fence | None = None) -> Receipt:
        """Commit the intent to provision, unless the ledger's guards (or the fence) refuse it.

        The check and the write are one transaction: of two serials with one account, or two
        attempts for one serial at the same time, one is refused.

        Raises:
            PreflightError: the reason for refusing it.
            LedgerError: the ledger cannot be written.
        """
        return self._written(Ticket(entry, settings, fence))

    def write(self, entry: Entry, fence: Fence | None = None) -> Receipt:
        """Commit one row, unless the fence refuses it.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        return self._written(Ticket(entry, fence=fence))

    @contextlib.contextmanager
    def writing(self) -> Iterator[Pen]:
        """Yield a pen that writes rows, and what belongs to them, in one transaction.

        Nobody else writes the ledger meanwhile.

        Raises:
            LedgerError: it cannot be written.
        """
        import sqlalchemy as sql

        try:
            with self._database.writing() as connection:
                yield Pen(connection)
        except (sql.exc.SQLAlchemyError, OSError) as error:
            raise self._database.failure("write", error) from None

    def reading(self) -> contextlib.AbstractContextManager[sql.Connection]:
        """Yield a connection for reading; a LedgerError if the ledger cannot be read."""
        return self._database.reading()

    # Each of the following raises LedgerError if the ledger cannot be read.

    def standings(self, accounts: Mapping[str, str], *, sandbox: bool) -> dict[str, Standing]:
        """Return each serial's standing.

        Args:
            accounts: serial → e-mail address of its account.
            sandbox: they are devices of the sandbox.
        """
        from . import queries

        with self.reading() as connection:
            return queries.standings(connection, accounts, sandbox=sandbox)

    def recent(self, count: int) -> list[Entry]:
        """Return the last rows that completed a build, newest first."""
        from . import queries

        with self.reading() as connection:
            return queries.recent(connection, count)

    def attempts(self, serial: str | None = None) -> Iterator[Entry]:
        """Yield the last row of each attempt, of one serial or of all, in the ledger's order."""
        from . import queries

        with self.reading() as connection:
            yield from queries.attempts(connection, serial)

    def newest(self) -> Iterator[Entry]:
        """Yield every row, newest first; a reader of the last ones stops early."""
        from . import queries

        with self.reading() as connection:
            yield from queries.newest(connection)

    def unknown(self, *, sandbox: bool) -> list[Entry]:
        """Return the row that left each device unknown, the oldest first."""
        from . import queries

        with self.reading() as connection:
            return queries.unknown(connection, sandbox=sandbox)

    def credentials(self, *, sandbox: bool) -> list[Credential]:
        """Return the last known credential of each device in use, the oldest first."""
        from . import queries

        with self.reading() as connection:
            return queries.credentials(connection, sandbox=sandbox)

    def rows(self, serial: str | None = None) -> Iterator[tuple[int, Entry, str]]:
        """Yield (number, row, hash), of one serial or of all, in the ledger's order."""
        from . import queries

        with self.reading() as connection:
            yield from queries.numbered(connection, serial)

    def stored(self) -> Iterator[tuple[int, Entry, str]]:
        """Yield (number, row, hash) of every row as stored, including invalid values."""
        from . import queries

        with self.reading() as connection:
            yield from queries.stored(connection)

    def head(self) -> Receipt:
        """Return the number of rows in the ledger's head, and the last one's hash."""
        from . import queries

        with self.reading() as connection:
            return queries.head_of(connection)

    def foreign(self) -> list[str]:
        """Return what is in its schema that this tool did not make, in words."""
        from .soundness import foreign

        with self.reading() as connection:
            return foreign(connection)

    def damage(self) -> list[str]:
        """Return what is wrong with its file, in words."""
        from .soundness import damage

        with self.reading() as connection:
            return damage(connection)

    def _written(self, ticket: Ticket) -> Receipt:
        """Queue a row; the thread that gets the pen writes all waiting rows."""
        with self._queueing:
            self._waiting.append(ticket)
        with self._writing:
            if not ticket.settled:
                with self._queueing:
                    batch, self._waiting = self._waiting, []
                self._commit(batch)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.receipt is not None  # noqa: S101 - settled, and without an error
        return ticket.receipt

    def _commit(self, batch: Sequence[Ticket]) -> None:
        try:
            self._commit_with_patience(batch)
        except BaseException:  # an interrupt: no thread may wait for these rows
            gone = "stopped while waiting for the database"
            _fail(batch, LedgerError(gone, hint="check its server, then run it again"))
            raise

    def _commit_with_patience(self, batch: Sequence[Ticket]) -> None:
        import sqlalchemy as sql

        deadline = time.monotonic() + self._patience
        while True:
            try:
                with self._database.writing() as connection:
                    receipts = insert(connection, batch)
            except LedgerError as error:
                _fail(batch, error)
                return
            except sql.exc.DBAPIError as error:
                if self._database.is_away(error) and time.monotonic() < deadline:
                    for ticket in batch:
                        ticket.tried = True  # the commit may have succeeded
                        ticket.error = None
                    check_interrupt()
                    time.sleep(1.0)
                    continue
                _fail(batch, self._database.failure("write", error))
                return
            except database_errors() as error:
                _fail(batch, self._database.failure("write", error))
                return
            for ticket, receipt in receipts:
                ticket.receipt = receipt
            return


class Pen(Struct, frozen=True):
    """Writes into the ledger within one transaction: see :meth:`Ledger.writing`."""

    connection: sql.Connection

    def write(self, entry: Entry) -> Receipt:
        """Add a row."""
        ((_, receipt),) = insert(self.connection, [Ticket(entry)])
        return receipt

    def head(self) -> Receipt:
        """Return the number of rows, and the last one's hash."""
        from . import queries

        return queries.head_of(self.connection)

    def last(self, **values: object) -> Entry | None:
        """Return the last row with these values: ``last(attempt=…)``, ``last(serial=…)``."""
        from . import queries

        return queries.last(self.connection, **values)


def insert(connection: sql.Connection, batch: Sequence[Ticket]) -> list[tuple[Ticket, Receipt]]:
    """Chain the rows of a batch to the last one; a refused row does not stop the others."""
    from .queries import head_of, receipt_of
    from .schema import head, rows
    from .soundness import refuse_altered

    last = head_of(connection)
    values: list[dict[str, object]] = []
    receipts = []
    for ticket in batch:
        if ticket.tried and (there := receipt_of(connection, ticket.entry)):
            receipts.append((ticket, there))
            continue
        if (ticket.guard or ticket.fence) and values:  # they must see the previous rows
            connection.execute(rows.insert(), values)
            values = []
        try:
            if ticket.fence is not None:
                ticket.fence(connection, ticket.entry)
            if ticket.guard is not None:
                refuse_altered(connection, ticket.entry, last)
            added = _guarded(connection, ticket)
        except OperatorError as error:
            ticket.error = error
            continue
        for entry in added:
            number = last.row + 1
            last = Receipt(row=number, hash=entry.hash_after(number, last.hash))
            fields = {name: getattr(entry, name) for name in FIELDS}
            values.append({"row": number, "hash": last.hash, **fields})
        receipts.append((ticket, last))
    if values:
        connection.execute(rows.insert(), values)
    connection.execute(head.update().values(rows=last.row, hash=last.hash))
    return receipts


def _guarded(connection: sql.Connection, ticket: Ticket) -> list[Entry]:
    """Return the rows of a ticket: its own, if needed after the end of an attempt that died.

    Raises:
        PreflightError: the ledger's guards refuse it.
    """
    from . import queries

    entry, guard = ticket.entry, ticket.guard
    if guard is None:
        return [entry]
    accounts = {entry.serial: entry.email}
    known = queries.standings(connection, accounts, sandbox=entry.sandbox)[entry.serial]
    findings = [*known.findings(guard.reprovision, confirmed=guard.confirmed)]
    if entry.step == FUSE:
        findings += known.findings_of_fuses(asked=True)
    raise_for(findings, PreflightError)
    if entry.step == FUSE and known.fused is not None:  # this was not so at preflight
        raise PreflightError(
            f"{entry.serial} was just fused by another station",
            hint="run the same command again: it continues without fusing",
        )
    return [ended(known.last), entry] if known.last and died(known.last) else [entry]


def ended(row: Entry) -> Entry:
    """Return the row that ends an attempt whose process is gone."""
    outcome: Any = "unknown" if row.step in (FLASH, FUSE) else "failed"
    error = f"it was killed during {row.step}"
    return structs.replace(row, outcome=outcome, at=now(), error=error)


def _fail(batch: Sequence[Ticket], error: LedgerError) -> None:
    for ticket in batch:  # one each: the callers add to its problems
        ticket.error = ticket.error or LedgerError.of_problems(error.problems)
