"""What happens during a build: one event for each thing that happened."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct, field, structs

from ..errors import OperatorError
from ..model import Build, BuildRecord, Finding
from ..secret import redact, redacted
from ..text import utc, visible

Level = Literal["debug", "info", "warning", "error"]
LOGGERS = ("azaion_imagebuild", "azaion_imagebuild_hooks")
"""The loggers that we listen to: this package's modules, and plug-ins loaded from files."""


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened, for a person and for a program."""

    name: str
    """``began started step warning error said printed progress device finished exit``."""
    message: str
    """One line for a person; it may hold a secret until ``as_json`` or ``as_text`` redacts it."""
    level: Level = "info"
    fields: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for a program, named as in the one-line record.

    A field with the name of one that every event has (a plug-in's ``level``) is omitted.
    """

    def with_fields(self, fields: Mapping[str, Any]) -> Event:
        """Return the event with more fields; its own fields win."""
        return structs.replace(self, fields={**fields, **self.fields})

    def as_json(self, when: float) -> str:
        """Return one line of JSON, redacted; ``when`` is in seconds since the epoch."""
        known = {
            "time": utc(when, "milliseconds"), "level": self.level, "event": self.name,
            "message": self.message,
        }  # fmt: skip
        return json.dumps(redacted({**known, **self.fields, **known}), default=str)

    def as_text(self, when: float) -> str:
        """Return one line of text, redacted, with the hint of a problem, then any traceback."""
        is_problem = self.name in ("warning", "error")
        hint = f" (hint: {self.fields['hint']})" if is_problem else ""
        line = (
            f"{utc(when, 'milliseconds')} {self.level:7} {redact(self.message + hint).expandtabs()}"
        )
        trace = redact(self.fields.get("traceback", "")).rstrip().split("\n")
        return "\n    ".join(map(visible, [line, *filter(None, trace)]))


Watcher = Callable[[Event], None]
"""A function that is called with each event, perhaps by several threads."""


def warnings_to(watcher: Watcher) -> Watcher:
    """Return a watcher that passes on warnings only."""

    def tell(event: Event) -> None:
        if event.name == "warning":
            watcher(event)

    return tell


def began(build: Build) -> Event:
    """Return the event of a build that begins."""
    where = "SANDBOX  " if build.sandbox else ""
    who = "base image" if build.is_base else f"{build.serial}  {build.email}"
    return Event(
        name="began",
        message=f"{where}{who}  attempt {build.attempt}",
        fields={**whose(build), "email": build.email, "sandbox": build.sandbox},
    )


def whose(build: Build) -> dict[str, str]:
    """Return the fields that identify the events of one attempt."""
    return {"serial": build.serial, "attempt": build.attempt}


def started(step: str) -> Event:
    """Return the event of a step that begins."""
    return Event(name="started", message=f"{step} begins", level="debug", fields={"step": step})


def ended(step: str, seconds: float, note: str) -> Event:
    """Return the event of a step that succeeded."""
    fields = {"step": step, "seconds": round(seconds, 5), "note": note}
    return Event(name="step", message=f"{step:20} {seconds:7.2f} s  {note}".rstrip(), fields=fields)


def warned(finding: Finding) -> Event:
    """Return the event of a finding that does not stop the build."""
    return problem("warning", finding.message, finding.hint)


def failed(error: OperatorError) -> Iterator[Event]:
    """Yield an event for each problem of an error."""
    for message, hint in error.problems:
        yield problem("error", message, hint)


def problem(severity: Literal["error", "warning"], message: str, hint: str) -> Event:
    """Return the event of a problem; ``hint`` says what to do next."""
    return Event(name=severity, message=message, level=severity, fields={"hint": hint})


def finished(record: BuildRecord) -> Event:
    """Return the event of a build that has ended, successfully or not."""
    build, seconds = record.build, f"{record.seconds:.1f} s"
    if record.error is not None:
        where = f"at {record.step} (exit {record.exit_code}) after {seconds}"
        message = f"FAILED {_who(build)} {where}"
    else:
        done = "DONE in the SANDBOX" if build.sandbox else "DONE"
        message = f"{done}: {_who(build)} in {seconds}"
    level: Level = "info" if record.error is None else "error"
    return Event(name="finished", message=message, level=level, fields=record.as_json())


def _who(build: Build) -> str:
    return "base image" if build.is_base else build.serial


def at_the_end(record: BuildRecord) -> Iterator[Event]:
    """Yield the events of a build's end: its problems, then that it has ended."""
    if record.error is not None:
        yield from failed(record.error)
    yield finished(record)


def said(message: str, level: Level = "info", **fields: Any) -> Event:
    """Return the event of a line for the operator to read."""
    return Event(name="said", message=message, level=level, fields=fields)


_LEVELS: Mapping[int, Level] = {
    logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error",
}  # fmt: skip


def logged(record: logging.LogRecord) -> Event:
    """Return the event of what a module or a plug-in logged, perhaps with a traceback."""
    level: Level = "debug"
    for number, name in _LEVELS.items():
        level = name if record.levelno >= number else level
    trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
    fields = {"traceback": trace} if trace else {}
    return said(text_of(record), level, **fields)


def text_of(record: logging.LogRecord) -> str:
    """Return the text of a log record; wrong arguments are a bug, but must not stop a build."""
    try:
        return record.getMessage()
    except Exception as error:
        return f"{record.pathname}:{record.lineno} logs a line that cannot be formatted: {error!r}"
