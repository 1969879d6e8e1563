"""Who is told of an attempt besides its caller: its log file, and a trace where one is wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import StagingError, install_hint
from ..model import Build, BuildRecord, Finding
from ..settings import LogSettings
from . import attempt_log
from .attempt import Watcher

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class Observer(Watcher, Protocol):
    """A watcher that is told of the end, too."""

    def finished(self, record: BuildRecord) -> None:
        """The attempt has ended, well or not."""


class Observers:
    """Passes on to several what happens in one attempt."""

    def __init__(self, watcher: Watcher, observers: Sequence[Observer], log: Path | None) -> None:
        self._observers = observers
        self._all = [watcher, *observers]
        self.log = log
        """The attempt's log file; None: it could not be opened."""

    def began(self, build: Build) -> None:
        """A build begins, which the watcher knows already."""
        for each in self._observers:
            each.began(build)

    def started(self, step: str) -> None:
        """A step begins."""
        for each in self._all:
            each.started(step)

    def ended(self, step: str, seconds: float, note: str) -> None:
        """A step has ended well."""
        for each in self._all:
            each.ended(step, seconds, note)

    def warned(self, finding: Finding) -> None:
        """A check saw something that does not stop the build."""
        for each in self._all:
            each.warned(finding)

    def finished(self, record: BuildRecord) -> None:
        """The attempt has ended, well or not; the watcher's caller has the record."""
        for each in self._observers:
            each.finished(record)


@contextlib.contextmanager
def observed(build: Build, watcher: Watcher) -> Iterator[Observers]:
    """Yield who is told of an attempt: the watcher, which is told that it begins first of all.

    A log that cannot be opened, or a trace that cannot be sent, is warned of and stops no build.
    """
    watcher.began(build)
    found: list[Observer] = []
    with contextlib.ExitStack() as held:
        log = _log(build, watcher, held)
        found += [log] if log else []
        found += _traces(build.settings.log, watcher)
        observers = Observers(watcher, found, log.path if log else None)
        observers.began(build)
        yield observers


def _log(
    build: Build, watcher: Watcher, held: contextlib.ExitStack
) -> attempt_log.AttemptLog | None:
    try:
        return held.enter_context(attempt_log.opened(build))
    except (StagingError, OSError) as error:
        reason = error.message if isinstance(error, StagingError) else error.strerror
        message = f"this attempt has no log file: {reason}"
    hint = "make the folder writable, or set AZAION_IMAGEBUILD_STATE_DIR to one of your own"
    watcher.warned(Finding(message=message, hint=hint, severity="warning"))
    return None


def _traces(settings: LogSettings, watcher: Watcher) -> Iterator[Observer]:
    found = tracer_of(settings)
    if isinstance(found, Finding):
        watcher.warned(found)
    elif found is not None:
        from .trace import Trace

        yield Trace(found)


def tracer_of(settings: LogSettings) -> Tracer | Finding | None:
    """Return what makes spans, or why there is none; None: no trace is wanted."""
    if settings.otlp_endpoint is None:
        return None
    from .trace import tracer_to  # late: OpenTelemetry is heavy, and an extra

    try:
        return tracer_to(settings.otlp_endpoint)
    except ImportError:
        message = "no trace is made: [log] otlp_endpoint is set, OpenTelemetry is not installed"
        hint = install_hint("otel")
    except ValueError as error:
        message = f"no trace is made: {error}"
        hint = "mend or unset OpenTelemetry's variables: env | grep OTEL_"
    return Finding(message=message, hint=hint, severity="warning")
