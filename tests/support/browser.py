"""A real browser, told what to do over a pipe (the Chrome DevTools Protocol)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

CHROMIUM = shutil.which("chromium")
_PATIENCE = 60  # seconds; a machine under load may need some


@dataclass
class Browser:
    """One page of a headless Chromium; ``events`` is all that it told meanwhile."""

    to: IO[bytes]
    back: IO[bytes]
    session: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    _sent: int = 0
    _unread: bytes = b""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._sent:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, path: Path, then: str = "") -> None:
        """Show a file, wait until it is loaded whole, then for an expression of JavaScript."""
        self.go(path.resolve().as_uri(), then)

    def go(self, url: str, then: str = "") -> None:
        """Show what is at an address, as :meth:`open` shows a file."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.loaded()
        self.value(then)

    def loaded(self) -> None:
        """Wait until the page was loaded since ``events`` was cleared."""
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript comes to in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def type(self, text: str) -> None:
        """Press the keys of a text where the focus is; ``\\n`` is Enter, as a scanner sends it."""
        for key in text:
            if key == "\n":
                self.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", text="\r",
                          windowsVirtualKeyCode=13)  # fmt: skip
                self.call("Input.dispatchKeyEvent", type="keyUp", key="Enter",
                          windowsVirtualKeyCode=13)  # fmt: skip
            else:
                self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
                self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def until(self, expression: str, seconds: float = _PATIENCE) -> Any:
        """Wait until an expression of JavaScript is true in the page; return its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < deadline, self.value("document.body.innerText")
            time.sleep(0.02)
        return value

    def look(self, width: int, height: int = 900, scheme: str = "light", media: str = "") -> None:
        """Set the size of the window, light or dark, screen or print."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole,
                         **({"clip": self._whole()} if whole else {}))  # fmt: skip
        path.write_bytes(base64.b64decode(shot["data"]))

    def paper(self) -> bytes:
        """Return the page as it is printed, as PDF."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True)
        return base64.b64decode(printed["data"])

    def asked_for(self) -> list[str]:
        """Return every address that the page wanted, itself included."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Return the text of the browser's console."""
        told = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(e["params"]) for e in self.events if e["method"] in told]

    def _whole(self) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {**size, "scale": 1}

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self.back], [], [], max(0, until - time.monotonic()))
            piece = os.read(self.back.fileno(), 1 << 16) if ready else b""
            assert piece, "the browser says nothing"
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Run Chromium for a while; it ends with the block."""
    assert CHROMIUM is not None
    there, here = os.pipe(), os.pipe()
    command = [
        "bash", "-c", f'exec "$0" "$@" 3<&{there[0]} 4>&{here[1]}', CHROMIUM,
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={profile}", "--remote-debugging-pipe",
    ]  # fmt: skip
    # A path that is short: the name of a socket in it has 107 bytes at most.
    scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    environ = os.environ | {"HOME": str(profile), "TMPDIR": scratch.name}
    child = subprocess.Popen(command, pass_fds=(there[0], here[1]), env=environ,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    os.close(there[0])
    os.close(here[1])
    try:
        with open(there[1], "wb", buffering=0) as to, open(here[0], "rb", buffering=0) as back:
            page = Browser(to, back)
            target = page.call("Target.createTarget", url="about:blank")["targetId"]
            attached = page.call("Target.attachToTarget", targetId=target, flatten=True)
            page.session = attached["sessionId"]
            for domain in ("Page", "Network", "Log", "Runtime"):
                page.call(f"{domain}.enable")
            yield page
    finally:
        child.terminate()
        child.wait(_PATIENCE)
        scratch.cleanup()
