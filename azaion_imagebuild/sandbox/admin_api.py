"""The embedded admin API: a real HTTP server on loopback, accounts in SQLite, hashed passwords."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from .server import Action, Answer, Server

_SCHEMA = """CREATE TABLE IF NOT EXISTS users (
    email TEXT PRIMARY KEY, role TEXT NOT NULL, salt BLOB NOT NULL, hash BLOB NOT NULL,
    cost INTEGER NOT NULL,
    created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"""
# Older hashes, without a stored cost, have this one.
_ADD_COST = "ALTER TABLE users ADD COLUMN cost INTEGER NOT NULL DEFAULT 4096"
_ROLES = ("CompanionPC",)


class Account(Struct, frozen=True, kw_only=True):
    """An account, without its password's hash."""

    email: str
    role: str
    created: str
    """As :func:`.text.utc`."""
    updated: str


class Accounts:
    """The accounts of the sandbox, in one SQLite file (0600).

    Attributes:
        cost: scrypt's N for new passwords, stored beside the hash. 2**12 takes about 10 ms.
    """

    cost = 2**12

    def __init__(self, database: Path) -> None:
        self._database = database
        os.close(os.open(database, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with self._connected() as connection:
            connection.execute(_SCHEMA)
            columns = [row[1] for row in connection.execute("PRAGMA table_info(users)")]
            if "cost" not in columns:
                with contextlib.suppress(
                    sqlite3.OperationalError
                ):  # another process has just added it
                    connection.execute(_ADD_COST)

    def create(self, email: str, password: str, role: str) -> bool:
        """Create an account; False: the e-mail is taken."""
        salt = os.urandom(16)
        with self._connected() as connection:
            try:
                connection.execute(
                    "INSERT INTO users (email, role, salt, hash, cost) VALUES (?, ?, ?, ?, ?)",
                    (email, role, salt, _hash(password, salt, self.cost), self.cost),
                )
            except sqlite3.IntegrityError:
                return False
        return True

    def set_password(self, email: str, password: str) -> bool:
        """Set an account's password; False: there is no such account."""
        salt = os.urandom(16)
        with self._connected() as connection:
            changed = connection.execute(
                "UPDATE users SET salt = ?, hash = ?, cost = ?, updated = CURRENT_TIMESTAMP"
                " WHERE email = ?",
                (salt, _hash(password, salt, self.cost), self.cost, email),
            )
            return changed.rowcount == 1

    def login(self, email: str, password: str) -> bool:
        """Tell whether the password opens the account."""
        with self._connected() as connection:
            row = connection.execute(
                "SELECT salt, cost, hash FROM users WHERE email = ?", (email,)
            ).fetchone()
        return row is not None and hmac.compare_digest(row[2], _hash(password, *row[:2]))

    def list(self) -> list[Account]:
        """Return every account, by e-mail."""
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT email, role, strftime('%Y-%m-%dT%H:%M:%SZ', created),"
                " strftime('%Y-%m-%dT%H:%M:%SZ', updated) FROM users ORDER BY email"
            ).fetchall()
        return [Account(email=e, role=r, created=c, updated=u) for e, r, c, u in rows]

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with (
            contextlib.closing(sqlite3.connect(self._database, timeout=30)) as connection,
            connection,
        ):
            yield connection


def _hash(password: str, salt: bytes, cost: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=8, p=1)


def admin_api(accounts: Accounts, port: int = 0) -> Server:
    """Return a server for ``accounts``, with the runbook's contract and POST /login."""
    return Server(routes(accounts), port)


def routes(accounts: Accounts) -> dict[str, Action]:
    """Return the actions for the runbook's contract and POST /login."""

    def create(body: dict[str, str]) -> Answer:
        if body["role"] not in _ROLES:
            return 422, {"error": f"unknown role; known are {', '.join(_ROLES)}"}
        if accounts.create(body["email"], body["password"], body["role"]):
            return 201, {"email": body["email"]}
        return 409, {"error": "user with this email already exists"}

    def set_password(body: dict[str, str]) -> Answer:
        if accounts.set_password(body["email"], body["password"]):
            return 200, {"email": body["email"]}
        return 404, {"error": "no such user"}

    def login(body: dict[str, str]) -> Answer:
        if accounts.login(body["email"], body["password"]):
            return 200, {"status": "ok"}
        return 401, {"error": "wrong email or password"}

    return {
        "GET /health": lambda _: (200, {"status": "ok"}),
        "POST /users": create,
        "PATCH /users/password": set_password,
        "POST /login": login,
    }
