"""The stream of messages on stderr, as text for a person or as JSON for a program."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TextIO, cast

from ..errors import OperatorError
from ..pipeline import attempt_log, events
from ..pipeline.events import Event, Watcher
from ..secret import redact
from ..text import visible
from .live_line import Lasting, Live, Quiet
from .painting import has_colours, painted
from .screen import Screen, is_screen


class Console:
    """Writes events to one stream, redacted: text, or with ``is_json`` one JSON object a line."""

    def __init__(self, stream: TextIO | None, *, is_json: bool = False) -> None:
        # None: the caller closed it (2>&-)
        stream = None if stream is None else cast("TextIO", Lasting(stream))
        self._stream = stream
        self.debug = False
        """Show the whole output of scripts."""
        self.has_bell = True
        self._screen = Screen(stream) if is_screen(stream) else None
        self._has_colours = has_colours(stream)
        self.speak(is_json=is_json)
        for name in events.LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers = [_Handler(self)]
            logger.propagate = False
            logger.setLevel(logging.DEBUG)

    def speak(self, *, is_json: bool, is_quiet: bool = False) -> None:
        """Write text or JSON from now on; with ``is_quiet``, of text only what is wrong."""
        self.is_json = is_json
        self._is_quiet = is_quiet
        self._progress: Live | Quiet = Quiet(self._progressed)
        if self.screen is not None:
            self._progress = Live(self.screen)

    @property
    def screen(self) -> Screen | None:
        """What is live on the stream, if it is a terminal and gets text."""
        return None if self.is_json or self._is_quiet else self._screen

    def tell(self, event: Event, *text: str) -> None:
        """Write the event for a program, or the lines of ``text`` for a person."""
        if not self.is_json:
            for line in () if self._is_quiet and event.level in ("debug", "info") else text:
                shown = "\n".join(map(visible, redact(line).expandtabs().split("\n")))
                self._write(painted(shown) if self._has_colours else shown)
        else:
            self._write(event.as_json(time.time()))

    def say(self, line: str) -> None:
        """Write one line, or a traceback's several; control characters are escaped."""
        self.tell(events.said(line), line)

    def _write(self, line: str) -> None:
        if self.screen is not None:
            self.screen.print(line)
        elif self._stream is not None:
            print(line, file=self._stream, flush=True)

    def __call__(self, event: Event) -> None:
        """Show an event: a console is a watcher."""
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
        """Remove the live line after the step, or after an interrupt."""
        self._progress.ended()

    def failed(self, error: OperatorError, whose: Mapping[str, str] = MappingProxyType({})) -> None:
        """Show an operator's error: an error line and a hint line for each problem."""
        self._progress.ended()
        for event in events.failed(error):
            self(event.with_fields(whose))

    def exited(self, exit_code: int, seconds: float) -> None:
        """Write the last event, for programs."""
        fields = {"exit_code": exit_code, "seconds": round(seconds, 3)}
        self.tell(Event(name="exit", message=f"exit {exit_code}", fields=fields))

    def ring(self) -> None:
        """Ring the terminal's bell: an operator need not watch."""
        if self.has_bell and self.screen is not None:
            self.screen.ring()

    def closed(self) -> None:
        """Remove what is live: the command ends."""
        self._progress.ended()
        if self._screen is not None:
            self._screen.close()

    def fleet(self, *, scans: bool) -> Watcher:
        """Return the watcher that shows a fleet."""
        from .fleet_display import answers_to, failures_to, lines_to, with_lanes

        if self.screen is None:
            return answers_to(self) if scans else lines_to(self)
        lines = answers_to(self) if scans else failures_to(self)
        return with_lanes(self.screen, lines, counts=not scans)

    def station(self, *, scans: bool) -> Watcher:
        """Return the watcher that shows a station."""
        from .fleet_display import answers_to, timed_lines_to, with_lanes

        if not scans:
            return timed_lines_to(self)
        lines = answers_to(self)
        return lines if self.screen is None else with_lanes(self.screen, lines, counts=False)


def _lines_of(event: Event) -> list[str]:
    """Return the lines of an event for a person; a step is shown at its end."""
    if event.name in ("warning", "error"):
        return [f"{event.level}: {event.message}", f"hint: {event.fields['hint']}"]
    if event.name == "step":
        return [f"  {event.message}"]
    return [event.message] if event.name in ("began", "said", "planned", "ready") else []


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
