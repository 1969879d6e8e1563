"""A terminal with a person at it: the tool's stdin, stdout and stderr, and what they see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from world import TOOL

COLUMNS, ROWS = 100, 30
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PIECE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|\a|\x08|[^\x1b\r\n\a\x08]+")


@dataclass
class Terminal:
    """The tool at a terminal of 100 columns."""

    process: subprocess.Popen[bytes]
    ours: int
    raw: str = ""
    """All that it has written."""
    _rest: bytes = field(default=b"")

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def read(self, seconds: float = 0.05) -> str:
        """Return what it writes within that time."""
        before = len(self.raw)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.ours], [], [], left)[0]:
                try:
                    data = self._rest + os.read(self.ours, 65536)
                except OSError:  # the tool has ended
                    break
                text = data.decode("utf-8", "ignore")
                self._rest = data[len(text.encode()) :]
                self.raw += text
        return self.raw[before:]

    @property
    def text(self) -> str:
        """All that it has written, without colours."""
        return _COLOUR.sub("", self.raw)

    def until(self, text: str, seconds: float = 90.0, after: int = 0) -> float:
        """Wait until it has written a text; return the seconds that took."""
        began = time.monotonic()
        while text not in self.text[after:]:
            assert time.monotonic() - began < seconds, self.raw
            more = self.read(0.01)
            assert more or self.process.poll() is None or text in self.text[after:], self.raw
        return time.monotonic() - began

    def ends(self, seconds: float = 90.0) -> int:
        """Wait for its end; return its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.raw
            self.read(0.05)
        self.read(0.1)
        return self.process.returncode

    @property
    def lines(self) -> list[str]:
        """The whole of what is to be seen now, scrolled lines included."""
        return screen(self.raw)

    @property
    def shows_echo(self) -> bool:
        """Tell whether the terminal echoes what is typed, as it did before."""
        return bool(termios.tcgetattr(self.ours)[3] & termios.ECHO)


SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if not child:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    while os.tcgetpgrp(0) != os.getpid():
        pass
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    os.tcsetpgrp(0, child)
    os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, os.WUNTRACED)
    os.tcsetpgrp(0, os.getpgrp())
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    print("stopped", flush=True)
    sys.stdin.readline()
"""
"""A shell with one job, that leaves the terminal's mode alone: Ctrl-Z, then a line, as ``fg``."""


@contextlib.contextmanager
def at_a_terminal(*argv: str, through: Sequence[str] = (), **environ: str) -> Iterator[Terminal]:
    """Start the tool at a terminal, as the leader of its session; end it with the test."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", **environ}
    env.pop("NO_COLOR", None) if "NO_COLOR" not in environ else None
    process = subprocess.Popen(
        [*through, "env", "--default-signal=INT,TERM,HUP", *TOOL, *argv],
        stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


def screen(raw: str) -> list[str]:
    """Return the lines that a terminal shows after some output; colours are left out."""
    lines, row, column = [""], 0, 0
    for piece in _PIECE.findall(raw):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif piece == "\x08":
            column = max(0, column - 1)
        elif piece[0] == "\x1b":
            count = int("".join(filter(str.isdigit, piece)) or 1)
            if piece[-1] == "A":
                row = max(0, row - count)
            elif piece[-1] == "J":
                del lines[row + 1 :]
                lines[row] = lines[row][:column]
            elif piece[-1] == "K":
                lines[row] = lines[row][:column] if "2" not in piece else ""
        elif piece != "\a":
            line = lines[row].ljust(column)
            lines[row] = line[:column] + piece + line[column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines]
