"""The log of one attempt: a file that tells afterwards what was done, when, and what failed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from ..model import Build, BuildRecord, Finding
from ..system import process
from ..system.log_files import appending, make_log_dir
from . import events
from .events import Event

FILE = "attempt.log"
"""Its name, in :attr:`.Build.log_dir`."""


class AttemptLog:
    """Is told of one attempt, and writes it down, redacted, in the form of ``[log] format``."""

    def __init__(self, path: Path, build: Build, note: Callable[[str], None]) -> None:
        self.path = path
        self.whose = events.whose(build)
        self._is_json = build.settings.log.format == "json"
        self._note = note

    def began(self, build: Build) -> None:
        """A build begins."""
        self.tell(events.began(build))

    def started(self, step: str) -> None:
        """A step begins."""
        self.tell(events.started(step))

    def ended(self, step: str, seconds: float, note: str) -> None:
        """A step has ended well."""
        self.tell(events.ended(step, seconds, note))

    def warned(self, finding: Finding) -> None:
        """A check saw something that does not stop the build."""
        self.tell(events.warned(finding))

    def finished(self, record: BuildRecord) -> None:
        """The attempt has ended, well or not."""
        for event in events.failed(record.error) if record.error else ():
            self.tell(event)
        self.tell(events.finished(record))

    def tell(self, event: Event) -> None:
        """Write one event down."""
        now = time.time()
        if self._is_json:
            self._note(event.with_fields(self.whose).as_json(now))
        else:
            self._note(event.as_text(now))


@contextlib.contextmanager
def opened(build: Build) -> Iterator[AttemptLog]:
    """Open the log of an attempt; what this thread logs meanwhile stands in it, too.

    Raises:
        StagingError: its folder cannot be made.
        OSError: it cannot be opened.
    """
    make_log_dir(build)
    path = build.log_dir / FILE
    with appending(path) as note:
        log = AttemptLog(path, build, note)
        for name in events.LOGGERS:
            logging.getLogger(name).addHandler(_forward)
        before = _current.set(log)
        try:
            yield log
        finally:
            _current.reset(before)


_current: ContextVar[AttemptLog | None] = ContextVar("attempt_log", default=None)
"""Of each thread its own: a fleet's devices are made side by side."""


def whose() -> dict[str, str]:
    """Return the fields of the attempt that this thread works for; none without a log of it."""
    log = _current.get()
    return log.whose if log is not None else {}


class _Forward(logging.Handler):
    """Brings what modules and plug-ins log into the log of the attempt that they work for."""

    def emit(self, record: logging.LogRecord) -> None:
        log = _current.get()
        # What a script prints is in the script's own log beside this one.
        if log is not None and not (record.levelno <= logging.DEBUG and record.name == _SCRIPTS):
            log.tell(events.logged(record))


_forward = _Forward()
_SCRIPTS = process.__name__
