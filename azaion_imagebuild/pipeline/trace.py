"""A trace of each attempt, a span for each step, for an OpenTelemetry collector (extra ``otel``).

What the OTEL_ variables say is heeded by OpenTelemetry itself: headers, certificates, the service's
name, further attributes. A collector that is away stops no build.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .. import __version__
from ..model import Build, BuildRecord, Finding
from ..secret import Secret, redact

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_logger = logging.getLogger(__name__)
_PATIENCE = 3.0
"""Seconds for one delivery; so long a collector that is away keeps the end of a command."""

_PREFIX = "azaion."
"""Of the attributes that are ours; the rest of the name is the record's."""


class Trace:
    """Is told of one attempt, and makes its spans."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._attempt, self._step = ExitStack(), ExitStack()
        self._spans: list[Span] = []

    def began(self, build: Build) -> None:
        """A build begins."""
        facts = {"serial": build.serial, "attempt": build.attempt, "sandbox": build.sandbox}
        station = build.settings.ledger.station
        self._begin(self._attempt, "attempt", facts | ({"station": station} if station else {}))

    def started(self, step: str) -> None:
        """A step begins."""
        self._begin(self._step, step, {})

    def ended(self, step: str, seconds: float, note: str) -> None:
        """A step has ended well."""
        self._step.close()
        del self._spans[1:]

    def warned(self, finding: Finding) -> None:
        """A check saw something that does not stop the build."""
        self._spans[-1].add_event("warning", {"message": _shown(finding.message)})

    def finished(self, record: BuildRecord) -> None:
        """The attempt has ended, well or not: a step that failed is still open then."""
        from opentelemetry.trace import StatusCode

        if record.error is not None:
            for span in self._spans:
                span.set_status(StatusCode.ERROR, _shown(record.error.message))
        told = ("outcome", "account", "image_sha256", "proof", "flashed", "step", "exit_code")
        facts = record.as_json()
        self._spans[0].set_attributes(_attributes({name: facts.get(name) for name in told}))
        self._step.close()
        self._attempt.close()

    def _begin(self, held: ExitStack, name: str, facts: dict[str, Any]) -> None:
        """Open a span as this thread's current one: spans that a plug-in makes stand below it."""
        span = self._tracer.start_as_current_span(name, attributes=_attributes(facts))
        self._spans.append(held.enter_context(span))


def _attributes(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{_PREFIX}{name}": _shown(value) if isinstance(value, str) else value
        for name, value in facts.items()
        if value is not None
    }


def _shown(text: str) -> str:
    """Return a text redacted, and in what UTF-8 can hold: one that it cannot loses the whole batch.

    A path of the host may hold any byte, as a lone surrogate.
    """
    return redact(text).encode("utf-8", "backslashreplace").decode()


@cache
def tracer_to(endpoint: str) -> Tracer:
    """Return what makes spans and sends them to ``endpoint``, the base URL of an OTLP/HTTP server.

    :func:`deliver` sends the last of them.

    Raises:
        ImportError: the extra ``otel`` is not installed.
        ValueError: an OTEL_ variable is wrong.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        _tokens.extend(_values_in(os.environ.get(name, "")))
    _quieten()
    ours = Resource.create({"service.name": "azaion-imagebuild", "service.version": __version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=_PATIENCE)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _providers.append(provider)
    return provider.get_tracer("azaion_imagebuild", __version__)


def deliver() -> None:
    """Send what was not sent yet, and end all traces: a collector that drips is not waited for."""
    tracer_to.cache_clear()
    while _providers:
        provider = _providers.pop()
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        sending.join(_PATIENCE + 0.5)  # it says itself what it has given up in time
        if sending.is_alive():
            atexit.unregister(provider.shutdown)
            _logger.warning("the trace: the collector takes too long to answer")


_providers: list[TracerProvider] = []
_tokens: list[Secret] = []
"""Alive as long as the process: a collector may send them back."""


def _values_in(headers: str) -> Iterator[Secret]:
    """Yield the values of OTEL_EXPORTER_OTLP_HEADERS, without the word ``Bearer`` or ``Basic``."""
    for header in headers.split(","):
        words = unquote(header.partition("=")[2]).split()
        yield from map(Secret, words[-1:])


def _quieten() -> None:
    """Let OpenTelemetry say in one line that it gave up, and nothing of its tries."""
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers = [_Forward(logging.ERROR)]
    theirs.propagate = False


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _logger.warning("the trace: %s", record.getMessage())
