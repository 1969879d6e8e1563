"""The log file of one attempt: what was done, when, and what failed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar

from ..model import Build
from ..system import process
from ..system.log_files import appending, make_log_dir
from . import events
from .events import Event, Watcher

FILE = "attempt.log"
"""Its name, in :attr:`.Build.log_dir`."""


@contextlib.contextmanager
def opened(build: Build) -> Iterator[Watcher]:
    """Open the log of an attempt: it holds its events, redacted, in the form of ``[log] format``.

    It also gets what this thread logs meanwhile.

    Raises:
        StagingError: its folder cannot be made.
        OSError: it cannot be opened.
    """
    make_log_dir(build)
    is_json = build.settings.log.format == "json"
    with appending(build.log_dir / FILE) as note:

        def tell(event: Event) -> None:
            now = time.time()
            note(event.as_json(now) if is_json else event.as_text(now))

        for name in events.LOGGERS:
            logging.getLogger(name).addHandler(_forward)
        before = _current.set((tell, events.whose(build)))
        try:
            yield tell
        finally:
            _current.reset(before)


_current: ContextVar[tuple[Watcher, dict[str, str]] | None]
_current = ContextVar("attempt_log", default=None)
"""The log of this thread's attempt: a fleet's devices are built side by side."""


def whose() -> dict[str, str]:
    """Return the fields of the attempt that this thread works for; none without a log of it."""
    current = _current.get()
    return current[1] if current is not None else {}


class _Forward(logging.Handler):
    """Writes what modules and plug-ins log to the log of the attempt that they work for."""

    def emit(self, record: logging.LogRecord) -> None:
        current = _current.get()
        # What a script prints is in the script's own log beside this one.
        if current is None or (record.levelno <= logging.DEBUG and record.name == _SCRIPTS):
            return
        tell, whose = current
        tell(events.logged(record).with_fields(whose))


_forward = _Forward()
_SCRIPTS = process.__name__
