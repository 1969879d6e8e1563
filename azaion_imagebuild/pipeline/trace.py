"""A trace of each attempt, one span per step, for an OpenTelemetry collector (extra ``otel``).

OpenTelemetry itself reads the OTEL_ variables: headers, certificates, the service's name, further
attributes. If the collector cannot be reached, the build goes on.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .. import __version__
from ..secret import Secret, redact

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

    from .events import Event

_logger = logging.getLogger(__name__)
_PATIENCE = 3.0
"""Seconds for one delivery: how long an unreachable collector may delay the end of a command."""

_PREFIX = "azaion."
"""Prefix of our attributes; the rest of the name is the record's."""


class Trace:
    """Makes the spans of one attempt from its events."""

    def __init__(self, tracer: Tracer, station: str | None) -> None:
        self._tracer = tracer
        self._station = station
        self._attempt, self._step = ExitStack(), ExitStack()
        self._spans: list[Span] = []

    def __call__(self, event: Event) -> None:
        """Open, mark or close a span."""
        told = event.fields
        if event.name == "began":
            facts = {name: told[name] for name in ("serial", "attempt", "sandbox")}
            self._begin(self._attempt, "attempt", facts | {"station": self._station})
        elif event.name == "started":
            self._begin(self._step, told["step"], {})
        elif event.name == "step":
            self._step.close()
            del self._spans[1:]
        elif event.name == "warning":
            self._spans[-1].add_event("warning", {"message": _shown(event.message)})
        elif event.name == "finished":
            self._end(told)

    def _end(self, record: Mapping[str, Any]) -> None:
        """End the attempt; a step that failed is still open."""
        from opentelemetry.trace import StatusCode

        if record["outcome"] != "done":
            for span in self._spans:
                span.set_status(StatusCode.ERROR, _shown(record["error"]))
        told = ("outcome", "account", "image_sha256", "proof", "flashed", "step", "exit_code")
        self._spans[0].set_attributes(_attributes({name: record.get(name) for name in told}))
        self._step.close()
        self._attempt.close()

    def _begin(self, held: ExitStack, name: str, facts: dict[str, Any]) -> None:
        """Open a span as this thread's current one: a plug-in's spans become its children."""
        span = self._tracer.start_as_current_span(name, attributes=_attributes(facts))
        self._spans.append(held.enter_context(span))


def _attributes(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{_PREFIX}{name}": _shown(value) if isinstance(value, str) else value
        for name, value in facts.items()
        if value is not None
    }


def _shown(text: str) -> str:
    """Redact a text and escape what UTF-8 cannot encode, which would lose the whole batch.

    A path of the host may hold any byte, as a lone surrogate.
    """
    return redact(text).encode("utf-8", "backslashreplace").decode()


@cache
def tracer_to(endpoint: str) -> Tracer:
    """Return a tracer that sends its spans to ``endpoint``, the base URL of an OTLP/HTTP server.

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
    """Send the remaining spans and end all traces; do not wait for a slow collector."""
    tracer_to.cache_clear()
    while _providers:
        provider = _providers.pop()
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        sending.join(_PATIENCE + 0.5)  # it logs what it could not send in time
        if sending.is_alive():
            atexit.unregister(provider.shutdown)
            _logger.warning("the trace: the collector takes too long to answer")


_providers: list[TracerProvider] = []
_tokens: list[Secret] = []
"""Kept for the whole process, so that they are redacted if a collector sends them back."""


def _values_in(headers: str) -> Iterator[Secret]:
    """Yield the values of OTEL_EXPORTER_OTLP_HEADERS, without the word ``Bearer`` or ``Basic``."""
    for header in headers.split(","):
        words = unquote(header.partition("=")[2]).split()
        yield from map(Secret, words[-1:])


def _quieten() -> None:
    """Let OpenTelemetry log in one line that it gave up, not each retry."""
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers = [_Forward(logging.ERROR)]
    theirs.propagate = False


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _logger.warning("the trace: %s", record.getMessage())
