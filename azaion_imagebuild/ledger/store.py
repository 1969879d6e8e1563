"""Reading and writing the ledger: SQLite under the state folder, or PostgreSQL by URL."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from ..errors import LedgerError, OperatorError, PreflightError, install_hint
from ..model import Receipt
from ..secret import Secret
from ..settings import LedgerSettings
from ..system.files import make_folder
from ..system.locks import locked
from ..system.signals import check_interrupt
from .entry import FIELDS, Entry, now
from .standing import FLASH, FUSE, ROTATE, Credential, Standing, died

if TYPE_CHECKING:
    import sqlalchemy as sql
    from typing_extensions import Self

FILE = "ledger.sqlite3"
_LOCKED_FOR = 30.0  # seconds to wait for another writer
_AWAY_FOR = 60.0  # seconds to wait for a database server that restarts
_PASSWORDS = ("password", "sslpassword")  # names in the query of a URL of PostgreSQL
_MANY = 500  # values in one IN (…)
PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""How psycopg notices that a PostgreSQL server has silently gone: within half a minute."""

Fence = Callable[["sql.Connection", Entry], None]
"""Looks, in the transaction that writes a row, whether it may be written, or raises its reason."""


def ledger_of(settings: LedgerSettings, state_dir: Path) -> Ledger:
    """Return the ledger that the settings name; by default one in the state folder."""
    return Ledger(settings.database or f"sqlite:///{state_dir / FILE}")


@dataclasses.dataclass(slots=True)
class _Ticket:
    """One row on its way into the ledger."""

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
    """Opened by its first use; a context manager that closes it. Safe for threads.

    Rows that several threads write at once are committed together: one fsync serves them all.
    """

    def __init__(self, url: str, *, patience: float = _AWAY_FOR) -> None:
        """Name the database; ``patience``: seconds to wait for a server that has gone away."""
        self.url = url
        self._patience = patience
        self._engine: sql.Engine | None = None
        self._passwords: tuple[Secret, ...] = ()  # alive, so that they are redacted everywhere
        self._opening, self._writing, self._queueing = (threading.Lock() for _ in range(3))
        self._waiting: list[_Ticket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def begin(self, entry: Entry, settings: LedgerSettings, fence: Fence | None = None) -> Receipt:
        """Commit the intent to provision, unless the ledger (or the fence) speaks against it.

        Looking and writing are one transaction: of two serials with one account, or two attempts
        for one serial at the same time, one is refused.

        Raises:
            PreflightError: what speaks against it.
            LedgerError: the ledger cannot be written.
        """
        return self._written(_Ticket(entry, settings, fence))

    def write(self, entry: Entry, fence: Fence | None = None) -> Receipt:
        """Commit one row, unless the fence speaks against it.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        return self._written(_Ticket(entry, fence=fence))

    @contextlib.contextmanager
    def writing(self) -> Iterator[Pen]:
        """Yield a pen: rows, and what else must be so with them, in one transaction.

        Nobody else writes the ledger meanwhile.

        Raises:
            LedgerError: it cannot be written.
        """
        import sqlalchemy as sql

        try:
            with self._transaction() as connection:
                yield Pen(connection)
        except (sql.exc.SQLAlchemyError, OSError) as error:
            raise self._cannot("write", error) from None

    def standings(self, accounts: Mapping[str, str], *, sandbox: bool) -> dict[str, Standing]:
        """Return what is known of each serial.

        Args:
            accounts: serial → e-mail address of its account.
            sandbox: of the sandbox's devices, or of real ones.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        with self.reading() as connection:
            return _standings(connection, accounts, sandbox)

    def recent(self, count: int) -> list[Entry]:
        """Return the last rows that ended a build well, newest first.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        import sqlalchemy as sql

        from .schema import rows

        built = (rows.c.outcome == "done", rows.c.step.not_in((FUSE, ROTATE)))
        query = sql.select(rows).where(*built).order_by(rows.c.row.desc())
        with self.reading() as connection:
            return [_entry(row) for row in connection.execute(query.limit(count))]

    def attempts(self, serial: str | None = None) -> Iterator[Entry]:
        """Yield the last row of each attempt, of one serial or of all, in the ledger's order.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        import sqlalchemy as sql

        from .schema import rows

        newest = sql.select(sql.func.max(rows.c.row)).group_by(rows.c.attempt)
        if serial is not None:
            newest = newest.where(rows.c.serial == serial)
        query = sql.select(rows).where(rows.c.row.in_(newest)).order_by(rows.c.row)
        with self.reading() as connection:
            for row in connection.execution_options(yield_per=1000).execute(query):
                yield _entry(row)

    def credentials(self, *, sandbox: bool) -> list[Credential]:
        """Return the last known credential of each device in use, the oldest first.

        One by which an attempt failed before it could be on a device is none.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        import sqlalchemy as sql

        from .schema import rows

        wanted = sql.or_(rows.c.account.is_not(None), rows.c.outcome == "retired")
        columns = [rows.c[name] for name in ("serial", "email", "outcome", "credential", "at")]
        query = sql.select(*columns).where(wanted, rows.c.sandbox == sandbox).order_by(rows.c.row)
        found: dict[str, tuple[str, Credential]] = {}
        with self.reading() as connection:
            for row in connection.execution_options(yield_per=1000).execute(query):
                if row.outcome == "retired":
                    found.pop(row.serial, None)
                elif row.outcome == "failed":
                    continue  # what was flashed all the same has an earlier row
                elif row.serial not in found or found[row.serial][0] != row.credential:
                    given = Credential(serial=row.serial, email=row.email, since=row.at)
                    found[row.serial] = (row.credential, given)
        return sorted((each for _, each in found.values()), key=lambda each: each.since)

    def rows(self, serial: str | None = None) -> Iterator[tuple[int, Entry, str]]:
        """Yield (number, row, hash), of one serial or of all, in the order of the ledger.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        import sqlalchemy as sql

        from .schema import rows

        query = sql.select(rows).order_by(rows.c.row)
        if serial is not None:
            query = query.where(rows.c.serial == serial)
        with self.reading() as connection:
            for row in connection.execution_options(yield_per=1000).execute(query):
                yield row.row, _entry(row), row.hash

    def head(self) -> Receipt:
        """Return what the ledger says of itself: how many rows, and the last one's hash.

        Raises:
            LedgerError: the ledger cannot be read, or says nothing.
        """
        with self.reading() as connection:
            return _head(connection)

    def _written(self, ticket: _Ticket) -> Receipt:
        """Hand a row in; whoever gets the pen writes all rows that wait."""
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

    def _commit(self, batch: Sequence[_Ticket]) -> None:
        try:
            self._commit_with_patience(batch)
        except BaseException:  # an interrupt: nobody may wait for these rows
            gone = "stopped while it waited for the database"
            _fail(batch, LedgerError(gone, hint="look at its server, then run it again"))
            raise

    def _commit_with_patience(self, batch: Sequence[_Ticket]) -> None:
        import sqlalchemy as sql

        deadline = time.monotonic() + self._patience
        while True:
            try:
                with self._transaction() as connection:
                    receipts = _insert(connection, batch)
            except LedgerError as error:
                _fail(batch, error)
                return
            except sql.exc.DBAPIError as error:
                if _is_away(error, self._engine) and time.monotonic() < deadline:
                    for ticket in batch:
                        ticket.tried = True  # the commit may have been carried out
                        ticket.error = None
                    check_interrupt()
                    time.sleep(1.0)
                    continue
                _fail(batch, self._cannot("write", error))
                return
            except (sql.exc.SQLAlchemyError, OSError) as error:
                _fail(batch, self._cannot("write", error))
                return
            for ticket, receipt in receipts:
                ticket.receipt = receipt
            return

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sql.Connection]:
        with (
            self._open().connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            if connection.dialect.name == "postgresql":
                import sqlalchemy as sql

                from .schema import LOCK

                lock = sql.text("SELECT pg_advisory_xact_lock(:key)")
                connection.execute(lock, {"key": LOCK})
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sql.Connection]:
        """Yield a connection to look things up.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        import sqlalchemy as sql

        try:
            with self._open().connect() as connection:
                yield connection
        except (sql.exc.SQLAlchemyError, OSError) as error:
            raise self._cannot("read", error) from None

    def _open(self) -> sql.Engine:
        with self._opening:
            if self._engine is None:
                self._engine = self._opened()
            return self._engine

    def _opened(self) -> sql.Engine:
        """Connect, and bring the tables to this version.

        Raises:
            LedgerError: the URL is not usable, or the database is not.
        """
        import sqlalchemy as sql

        from .schema import migrate

        url = self._parsed()
        try:
            if url.get_backend_name() == "sqlite":
                engine, guard = _sqlite(url)
            elif url.get_backend_name() == "postgresql":
                engine = sql.create_engine(
                    url.set(drivername="postgresql+psycopg"),
                    pool_pre_ping=True,
                    connect_args=PATIENCE,
                )
                guard = contextlib.nullcontext()
            else:
                raise LedgerError(
                    f"the ledger cannot be in {url.get_backend_name()}",
                    hint="set [ledger] database to sqlite:///FILE or postgresql://…",
                )
            try:
                with guard:
                    migrate(engine)
            except BaseException:
                engine.dispose()  # nobody else will: it was never opened
                raise
        except ImportError:
            raise LedgerError(
                "PostgreSQL's driver is not installed",
                hint=install_hint("station"),
            ) from None
        except (sql.exc.SQLAlchemyError, OSError) as error:
            raise self._cannot("open", error) from None
        return engine

    def _parsed(self) -> sql.URL:
        """Return the URL; from then on its passwords are redacted everywhere.

        Raises:
            LedgerError: it is none. The message shows nothing of it: where no part can be told from
                another, any may be the password.
        """
        import sqlalchemy as sql

        try:
            url = sql.make_url(self.url)
        except (sql.exc.ArgumentError, ValueError):
            url = None
        if url is None or "@" in (url.host or ""):
            raise LedgerError(
                "[ledger] database is no URL of a database",
                hint="give it like sqlite:////srv/ledger.sqlite3 or postgresql://USER@HOST/NAME;"
                " in a password write @ as %40, / as %2F, : as %3A",
            )
        given = (url.password, *(url.query.get(name) for name in _PASSWORDS))
        self._passwords = tuple(Secret(str(each)) for each in given if each)
        return url

    def _cannot(self, verb: str, error: Exception) -> LedgerError:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        shown = _without_passwords(self._parsed())
        return LedgerError(f"cannot {verb} the ledger {shown}: {reason}", hint=_hint(reason))


class Pen(Struct, frozen=True):
    """Writes into the ledger within one transaction: see :meth:`Ledger.writing`."""

    connection: sql.Connection

    def write(self, entry: Entry) -> Receipt:
        """Add a row."""
        ((_, receipt),) = _insert(self.connection, [_Ticket(entry)])
        return receipt

    def head(self) -> Receipt:
        """Return how many rows there are, and the last one's hash."""
        return _head(self.connection)

    def last(self, **of: object) -> Entry | None:
        """Return the last row with these values: ``last(attempt=…)``, ``last(serial=…)``."""
        import sqlalchemy as sql

        from .schema import rows

        query = sql.select(rows).filter_by(**of).order_by(rows.c.row.desc()).limit(1)
        row = self.connection.execute(query).first()
        return _entry(row) if row else None


def _without_passwords(url: sql.URL) -> str:
    if url.host is None:
        return f"{url.drivername}:///{url.database or ''}"
    return f"{url.host}{f':{url.port}' if url.port else ''}/{url.database or ''}"


def _sqlite(url: sql.URL) -> tuple[sql.Engine, contextlib.AbstractContextManager[object]]:
    """Return the engine of a SQLite file (0600), and the lock to hold while its tables change."""
    import sqlalchemy as sql

    path = Path(url.database) if url.database else None  # None: in memory
    if path is not None:
        make_folder(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        _check_rights(path)
    engine = sql.create_engine(url, connect_args={"timeout": _LOCKED_FOR})

    @sql.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.isolation_level = None  # this module says where a transaction begins
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # what is committed outlives a power cut

    @sql.event.listens_for(engine, "begin")
    def begin(connection: sql.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine, locked([path.parent] if path else [], _LOCKED_FOR)


def _check_rights(path: Path) -> None:
    """Refuse a ledger into which everybody can write, or beside which (SQLite reads a -wal there).

    Raises:
        LedgerError: it is such a one, or no plain file.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise LedgerError(f"the ledger {path} is no plain file", hint="look at what it is")
    for each in (path, path.parent):
        if each.stat().st_mode & stat.S_IWOTH:
            raise LedgerError(
                f"the ledger {path} is not safe: all may write {each}",
                hint="keep it in a folder of your own, 0700, and the file 0600",
            )


def _insert(connection: sql.Connection, batch: Sequence[_Ticket]) -> list[tuple[_Ticket, Receipt]]:
    """Chain the rows of a batch to the last one; a row that is refused stops no other."""
    from .schema import head, rows

    last = _head(connection)
    values: list[dict[str, object]] = []
    receipts = []
    for ticket in batch:
        if ticket.tried and (there := _already(connection, ticket.entry)):
            receipts.append((ticket, there))
            continue
        if (ticket.guard or ticket.fence) and values:  # they must see the rows before
            connection.execute(rows.insert(), values)
            values = []
        try:
            if ticket.fence is not None:
                ticket.fence(connection, ticket.entry)
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


def _guarded(connection: sql.Connection, ticket: _Ticket) -> list[Entry]:
    """Return the rows to write for a ticket: its own, after the end of an attempt that died.

    Raises:
        PreflightError: the ledger speaks against it.
    """
    entry = ticket.entry
    if ticket.guard is None:
        return [entry]
    known = _standings(connection, {entry.serial: entry.email}, entry.sandbox)[entry.serial]
    guard = ticket.guard
    findings = [*known.findings(guard.reprovision, confirmed=guard.confirmed)]
    if entry.step == FUSE:
        findings += known.findings_of_fuses(asked=True)
    if errors := [(each.message, each.hint) for each in findings if each.severity == "error"]:
        raise PreflightError.of_problems(errors)
    if entry.step == FUSE and known.fused is not None:  # not so when preflight looked
        raise PreflightError(
            f"{entry.serial} was fused by another station in this moment",
            hint="run the same command again: it goes on without fusing",
        )
    return [ended(known.last), entry] if known.last and died(known.last) else [entry]


def ended(row: Entry) -> Entry:
    """Return the row that ends an attempt whose process is gone."""
    outcome: Any = "unknown" if row.step in (FLASH, FUSE) else "failed"
    error = f"it was killed during {row.step}"
    return structs.replace(row, outcome=outcome, at=now(), error=error)


def _standings(
    connection: sql.Connection, accounts: Mapping[str, str], sandbox: bool
) -> dict[str, Standing]:
    import sqlalchemy as sql

    from .schema import rows

    found: dict[str, list[Entry]] = {email: [] for email in accounts.values()}
    wanted = list(found)
    for start in range(0, len(wanted), _MANY):
        some = rows.c.email.in_(wanted[start : start + _MANY])
        query = sql.select(rows).where(some, rows.c.sandbox == sandbox)
        for row in connection.execute(query.order_by(rows.c.row.desc())):
            found[row.email].append(_entry(row))
    return {
        serial: Standing(serial=serial, rows=found[email]) for serial, email in accounts.items()
    }


def _already(connection: sql.Connection, entry: Entry) -> Receipt | None:
    """Return where a row stands that a lost connection may have committed."""
    import sqlalchemy as sql

    from .schema import rows

    same = [
        getattr(rows.c, name) == getattr(entry, name)
        for name in ("attempt", "step", "outcome", "at")
    ]
    row = connection.execute(sql.select(rows.c.row, rows.c.hash).where(*same)).first()
    return Receipt(row=row.row, hash=row.hash) if row else None


def _head(connection: sql.Connection) -> Receipt:
    import sqlalchemy as sql

    from .schema import head

    row = connection.execute(sql.select(head)).first()
    if row is None:
        raise LedgerError(
            "the ledger has lost its head", hint="azaion-imagebuild ledger verify says more"
        )
    return Receipt(row=row.rows, hash=row.hash)


def _entry(row: Any) -> Entry:
    return Entry(**{name: getattr(row, name) for name in FIELDS})


def _is_away(error: sql.exc.DBAPIError, engine: sql.Engine | None) -> bool:
    """Tell whether a server that was there before has gone, perhaps to come back."""
    import sqlalchemy as sql

    served = engine is not None and engine.dialect.name == "postgresql"
    return served and (error.connection_invalidated or isinstance(error, sql.exc.OperationalError))


def _fail(batch: Sequence[_Ticket], error: LedgerError) -> None:
    for ticket in batch:  # each its own: whoever gets one adds to its problems
        ticket.error = ticket.error or LedgerError.of_problems(error.problems)


def _hint(reason: str) -> str:
    if "locked" in reason:
        return "another process writes it for long: wait for it to end"
    if "full" in reason:
        return "make room on its disk, then run the same command again"
    return (
        "check that it is there and may be written: [ledger] database (AZAION_IMAGEBUILD_DATABASE)"
    )
