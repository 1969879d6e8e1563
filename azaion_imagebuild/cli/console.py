"""The stream of messages on stderr, as text for a person or as JSON for a program."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TextIO, TypeGuard, cast

from ..errors import OperatorError
from ..pipeline import attempt_log, events
from ..pipeline.events import Event, Watcher
from ..secret import redact
from ..text import visible
from .live_line import Lasting, Live, Quiet


class Console:
    """Writes events to one stream, redacted: text, or with ``is_json`` one JSON object a line."""

    def __init__(self, stream: TextIO | None, *, is_json: bool = False) -> None:
        # None: closed by the caller (2>&-)
        stream = None if stream is None else cast("TextIO", Lasting(stream))
        self._stream = stream
        self.debug = False
        """Show the whole output of scripts."""
        self.has_bell = True
        self.above: Callable[[str], None] | None = None
        """Prints a line above what is live on the stream, while something is."""
        self.speak(is_json=is_json)
        for name in events.LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers = [_Handler(self)]
            logger.propagate = False
            logger.setLevel(logging.DEBUG)

    def speak(self, *, is_json: bool) -> None:
        """Write text or JSON from now on."""
        self.is_json = is_json
        self._progress: Live | Quiet = Quiet(self._progressed)
        if not is_json and _is_terminal(self._stream):
            self._progress = Live(self._stream)

    def tell(self, event: Event, *text: str) -> None:
        """Write the event for a program, or the lines of ``text`` for a person."""
        if not self.is_json:
            for line in text:
                self._write("\n".join(map(visible, redact(line).expandtabs().split("\n"))))
        else:
            self._write(event.as_json(time.time()))

    def say(self, line: str) -> None:
        """Write one line, or a traceback's several; control characters are escaped."""
        self.tell(events.said(line), line)

    def _write(self, line: str) -> None:
        if self.above is not None:
            self.above(line)
        elif self._stream is not None:
            print(line, file=self._stream, flush=True)

    def __call__(self, event: Event) -> None:
        """Tell what happens in a build: this console is a watcher."""
        if event.name == "started":
            self._progress.started(event.fields["step"])
        elif event.name in ("step", "error"):
            self._progress.ended()
        self.tell(event, *_lines_of(event))

    def printed(self, line: str) -> None:
        """Show a line that a script printed."""
        if self.debug:
            self.tell(Event(name="printed", message=line, level="debug"), f"    | {line}")
        else:
            self._progress.line(line)

    def _progressed(self, line: str) -> None:
        self.tell(Event(name="progress", message=line.strip()), line)

    def stopped(self) -> None:
        """Remove the live line: the step has stopped, perhaps by an interrupt."""
        self._progress.ended()

    def failed(self, error: OperatorError, whose: Mapping[str, str] = MappingProxyType({})) -> None:
        """Show an operator's error: an error line and a hint line for each problem."""
        self._progress.ended()
        for event in events.failed(error):
            self(event.with_fields(whose))

    def exited(self, exit_code: int, seconds: float) -> None:
        """Tell a program that the command ends."""
        fields = {"exit_code": exit_code, "seconds": round(seconds, 3)}
        self.tell(Event(name="exit", message=f"exit {exit_code}", fields=fields))

    def ring(self) -> None:
        """Ring the terminal's bell: an operator need not watch."""
        if self.has_bell and not self.is_json and _is_terminal(self._stream):
            self._stream.write("\a")
            self._stream.flush()

    def fleet(self, *, scans: bool) -> Watcher:
        """Return what shows a fleet; without bars while labels are scanned and echoed."""
        from .fleet_display import LiveFleet, answers_to, lines_to

        if scans:
            return answers_to(self)
        if not self.is_json and _is_terminal(self._stream):
            return LiveFleet(self, self._stream)
        return lines_to(self)

    def station(self, *, scans: bool) -> Watcher:
        """Return what shows a station."""
        from .fleet_display import answers_to, timed_lines_to

        return answers_to(self) if scans else timed_lines_to(self)


def _lines_of(event: Event) -> list[str]:
    """Return what a person sees of an event; a step is shown when it has ended."""
    if event.name in ("warning", "error"):
        return [f"{event.level}: {event.message}", f"hint: {event.fields['hint']}"]
    if event.name == "step":
        return [f"  {event.message}"]
    return [event.message] if event.name in ("began", "said", "planned", "ready") else []


def _is_terminal(stream: TextIO | None) -> TypeGuard[TextIO]:
    return stream is not None and not stream.closed and stream.isatty()


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.DEBUG:
            self._console.printed(events.text_of(record))
            return
        event = events.logged(record).with_fields(attempt_log.whose())
        prefix = "warning: " if event.level == "warning" else ""
        trace = [event.fields["traceback"].rstrip()] if "traceback" in event.fields else []
        self._console.tell(event, prefix + "\n".join([event.message, *trace]))
