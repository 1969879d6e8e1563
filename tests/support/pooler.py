"""A real PgBouncer in front of a real PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from postgres import Postgres

_NOBODY = 65534
_INI = """
[databases]
* = host=127.0.0.1 port={server} user=azaion
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
server_round_robin = 1
unix_socket_dir =
logfile = {folder}/bouncer.log
pidfile = {folder}/bouncer.pid
"""


@contextlib.contextmanager
def pooled(postgres: Postgres, mode: str, size: int) -> Iterator[str]:
    """Yield the URL of a pooler; skip the test where PgBouncer is not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ini = postgres.folder / f"bouncer-{port}.ini"
    ini.write_text(
        _INI.format(server=postgres.port, port=port, mode=mode, size=size, folder=postgres.folder)
    )
    argv = [program, "-q", str(ini)]
    if os.geteuid() == 0:  # it refuses to run as root
        os.chown(ini, _NOBODY, _NOBODY)
        argv = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *argv]
    with subprocess.Popen(argv, cwd=postgres.folder, stderr=subprocess.DEVNULL) as bouncer:
        try:
            _wait_for(port)
            yield f"postgresql://azaion@127.0.0.1:{port}/postgres"
        finally:
            bouncer.send_signal(signal.SIGKILL)


def _wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    pytest.fail("PgBouncer does not listen")
