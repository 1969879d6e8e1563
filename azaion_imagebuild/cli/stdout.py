"""The output of a command on stdout: lines, or one line of JSON. Messages go to stderr."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import UsageError
from ..secret import redacted
from ..text import visible

if TYPE_CHECKING:
    from .console import Console


def reserved() -> contextlib.AbstractContextManager[Any]:
    """Send what plug-ins print to stderr: stdout holds one line of JSON or nothing."""
    return contextlib.redirect_stdout(sys.stderr)


@contextlib.contextmanager
def said(console: Console) -> Iterator[None]:
    """Pass everything written to stderr through the console, which redacts and formats it."""
    lines = _Lines(console.say)
    try:
        with contextlib.redirect_stderr(lines):
            yield
    finally:
        lines.end()


class _Lines(io.TextIOBase):
    """Passes on whole lines, and keeps the lines of threads apart."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._own = threading.local()

    def write(self, text: str) -> int:
        *lines, self._own.rest = (getattr(self._own, "rest", "") + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def end(self) -> None:
        """Pass on this thread's last line, if it has no line end."""
        if getattr(self._own, "rest", ""):
            self.write("\n")


def print_json(value: object, console: Console) -> None:
    """Print one line of JSON; a reader that is gone does not change the outcome."""
    print_line(json.dumps(redacted(value)), console)


def print_line(line: str, console: Console) -> None:
    """Print a line; escape control characters and what the terminal cannot show."""
    with quiet_pipe(console):
        if sys.stdout is not None:
            encoding = sys.stdout.encoding or "utf-8"
            line = visible(line).encode(encoding, "backslashreplace").decode(encoding)
            print(line, flush=True)


@contextlib.contextmanager
def stream() -> Iterator[TextIO]:
    """Yield stdout for output that must be complete, unless the reader is gone.

    Raises:
        UsageError: stdout is closed, or cannot be written.
    """
    if sys.stdout is None:
        raise UsageError("stdout is closed", hint="redirect it to a file or a program")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes again
        if not isinstance(error, BrokenPipeError):
            raise UsageError(
                f"cannot write to stdout: {error.strerror}",
                hint="the output is incomplete: free some space, or redirect it elsewhere",
            ) from None


@contextlib.contextmanager
def quiet_pipe(console: Console) -> Iterator[None]:
    """Warn if stdout cannot be written; a reader that has seen enough (``| head``) is no fault."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes again
        if not isinstance(error, BrokenPipeError):
            console.say(f"warning: cannot write to stdout: {error.strerror}")
