"""Stdin: a scanner or a program that sends one line after another, or a list."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .console import Console


def is_terminal() -> bool:
    """Tell whether a person is at stdin: a terminal that is ours to read."""
    if sys.stdin is None or sys.stdin.closed or not sys.stdin.isatty():
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()  # not in the background
    except OSError:
        return True  # the terminal of another session, such as a scanner's serial port


def is_live() -> bool:
    """Tell whether lines come to stdin one by one: from a terminal, a pipe or a socket."""
    if is_terminal():
        return True
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or a stream of a test
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


@contextlib.contextmanager
def typed(console: Console, *, wanted: bool) -> Iterator[Iterator[str] | None]:
    """Yield the lines that a person types where the console can show them; None: read stdin."""
    if wanted and console.screen is not None and is_terminal():
        from .keys import typed_lines

        with typed_lines(sys.stdin.fileno(), console.screen) as lines:
            yield lines
    else:
        yield None
