"""What a command prints on stdout: lines, or one line of JSON. All else is said on stderr."""

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
    """Send what a plug-in prints to stderr: stdout is one line of JSON or nothing."""
    return contextlib.redirect_stdout(sys.stderr)


@contextlib.contextmanager
def said(console: Console) -> Iterator[None]:
    """Let the console say what others write to stderr: redacted, and in its form."""
    lines = _Lines(console.say)
    try:
        with contextlib.redirect_stderr(lines):
            yield
    finally:
        lines.end()


class _Lines(io.TextIOBase):
    """Passes on whole lines; each thread writes lines of its own."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._own = threading.local()

    def write(self, text: str) -> int:
        *lines, self._own.rest = (getattr(self._own, "rest", "") + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def end(self) -> None:
        """Pass on what this thread wrote last, without an end of line."""
        if getattr(self._own, "rest", ""):
            self.write("\n")


def print_json(value: object, console: Console) -> None:
    """Print one line; a reader that has gone away changes nothing of what was done."""
    print_line(json.dumps(redacted(value)), console)


def print_line(line: str, console: Console) -> None:
    """Print a line; what a terminal would obey, and what it cannot show, is escaped."""
    with quiet_pipe(console):
        if sys.stdout is not None:
            encoding = sys.stdout.encoding or "utf-8"
            line = visible(line).encode(encoding, "backslashreplace").decode(encoding)
            print(line, flush=True)


@contextlib.contextmanager
def stream() -> Iterator[TextIO]:
    """Yield stdout for what is worthless when it is cut; a reader that has gone away knows that.

    Raises:
        UsageError: it is closed, or not all of it can be written.
    """
    if sys.stdout is None:
        raise UsageError("stdout is closed", hint="let it lead to a file or a program")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes again
        if not isinstance(error, BrokenPipeError):
            raise UsageError(
                f"cannot write to stdout: {error.strerror}", hint="what is there is not whole"
            ) from None


@contextlib.contextmanager
def quiet_pipe(console: Console) -> Iterator[None]:
    """A reader that has gone away (``| head``) is no bug."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes again
        console.say(f"warning: cannot write to stdout: {error.strerror}")
