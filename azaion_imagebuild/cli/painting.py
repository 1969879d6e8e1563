"""Colours: green for success, red for failure. The words alone say the same."""

from __future__ import annotations

import os
import re
from typing import TextIO

from .screen import is_screen

_COLOURS = {
    "\x1b[1;32m": re.compile(r"\s*(?:[\d,:/]+\s+)?(DONE|PASS|OK)\b"),
    "\x1b[1;31m": re.compile(
        r"\s*(?:[\d,:/]+\s+)?(FAILED|FAIL|NOT DONE|INCOMPLETE|INTERRUPTED|UNKNOWN|error:)"
    ),
    "\x1b[1;33m": re.compile(r"\s*(warning:)"),
}
_PLAIN = "\x1b[0m"


def has_colours(stream: TextIO | None) -> bool:
    """Tell whether a stream may get colours: a terminal, unless NO_COLOR is set."""
    return is_screen(stream) and not os.environ.get("NO_COLOR")  # https://no-color.org


def painted(line: str) -> str:
    """Return a line with its first word coloured, if that is an outcome."""
    for colour, words in _COLOURS.items():
        if found := words.match(line):
            start, end = found.span(1)
            return f"{line[:start]}{colour}{line[start:end]}{_PLAIN}{line[end:]}"
    return line
