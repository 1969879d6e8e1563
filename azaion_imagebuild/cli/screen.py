"""The one live display of a terminal: rows below the lines, and what is being typed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO, TypeGuard

from ..text import visible

_PAUSE = 0.1  # minimum seconds between two drawings
_TICK = 1.0  # seconds between two drawings of rows that show a time
Rows = Callable[[], Sequence[str]]


class Screen:
    """Draws rows at the bottom of a terminal, and prints lines above them. Thread-safe.

    It writes only after a change, in one piece, and never hides the cursor: a killed program leaves
    a working terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rows: Rows | None = None
        self._typed: str | None = None
        self._drawn: list[str] = []
        self._lock = threading.RLock()
        self._changed = threading.Event()
        self._ticker: threading.Thread | None = None

    def print(self, line: str) -> None:
        """Print a line above the rows."""
        with self._lock:
            erased = self._erased()
            self._drawn = self._now()
            self._write(f"{erased}{line}\n" + "\n".join(self._drawn))

    def show(self, rows: Rows) -> None:
        """Show what ``rows`` returns until :meth:`hide`; it is called again and again."""
        with self._lock:
            self._rows = rows
            self._draw()
            if self._ticker is None:
                self._ticker = threading.Thread(target=self._tick, daemon=True)
                self._ticker.start()

    def changed(self) -> None:
        """Draw the rows soon: they may have changed."""
        self._changed.set()

    def typed(self, text: str | None) -> None:
        """Show what is being typed, at once; None: nothing can be typed."""
        with self._lock:
            self._typed = text
            self._draw()

    def hide(self) -> None:
        """Remove the rows; what is being typed stays."""
        with self._lock:
            self._rows = None
            self._draw()

    def close(self) -> None:
        """Remove everything that was drawn."""
        with self._lock:
            self._rows = self._typed = None
            self._draw()

    @contextlib.contextmanager
    def cleared(self) -> Iterator[None]:
        """Leave the terminal to another program for a while; then draw everything again."""
        with self._lock:
            self._write(self._erased())
            self._drawn = []
            yield
            self._draw()

    def ring(self) -> None:
        """Ring the bell."""
        with self._lock:
            self._write("\a")

    def _tick(self) -> None:
        while True:
            self._changed.wait(_TICK)
            self._changed.clear()
            with self._lock:
                if self._rows is not None:
                    self._draw()
            time.sleep(_PAUSE)

    def _draw(self) -> None:
        rows = self._now()
        if rows != self._drawn:
            erased = self._erased()
            self._drawn = rows
            self._write(erased + "\n".join(rows))

    def _now(self) -> list[str]:
        columns, height = self._size()
        rows = [*self._rows()] if self._rows is not None else []
        most = max(1, height - 2)
        if len(rows) > most:
            rows = [*rows[: most - 1], f"… and {len(rows) - most + 1} more"]
        if self._typed is not None:
            rows.append(f"label: {self._typed}")
        return [fitted(visible(row), columns - 1) for row in rows]

    def _erased(self) -> str:
        """Return the text that removes the rows and leaves the cursor where they began."""
        up = f"\x1b[{len(self._drawn) - 1}A" if len(self._drawn) > 1 else ""
        return f"\r{up}\x1b[J" if self._drawn else ""

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()

    def _size(self) -> os.terminal_size:
        with contextlib.suppress(OSError, ValueError):  # a test's stream has no descriptor
            found = os.get_terminal_size(self._stream.fileno())
            if found.columns:
                return found
        return os.terminal_size((80, 24))


def is_screen(stream: TextIO | None) -> TypeGuard[TextIO]:
    """Tell whether a stream is a terminal that can draw."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def is_terminal(stream: TextIO | None) -> TypeGuard[TextIO]:
    """Tell whether a stream is a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def fitted(text: str, columns: int) -> str:
    """Return a row cut to a width: one that wraps could not be removed."""
    if text.isascii() and len(text) <= columns:
        return text
    width = 0
    for place, char in enumerate(text):
        width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if width > columns - 1:
            return f"{text[:place]}…" if text[place + 1 :] else text[: place + 1]
    return text
