"""A page process, and a browser's view of it without the browser: requests and events."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from world import tool_started


@dataclass
class Visitor:
    """Somebody who has opened a link; ``raw`` is every byte of every answer."""

    url: str
    session: requests.Session = field(default_factory=requests.Session)
    raw: bytes = b""

    @property
    def origin(self) -> dict[str, str]:
        return {"Origin": self.url}

    def get(self, path: str = "/", **headers: str) -> requests.Response:
        answer = self.session.get(self.url + path, headers=headers, timeout=30, verify=False)
        self.raw += answer.content + str(answer.headers).encode()
        return answer

    @property
    def token(self) -> str:
        found = re.search('data-token="([^"]+)"', self.get().text)
        assert found
        return found[1]

    def post(self, body: Any, **headers: str) -> requests.Response:
        answer = self.session.post(self.url + "/scan", json=body, headers=headers, timeout=60,
                                   verify=False)  # fmt: skip
        self.raw += answer.content + str(answer.headers).encode()
        return answer

    def scan(self, serial: str) -> Any:
        """Scan a label as the page's script does; return the answer."""
        answer = self.post({"serial": serial}, **self.origin, **{"X-CSRF-Token": self.token})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def until(self, text: str, seconds: float = 60.0) -> str:
        """Reload the page until it has a text; return its HTML."""
        deadline = time.monotonic() + seconds
        while text not in (page := self.get().text):
            assert time.monotonic() < deadline, f"no {text!r} in {page}"
            time.sleep(0.05)
        return page

    @contextmanager
    def events(self) -> Iterator[queue.Queue[dict[str, str]]]:
        """Yield what the page is told while it is open: part → its HTML, message by message."""
        told: queue.Queue[dict[str, str]] = queue.Queue()
        answer = self.session.get(self.url + "/events", stream=True, timeout=30)
        assert answer.status_code == 200

        def read() -> None:
            try:
                for line in answer.iter_lines(chunk_size=None):
                    self.raw += line
                    if line.startswith(b"data: "):
                        parts = json.loads(line[6:])
                        told.put({part["id"]: part["html"] for part in parts})
            except (requests.RequestException, AttributeError):
                pass  # it was closed

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        yield told
        connection: Any = answer.raw
        connection._fp.fp.raw._sock.shutdown(2)
        reader.join(10)
        answer.close()


@dataclass
class Served:
    """A page process."""

    process: subprocess.Popen[str]
    lines: list[str]

    @property
    def link(self) -> str:
        """The last link that was printed."""
        return [line.split()[-1] for line in self.lines if line.startswith("open once: ")][-1]

    def visitor(self) -> Visitor:
        """Open the link as a browser does."""
        where, before = urlsplit(self.link), len(self.lines)
        visitor = Visitor(f"{where.scheme}://{where.netloc}")
        answer = visitor.get(f"{where.path}?{where.query}")
        assert answer.status_code == 200, answer.text
        deadline = time.monotonic() + 30
        while len(self.lines) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return visitor


@contextmanager
def served(*argv: str, listen: str = "127.0.0.1:0") -> Iterator[Served]:
    """Start a page process; it ends with the test."""
    with tool_started("page", "--listen", listen, *argv, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first, lines = process.stdout.readline(), []
        assert first.startswith("open once: "), first + process.communicate()[1]
        lines.append(first.strip())

        def read() -> None:
            assert process.stdout is not None
            for line in iter(process.stdout.readline, ""):
                lines.append(line.strip())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        yield Served(process, lines)
        process.kill()
        reader.join(10)
        process.communicate()
