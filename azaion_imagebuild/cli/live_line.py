"""The progress of a long step: a live line on a terminal, otherwise a plain line now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, TextIO

from .screen import Screen

_PAUSE = 15.0  # seconds between two plain lines
_WIDTH = 72


class Lasting:
    """A stream that may close (such as a terminal): lost output must not stop a build."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if the stream is open."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if the stream is open."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Quiet:
    """For a log file or a pipe: a script's last line, at most every 15 seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._step = ""
        self._began = self._told = time.monotonic()

    def started(self, step: str) -> None:
        """A step begins."""
        self._step = step
        self._began = self._told = time.monotonic()

    def line(self, text: str) -> None:
        """A script of the step has printed a line; those of many devices at once are not shown."""
        now = time.monotonic()
        if self._step and now - self._told >= _PAUSE:
            self._told = now
            self._say(f"    … {now - self._began:.0f} s: {text[:_WIDTH]}")

    def ended(self) -> None:
        """The step has ended."""
        self._step = ""


class Live:
    """For a terminal: the step, its seconds, and the last line of its script."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._step = self._last = ""
        self._began = time.monotonic()

    def started(self, step: str) -> None:
        """A step begins; it is shown as soon as a script prints something."""
        self._step, self._last, self._began = step, "", time.monotonic()

    def line(self, text: str) -> None:
        """A script of the step has printed a line; those of many devices at once are not shown."""
        if not self._step:
            return
        is_new, self._last = not self._last, text
        if is_new:
            self._screen.show(self._rows)
        self._screen.changed()

    def ended(self) -> None:
        """The step has ended: remove the live line."""
        if self._last:
            self._screen.hide()
        self._step = self._last = ""

    def _rows(self) -> list[str]:
        return [f"  {self._step}  {time.monotonic() - self._began:.0f} s  {self._last}"]
