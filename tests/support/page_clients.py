"""A client of the page's socket: what a page process reads and writes, line by line."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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


@contextlib.contextmanager
def client_of(path: Path, seconds: float = 60.0) -> Iterator[Client]:
    """Connect to a socket as soon as it is there."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.ExitStack() as held:
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
