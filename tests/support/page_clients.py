"""A client of the page's socket: what a page process reads and writes, line by line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import structs
from world import tool_started

from azaion_imagebuild.fleet.page_socket import PageSocket, page_socket
from azaion_imagebuild.ledger import Ledger
from azaion_imagebuild.pipeline.events import Event
from azaion_imagebuild.settings import Settings

HELD = """
import time
from pathlib import Path
from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import FlashError

@hookimpl(tryfirst=True)
def verify_image(identity):
    with open("passwords", "a") as noted:
        print(identity.password.reveal(), file=noted)

@hookimpl(tryfirst=True)
def flash(build):
    Path("flashing-" + build.serial).touch()
    while Path("hold").exists():
        time.sleep(0.01)
    if Path("fail-" + build.serial).exists():
        raise FlashError("the cable is loose", hint="plug it in again")
"""
"""A site's plug-in: devices wait in the flash as long as ``hold`` is there."""


@dataclass
class Client:
    """One connection; ``raw`` is every byte that it got."""

    socket: socket.socket
    raw: bytes = b""
    _asked: int = 0
    _read: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def send(self, line: bytes) -> None:
        self.socket.sendall(line)

    def scan(self, text: str) -> dict[str, Any]:
        """Scan a label; return its answer."""
        self._asked += 1
        self.send(json.dumps({"id": self._asked, "scan": text}).encode() + b"\n")
        return self.until("answer", id=self._asked)

    def until(self, name: str, seconds: float = 60.0, **fields: Any) -> dict[str, Any]:
        """Return the next event with a name and these fields, whether it was read or not."""
        deadline = time.monotonic() + seconds
        while True:
            while self._read < len(self.events):
                event = self.events[self._read]
                self._read += 1
                if event["event"] == name and fields.items() <= event.items():
                    return event
            assert time.monotonic() < deadline, f"no {name} {fields} in {self.events}"
            assert self.more(deadline - time.monotonic()), f"closed before {name}: {self.events}"

    def more(self, seconds: float = 60.0) -> bool:
        """Read a piece; False: the other side has closed."""
        self.socket.settimeout(max(0.01, seconds))
        try:
            piece = self.socket.recv(1 << 16)
        except TimeoutError:
            return True
        except ConnectionResetError:
            return False
        *lines, _ = (self.raw[self.raw.rfind(b"\n") + 1 :] + piece).split(b"\n")
        self.raw += piece
        self.events += map(json.loads, lines)
        return bool(piece)

    def ends(self, seconds: float = 30.0) -> None:
        """Wait until the other side has closed."""
        deadline = time.monotonic() + seconds
        while self.more(0.2):
            assert time.monotonic() < deadline


@contextmanager
def client_of(path: Path, seconds: float = 60.0) -> Iterator[Client]:
    """Connect to a socket as soon as it is there."""
    deadline = time.monotonic() + seconds
    while True:
        with ExitStack() as held:
            ours = held.enter_context(socket.socket(socket.AF_UNIX))
            try:
                connect(ours, path)
            except OSError:
                assert time.monotonic() < deadline, f"nobody listens at {path}"
                time.sleep(0.05)
                continue
            yield Client(ours)
            return


def connect(ours: socket.socket, path: Path) -> None:
    """Connect to a socket whose path may be longer than 107 bytes."""
    folder = os.open(path.parent, os.O_PATH)
    try:
        ours.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@contextmanager
def fleet(*argv: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Start ``fleet -`` with nobody at its stdin, and connect to it."""
    with (
        tool_started("fleet", "-", "--jobs", "2", "--json", *argv, stdin=subprocess.PIPE) as run,
        client_of(Path("state/page/page.sock")) as client,
    ):
        client.until("hello")
        yield run, client


def end(run: subprocess.Popen[str]) -> Any:
    out, err = run.communicate(timeout=90)
    assert out, err
    return json.loads(out)


@contextmanager
def pages(
    tmp_path: Path, told: list[Event] | None = None, **station: Any
) -> Iterator[tuple[PageSocket, Path]]:
    """Yield a socket that no run is behind, and its path."""
    path = tmp_path / "page" / "page.sock"
    changed = structs.replace(Settings().station, page_socket=path, **station)
    settings = structs.replace(Settings(), station=changed)
    watcher = (told if told is not None else []).append
    with (
        Ledger(tmp_path / "ledger.db") as ledger,
        page_socket(settings, ledger, watcher, sandbox=True, run="fleet") as shown,
    ):
        yield shown, path
