"""Other programs: finding them, running them (only here), and listing processes."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

from msgspec import Struct

from ..secret import redact
from ..settings import ENV_PREFIX
from .log_files import appending
from .signals import check_interrupt, heard_by, held_back

_TAIL_LINES = 200
_LONGEST_LINE = 8192
_LEFT_OUT = b" [...] "
_PULSE = 0.25  # seconds between two checks for an interrupt, and two looks at what was done
_AFTERWORDS = 1.0  # seconds of reading after a program has ended
_GRACE = 20.0  # seconds that a signalled script gets to clean up
_MOMENT = 0.1  # seconds between two looks for a further signal
_logger = logging.getLogger(__name__)


class Finished(Struct, frozen=True, kw_only=True):
    """A program that has ended."""

    argv: tuple[str, ...]
    cwd: Path
    returncode: int
    """Negative: the signal that ended it. :data:`TIMED_OUT`: stopped at its time limit."""
    tail: tuple[str, ...]
    """The last lines of stdout and stderr."""
    telling: tuple[str, ...] = ()
    """The lines that were asked for, however many came after them; of very many, the last ones."""

    @property
    def command_line(self) -> str:
        """The shell line that repeats the call."""
        return f"cd {shlex.quote(str(self.cwd))} && {shlex.join(self.argv)}"

    def last_words(self, lines: int = 3) -> str:
        """Return the last non-empty lines, joined for an error message."""
        said = [line.strip() for line in self.tail if line.strip()]
        return " | ".join(said[-lines:]) or "it printed nothing"


TIMED_OUT = -1000
_SYSTEM_PATH = "/usr/sbin:/sbin"


def find_program(name: str, folder: Path | None = None) -> str | None:
    """Return the full path of a program; None: it is not installed.

    It is searched for in ``PATH`` and the folders of root's programs, which a user's ``PATH`` may
    lack; if ``folder`` is given, only there.
    """
    return shutil.which(name, path=str(folder) if folder else search_path())


def search_path() -> str:
    """Return ``PATH`` and the folders of root's programs: cron's ``PATH`` lacks those."""
    return f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"


class RunningProcess(Struct, frozen=True, kw_only=True):
    """A process of this host."""

    path: Path
    """Its folder in procfs."""
    argv: tuple[str, ...]

    @property
    def pid(self) -> int:
        return int(self.path.name)


def processes_of(proc: Path = Path("/proc")) -> Iterator[RunningProcess]:
    """Yield the processes of a procfs whose command line this user may read."""
    for path in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = (path / "cmdline").read_bytes().decode("utf-8", "replace")
            yield RunningProcess(path=path, argv=tuple(words.split("\0")))


def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    log: Path | None = None,
    timeout: float = 600.0,
    keep_open: tuple[int, ...] = (),
    on_progress: Callable[[], None] = lambda: None,
    is_telling: Callable[[str], bool] = lambda _: False,
    is_done: Callable[[Sequence[str]], bool] = lambda _: False,
) -> Finished:
    """Run a program to its end; stream its output to the log, and keep the last lines.

    The program gets its own process group. On an interrupt or at the time limit, the group gets
    SIGINT, SIGTERM and finally SIGKILL, and this function waits for it. The program's environment
    holds nothing of this tool's configuration.

    Args:
        argv: the program and its arguments.
        cwd: its working directory.
        environ: variables on top of this process's own.
        log: file (made 0600) to which the output is appended.
        timeout: seconds until it is stopped.
        keep_open: descriptors that it inherits (locks).
        on_progress: called about four times a second.
        is_telling: chooses the lines to keep besides the last ones.
        is_done: asked after an interrupt, for the telling and the last lines; if they show that the
            program had succeeded, the interrupt does not count.

    Raises:
        OSError: the log cannot be opened or the program cannot be started.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    told: deque[str] = deque(maxlen=_TAIL_LINES)
    deadline = time.monotonic() + timeout
    with appending(log) as note:

        def keep(line: str | None) -> None:
            if line is not None:
                shown = redact(line)
                tail.append(shown)
                if is_telling(shown):
                    told.append(shown)
                note(shown)
                _logger.debug("%s", shown)

        note(f"$ {shlex.join(argv)}")
        child: subprocess.Popen[bytes] | None = None
        lines: Iterator[str | None] = iter(())
        try:
            with held_back():  # an interrupt here could leave a child that nobody knows
                child = subprocess.Popen(
                    list(argv),
                    cwd=cwd,
                    env=_environment(environ or {}),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=keep_open,
                )
            lines = _lines(child, deadline)
            due = 0.0
            for line in lines:
                keep(line)
                if time.monotonic() >= due:
                    on_progress()
                    due = time.monotonic() + _PULSE
                check_interrupt()
            returncode = _ended(child, deadline)
        except (TimeoutError, subprocess.TimeoutExpired):
            _stop(child)
            returncode = TIMED_OUT
        except BaseException as error:
            ended = child and child.poll()
            _stop(child)  # its output pipe is still open: a cleaning-up script may print
            if not isinstance(error, KeyboardInterrupt):
                raise
            with contextlib.suppress(TimeoutError):
                for line in lines:
                    keep(line)
            if not is_done([*told, *tail]):
                raise
            returncode = ended or 0  # it had succeeded before it was stopped
        finally:
            if child is not None and child.stdout is not None:
                child.stdout.close()
    return Finished(
        argv=tuple(argv),
        cwd=cwd,
        returncode=returncode,
        tail=tuple(tail),
        telling=tuple(told),
    )


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    own = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(ENV_PREFIX) and not _OTEL_HEADERS.fullmatch(name)
    }
    for name in _PRIVATE_VARIABLES:
        own.pop(name, None)
    return {**own, **extra}


_OTEL_HEADERS = re.compile(r"OTEL_EXPORTER_OTLP_(\w+_)?HEADERS")
"""Variables that may hold a token, whether this tool makes traces or not."""

_PRIVATE_VARIABLES: set[str] = set()


def hide_variable(name: str) -> None:
    """Keep the variable ``name`` (it holds a token) out of every program's environment."""
    _PRIVATE_VARIABLES.add(name)


def _lines(child: subprocess.Popen[bytes], deadline: float) -> Iterator[str | None]:
    """Yield the lines of ``pipe``, and None after a quarter of a second without one.

    It ends with the pipe, or soon after the child: a daemon may keep the pipe open.

    Raises:
        TimeoutError: at ``deadline``.
    """
    pipe = child.stdout
    assert pipe is not None  # noqa: S101 - stdout=PIPE
    rest = b""
    ended = 0.0
    with DefaultSelector() as selector:
        selector.register(pipe, EVENT_READ)
        while True:
            if child.poll() is not None:  # read what is left in the pipe, but nothing of a daemon
                ended = ended or time.monotonic()
                deadline = min(deadline, ended + _AFTERWORDS)
            patience = deadline - time.monotonic()
            if patience <= 0:
                yield _decoded(rest) if rest else None  # it may be what it waits for
                if ended:
                    return
                raise TimeoutError
            ready = selector.select(min(_PULSE, patience))
            if not ready and not ended:
                yield None
                continue
            chunk = os.read(pipe.fileno(), 65536) if ready else b""
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            yield from map(_decoded, lines)
            if rest and not chunk:
                yield _decoded(rest)
            if not chunk:
                return
            if len(rest) > _LONGEST_LINE:
                rest = _shortened(rest)
                yield None


def _ended(child: subprocess.Popen[bytes], deadline: float) -> int:
    """Wait for a program that prints no more; return its exit code.

    Raises:
        TimeoutExpired: at ``deadline``.
    """
    while True:
        patience = max(0.0, deadline - time.monotonic())
        try:
            return child.wait(min(_PULSE, patience))
        except subprocess.TimeoutExpired:
            if patience <= _PULSE:
                raise
            check_interrupt()


def _shortened(line: bytes) -> bytes:
    """Leave out the middle of a line that is too long: its end may be what counts."""
    if len(line) <= _LONGEST_LINE:
        return line
    half = (_LONGEST_LINE - len(_LEFT_OUT)) // 2
    return line[:half] + _LEFT_OUT + line[-half:]


def _decoded(line: bytes) -> str:
    text = _shortened(line).decode("utf-8", "replace")
    return "".join(char if char.isprintable() or char == "\t" else "�" for char in text)


def _stop(child: subprocess.Popen[bytes] | None) -> None:
    """End the child's whole group, gently at first: NVIDIA's scripts unmount on a signal."""
    if child is None:
        return
    calls = [(signal.SIGINT, _GRACE), (signal.SIGTERM, _GRACE / 4), (signal.SIGKILL, None)]
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # `make image &`: the script inherits it
        calls = [(signal.SIGTERM, _GRACE), (signal.SIGKILL, None)]
    with _counted() as impatient:
        for number, patience in calls:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            if _has_ended(child, patience, impatient):
                break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # what the script left behind in its group


@contextlib.contextmanager
def _counted() -> Iterator[list[int]]:
    """Yield the signals that come meanwhile; another thread than the main one hears of none."""
    heard: list[int] = []
    if threading.current_thread() is threading.main_thread():
        with heard_by(heard.append):
            yield heard
    else:
        yield heard


def _has_ended(
    child: subprocess.Popen[bytes], patience: float | None, impatient: list[int]
) -> bool:
    """Wait for a signalled child; a further signal to us wants it to end now."""
    deadline = time.monotonic() + (math.inf if patience is None else patience)
    while time.monotonic() < deadline and not (patience and impatient):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_MOMENT)
            return True
    impatient.clear()
    return False
