"""The keyboard, or a scanner that is one: lines without the terminal's echo.

The terminal would echo a label into the middle of a line that is being printed, so the screen shows
what is typed below all lines.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
import signal
import termios
from collections.abc import Iterator
from types import FrameType
from typing import Any

from .screen import Screen

_LOOK = 1.0  # seconds between two checks of the terminal's mode, which a shell resets at Ctrl-Z
_ESCAPED = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z~]|O[A-Z]|.)?")  # arrows and the like
_BACKSPACE, _LINE, _WORD, _END = ("\x7f", "\x08"), "\x15", "\x17", "\x04"


_UNSEEN = (RuntimeError, OSError, termios.error)
"""What drawing raises in a signal's handler: amid another write, or on a terminal that is gone."""


@contextlib.contextmanager
def typed_lines(fd: int, screen: Screen) -> Iterator[Iterator[str]]:
    """Yield the lines typed at a terminal, and show them on the screen; restore the terminal."""
    before = termios.tcgetattr(fd)
    try:
        with _suspendable(fd, before, screen):
            _silence(fd)
            yield _lines(fd, screen)
    finally:
        screen.typed(None)
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(fd, termios.TCSANOW, before)


@contextlib.contextmanager
def _suspendable(fd: int, mode: list[Any], screen: Screen) -> Iterator[None]:
    """Give the terminal back while Ctrl-Z has stopped this process."""

    def stop(number: int, frame: FrameType | None) -> None:
        with contextlib.ExitStack() as shown, contextlib.suppress(*_UNSEEN):
            with contextlib.suppress(*_UNSEEN):
                shown.enter_context(screen.cleared())
                termios.tcsetattr(fd, termios.TCSANOW, mode)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)  # returns when the shell's fg has continued it
            signal.signal(number, stop)
            _silence(fd)

    if signal.getsignal(signal.SIGTSTP) != signal.SIG_DFL:  # no shell with job control
        yield
        return
    signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _silence(fd: int) -> None:
    """Take each key as it comes, without an echo; Ctrl-C and Ctrl-Z stay signals."""
    mode = termios.tcgetattr(fd)
    if mode[3] & (termios.ICANON | termios.ECHO):
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(fd, termios.TCSANOW, mode)


def _lines(fd: int, screen: Screen) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    line = ""
    screen.typed(line)
    while True:
        if not select.select([fd], [], [], _LOOK)[0]:
            _silence(fd)
            continue
        data = os.read(fd, 4096)
        if not data:
            return
        for key in _ESCAPED.sub("", decoder.decode(data)):
            if key in "\r\n":
                screen.typed("")
                yield line
                line = ""
            elif key == _END and not line:
                return
            else:
                line = _edited(line, key)
        screen.typed(line)


def _edited(line: str, key: str) -> str:
    if key in _BACKSPACE:
        return line[:-1]
    if key == _LINE:
        return ""
    if key == _WORD:
        return line.rstrip().rpartition(" ")[0]
    return line if key == _END else line + key
