"""The ledger's database: opening SQLite or PostgreSQL by URL, and explaining errors."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LedgerError, install_hint
from ..secret import Secret
from ..system.files import make_folder
from ..system.locks import locked

if TYPE_CHECKING:
    import sqlalchemy as sql

FILE = "ledger.sqlite3"
_MAGIC = b"SQLite format 3\0"
_LOCKED_FOR = 30.0  # seconds to wait for another writer
_PASSWORDS = ("password", "sslpassword")  # names in the query of a PostgreSQL URL
CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
    "prepare_threshold": None,
}
"""With these, psycopg notices within half a minute that a PostgreSQL server is gone.

It prepares no statements: behind PgBouncer, the next transaction may run on another connection.
"""


class Database:
    """The database of a ledger, opened on first use. Safe for threads."""

    def __init__(self, url: str | Path, *, create: bool = True) -> None:
        """Name the database, by URL or as an SQLite file, without opening it.

        ``create``: make the ledger if it is missing.
        """
        self.url = url
        self._create = create
        self._engine: sql.Engine | None = None
        self._passwords: tuple[Secret, ...] = ()  # kept alive, so that they are redacted everywhere
        self._opening = threading.Lock()

    def close(self) -> None:
        """Close every connection."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextlib.contextmanager
    def reading(self) -> Iterator[sql.Connection]:
        """Yield a connection for reading.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        try:
            with self._open().connect() as connection:
                yield connection
        except database_errors() as error:
            raise self.failure("read", error) from None

    @contextlib.contextmanager
    def writing(self) -> Iterator[sql.Connection]:
        """Yield a connection in a transaction; nobody else writes the ledger meanwhile.

        Raises:
            LedgerError: it cannot be opened, or another program's trigger would change the rows.
            SQLAlchemyError, OSError: it cannot be written; see :meth:`failure`.
        """
        from .soundness import refuse_foreign

        with (
            self._open().connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            if connection.dialect.name == "postgresql":
                import sqlalchemy as sql

                from .schema import LOCK

                lock = sql.text("SELECT pg_advisory_xact_lock(:key)")
                connection.execute(lock, {"key": LOCK})
            refuse_foreign(connection)
            yield connection

    def failure(self, verb: str, error: Exception) -> LedgerError:
        """Return what to tell the operator about an error of the database."""
        said = (
            "" if isinstance(error, UnicodeDecodeError) else getattr(error, "orig", None) or error
        )
        # Of a damaged file whose message it cannot decode, sqlite3 of Python 3.10 says nothing.
        reason = " ".join(str(said).split()) or "malformed database"
        shown = _without_passwords(self._parsed())
        return LedgerError(f"cannot {verb} the ledger {shown}: {reason}", hint=_hint(reason))

    def is_away(self, error: sql.exc.DBAPIError) -> bool:
        """Tell whether a server that was reachable is gone, and may come back."""
        import sqlalchemy as sql

        served = self._engine is not None and self._engine.dialect.name == "postgresql"
        return served and (
            error.connection_invalidated or isinstance(error, sql.exc.OperationalError)
        )

    def _open(self) -> sql.Engine:
        with self._opening:
            if self._engine is None:
                self._engine = self._opened()
            return self._engine

    def _opened(self) -> sql.Engine:
        """Connect, and bring the tables to this version.

        Raises:
            LedgerError: the URL or the database is not usable.
        """
        from .schema import migrate

        url = self._parsed()
        try:
            engine, guard = _engine(url, self._create)
            try:
                with guard:
                    migrate(engine, create=self._create)
            except BaseException:
                engine.dispose()  # nobody else does: it was never opened
                raise
        except ImportError:
            raise LedgerError(
                "PostgreSQL's driver is not installed",
                hint=install_hint("station"),
            ) from None
        except database_errors() as error:
            raise self.failure("open", error) from None
        return engine

    def _parsed(self) -> sql.URL:
        """Return the URL, and redact its passwords everywhere from now on.

        Raises:
            LedgerError: it is invalid. The message shows none of it, because any part of an invalid
                URL may be the password.
        """
        import sqlalchemy as sql

        if isinstance(self.url, Path):  # never read as a URL: ? and % are part of its name
            return sql.URL.create("sqlite", database=str(self.url))
        try:
            url = sql.make_url(self.url)
        except (sql.exc.ArgumentError, ValueError):
            url = None
        if url is None or "@" in (url.host or ""):
            raise LedgerError(
                "[ledger] database is not a valid database URL",
                hint="write it like sqlite:////srv/ledger.sqlite3 or postgresql://USER@HOST/NAME;"
                " in a password write @ as %40, / as %2F, : as %3A",
            )
        if url.get_backend_name() == "sqlite" and url.database:
            # SQLAlchemy 2.1 decodes %20, 2.0 does not: what stands there is the file's name
            written = str(self.url).partition(":///")[2].partition("?")[0]
            url = url.set(database=written or url.database)
        given = (url.password, *(url.query.get(name) for name in _PASSWORDS))
        self._passwords = tuple(Secret(str(each)) for each in given if each)
        return url


def database_errors() -> tuple[type[Exception], ...]:
    """Return what a database raises; sqlite3 cannot decode its own message about a damaged file."""
    import sqlalchemy as sql

    return sql.exc.SQLAlchemyError, OSError, UnicodeDecodeError


def _engine(url: sql.URL, create: bool) -> tuple[sql.Engine, AbstractContextManager[object]]:
    """Return an engine, and the lock to hold while its tables change.

    Raises:
        LedgerError: the kind of database is not supported, or the file is not safe.
    """
    import sqlalchemy as sql

    # An interrupt while a connection closes is raised anyway: no traceback beside it.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    backend = url.get_backend_name()
    if backend == "sqlite":
        return _sqlite(url, create)
    if backend == "postgresql":
        driver = url.set(drivername="postgresql+psycopg")
        engine = sql.create_engine(driver, pool_pre_ping=True, connect_args=CONNECTION)
        return engine, contextlib.nullcontext()
    raise LedgerError(
        f"the ledger cannot be in {backend}",
        hint="set [ledger] database to sqlite:///FILE or postgresql://…",
    )


def _sqlite(url: sql.URL, create: bool) -> tuple[sql.Engine, AbstractContextManager[object]]:
    """Return the engine of a SQLite file (0600), and the lock to hold while its tables change."""
    import sqlalchemy as sql

    path = Path(url.database) if url.database else None  # None: in memory
    opened = _prepare(path, create) if path else None
    engine = sql.create_engine(url, connect_args={"timeout": _LOCKED_FOR})

    @sql.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.isolation_level = None  # this module decides when a transaction begins
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a committed row survives a power cut

    @sql.event.listens_for(engine, "begin")
    def begin(connection: sql.Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @sql.event.listens_for(engine, "commit")
    def check(connection: sql.Connection) -> None:
        if path is not None and _file_id(path) != opened:
            raise LedgerError(
                f"the ledger {path} was replaced or removed by another program: this row is not"
                " in it",
                hint="find out who replaced it, restore the right one, then run the same command"
                " again",
            )

    return engine, locked([path.parent] if path else [], _LOCKED_FOR)


def _prepare(path: Path, create: bool) -> tuple[int, int] | None:
    """Create the file if it is missing and may be created; return device and inode.

    Raises:
        LedgerError: it is missing, unsafe or not a whole database.
    """
    if create:
        make_folder(path.parent)
    elif not os.path.lexists(path):
        raise LedgerError(
            f"there is no ledger at {path}",
            hint="name the right one by --database, use sudo if builds do, or restore a backup",
        )
    flags = (os.O_CREAT if create else 0) | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        _check_rights(path)
        _check_header(path, os.pread(descriptor, 18, 0), os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    return _file_id(path)


def _file_id(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = path.lstat()
        return found.st_dev, found.st_ino
    return None


def _check_header(path: Path, start: bytes, size: int) -> None:
    """Refuse a file that SQLite would overwrite, as if it were a new database.

    Its first 16 bytes are a constant; the page size follows (https://sqlite.org/fileformat.html).

    Raises:
        LedgerError: it is truncated, or not a database.
    """
    page = int.from_bytes(start[16:18], "big")
    page = 65536 if page == 1 else max(page, 512)
    whole = start.startswith(_MAGIC) and size >= page
    log = path.with_name(f"{path.name}-wal")
    emptied = not size and log.exists() and log.stat().st_size
    if emptied or (size and not whole):
        raise LedgerError(
            f"the ledger {path} ({size} bytes) is not a whole SQLite database: it was cut or"
            " overwritten",
            hint="restore it from a backup, then check it: azaion-imagebuild ledger verify",
        )


def _check_rights(path: Path) -> None:
    """Refuse a ledger that anybody can write, or whose folder anybody can (it holds SQLite's -wal).

    Raises:
        LedgerError: it is not safe, or not a regular file.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise LedgerError(
            f"the ledger {path} is not a regular file", hint=f"check it: ls -l {path}"
        )
    for each in (path, path.parent):
        if each.stat().st_mode & stat.S_IWOTH:
            raise LedgerError(
                f"the ledger {path} is not safe: anybody can write {each}",
                hint="keep it in a folder of your own, 0700, and the file 0600",
            )


def _without_passwords(url: sql.URL) -> str:
    if url.host is None:
        return f"{url.drivername}:///{url.database or ''}"
    return f"{url.host}{f':{url.port}' if url.port else ''}/{url.database or ''}"


def _hint(reason: str) -> str:
    if "locked" in reason:
        return "another process has been writing it for a while: wait until it ends"
    if "statement pooling" in reason:
        return "set pool_mode = transaction in PgBouncer, or name PostgreSQL itself"
    if "no password supplied" in reason or "password authentication failed" in reason:
        return "put the password into ~/.pgpass (or PGPASSFILE), a file of this user's: mode 0600"
    if "full" in reason:
        return "make room on its disk, then run the same command again"
    if "malformed" in reason:
        return "it is damaged: restore it from a backup, and check that with ledger verify"
    return "check that it exists and is writable: [ledger] database (AZAION_IMAGEBUILD_DATABASE)"
