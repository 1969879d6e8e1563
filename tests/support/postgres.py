"""A real PostgreSQL in a temporary folder, run by an ordinary user, on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

_NOBODY = 65534


@dataclass(frozen=True)
class Postgres:
    """One running server; use its :attr:`url`."""

    folder: Path
    bin: Path
    port: int

    @property
    def url(self) -> str:
        """Of the user azaion, whom it trusts; of a user stranger it asks a password."""
        return f"postgresql://azaion@127.0.0.1:{self.port}/postgres"

    def restart(self) -> None:
        """Stop it as an operator in a hurry would, and start it again."""
        self.stop()
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder}"
        options += " -c max_connections=60 -c fsync=off"  # the machine of a test stays on
        self._run(
            "pg_ctl", "-w", "-D", self._data, "-l", f"{self.folder}/log", "-o", options, "start"
        )

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-w", "-D", self._data, "-m", mode, "stop")

    def create(self) -> None:
        self._run(
            "initdb", "-D", self._data, "-U", "azaion", "-A", "trust", "--no-sync", "-E", "UTF8"
        )
        rules = self.folder / "data/pg_hba.conf"
        rules.write_text("host all stranger 127.0.0.1/32 scram-sha-256\n" + rules.read_text())

    def psql(self, statement: str) -> str:
        """Return what a statement answers, a line for each row."""
        return self._run("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", self.url, "-c", statement)

    def empty(self) -> None:
        """Take everything out of the database."""
        self.psql(
            "SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        )

    def dump(self) -> str:
        """Return the whole database as text."""
        return self._run("pg_dump", self.url)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, name: str, *args: str) -> str:
        argv = [str(self.bin / name), *args]
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            argv = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *argv]
        with tempfile.TemporaryFile() as out:  # no pipe: the server would keep it open
            subprocess.run(argv, check=True, cwd=self.folder, stdout=out)
            out.seek(0)
            return out.read().decode()


def started() -> Postgres:
    """Return a running server; skip the test where PostgreSQL is not installed."""
    found = [Path(path) for path in (shutil.which("initdb"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="azaion-postgres-"))
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Postgres(folder=folder, bin=found[0].resolve().parent, port=port)
    server.create()
    server.start()
    return server
