"""Who is told of an attempt: its caller, its log file, and a trace if one is wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec import structs

from ..errors import StagingError, install_hint
from ..model import Build, BuildRecord, Finding
from ..settings import LogSettings
from . import attempt_log, events
from .events import Event, Watcher

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

End = Callable[[BuildRecord], BuildRecord]


@contextlib.contextmanager
def watched(build: Build, caller: Watcher) -> Iterator[tuple[Watcher, End]]:
    """Yield a function that tells an attempt's events, and one that ends it.

    The caller's watcher gets the first event, but not the last: the caller has the record. If the
    log cannot be opened or the trace cannot be sent, that is a warning and does not stop a build.
    """
    whose = events.whose(build)
    watchers = [caller]

    def tell(event: Event) -> None:
        event = event.with_fields(whose)
        for watcher in watchers:
            watcher(event)

    tell(events.began(build))
    with contextlib.ExitStack() as held:
        log = _log(build, tell, held)
        ours = [*([log] if log else []), *_traces(build, tell)]
        for watcher in ours:
            watcher(events.began(build))
        watchers += ours

        def end(record: BuildRecord) -> BuildRecord:
            path = build.log_dir / attempt_log.FILE if log else None
            record = structs.replace(record, log=path)
            for event in events.at_the_end(record):
                for watcher in ours:
                    watcher(event.with_fields(whose))
            return record

        yield tell, end


def _log(build: Build, tell: Watcher, held: contextlib.ExitStack) -> Watcher | None:
    try:
        return held.enter_context(attempt_log.opened(build))
    except (StagingError, OSError) as error:
        reason = error.message if isinstance(error, StagingError) else error.strerror
    hint = "make the folder writable, or set AZAION_IMAGEBUILD_STATE_DIR to a folder of your own"
    tell(events.problem("warning", f"this attempt has no log file: {reason}", hint))
    return None


def _traces(build: Build, tell: Watcher) -> Iterator[Watcher]:
    found = tracer_of(build.settings.log)
    if isinstance(found, Finding):
        tell(events.warned(found))
    elif found is not None:
        from .trace import Trace

        yield Trace(found, build.settings.ledger.station)


def tracer_of(settings: LogSettings) -> Tracer | Finding | None:
    """Return a tracer, a Finding if none can be made, None if tracing is off."""
    if settings.otlp_endpoint is None:
        return None
    from .trace import tracer_to  # imported late: OpenTelemetry is heavy, and an extra

    try:
        return tracer_to(settings.otlp_endpoint)
    except ImportError:
        message = "no trace is made: [log] otlp_endpoint is set, OpenTelemetry is not installed"
        hint = install_hint("otel")
    except ValueError as error:
        message = f"no trace is made: {error}"
        hint = "fix or unset OpenTelemetry's variables: env | grep OTEL_"
    return Finding(message=message, hint=hint, severity="warning")
