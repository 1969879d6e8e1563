"""What a long step is doing: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PAUSE = 15.0  # seconds between two plain lines
_WIDTH = 72


class Lasting:
    """A stream that may go away (a terminal that is closed): what is lost then stops no build."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand it on, if there is still somebody."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Quiet:
    """For a log file or a pipe: the last line of a script, at most every 15 seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._began = self._told = time.monotonic()

    def started(self, step: str) -> None:
        """A step begins."""
        self._began = self._told = time.monotonic()

    def line(self, text: str) -> None:
        """A script has printed a line."""
        now = time.monotonic()
        if now - self._told >= _PAUSE:
            self._told = now
            self._say(f"    … {now - self._began:.0f} s: {text[:_WIDTH]}")

    def ended(self) -> None:
        """The step has ended."""


class Live:
    """For a terminal: a spinner, the step, its seconds, and the last line of its script."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._step = ""
        self._shown: tuple[Progress, TaskID] | None = None

    def started(self, step: str) -> None:
        """A step begins; it is shown as soon as a script prints something."""
        self._step = step

    def line(self, text: str) -> None:
        """A script has printed a line."""
        progress, task = self._shown = self._shown or self._show()
        progress.update(task, last=text[:_WIDTH])

    def ended(self) -> None:
        """The step has ended: the live line goes."""
        if self._shown is not None:
            self._shown[0].stop()
            self._shown = None

    def _show(self) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}", markup=False),
            console=Console(file=self._stream),
            transient=True,
            redirect_stdout=False,  # ours redacts
            redirect_stderr=False,
        )
        progress.start()
        return progress, progress.add_task(escape(self._step), total=None, last="")
