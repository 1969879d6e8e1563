"""How a person sees a fleet: as lines, and on a terminal with a row for each lane below."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import structs

from ..fleet.events import spoken_lane
from ..pipeline.events import Event, Watcher

if TYPE_CHECKING:
    from .console import Console
    from .screen import Screen


def lines_to(console: Console) -> Watcher:
    """Return a watcher that writes one line for each device that has ended."""
    ended = total = 0
    in_turn = threading.RLock()  # lanes and jobs call from threads of their own

    def tell(event: Event) -> None:
        nonlocal ended, total
        if event.name == "planned":
            total = event.fields["todo"]
        if event.name == "device":
            with in_turn:
                ended += 1
                whole = f"/{total}" if total else ""  # the number of scans is unknown
                console.tell(event, f"  {ended:>{len(str(total))}}{whole}  {event.message}")
        else:
            pass_on(event, console)

    return tell


def timed_lines_to(console: Console) -> Watcher:
    """Return a watcher for a station: it writes when and on which lane a device has ended."""

    def tell(event: Event) -> None:
        if event.name == "device":
            console.tell(event, f"  {time.strftime('%H:%M:%S')}  {event.message}")
        else:
            pass_on(event, console)

    return tell


def answers_to(console: Console) -> Watcher:
    """Return a watcher for an operator who scans: an answer to each scan, PASS or FAIL, a bell."""
    waiting: set[str] = set()

    def tell(event: Event) -> None:
        serial = str(event.fields.get("serial"))
        if event.name == "scanned" and event.fields["answer"] == "waiting":
            waiting.add(serial)
        if event.name == "assigned" and serial in waiting:
            waiting.remove(serial)
            text = f"{serial} goes to {spoken_lane(event.fields['lane'])}"
            console.tell(event, text)
        elif event.name in ("device", "scanned"):
            console.tell(event, *_with_hint(event))
            if event.name == "device" or event.fields["answer"] in ("double", "refused"):
                console.ring()
        else:
            pass_on(event, console)

    return tell


def _with_hint(event: Event) -> list[str]:
    is_refused = event.fields.get("answer") == "refused"
    hint = event.fields.get("hint")
    hints = [f"hint: {hint}"] if hint else []
    return [f"error: {event.message}" if is_refused else event.message, *hints]


def pass_on(event: Event, console: Console) -> None:
    """Pass everything to the console, except the steps of devices at the same time."""
    if "lane" not in event.fields:
        console(event)
    elif event.name == "warning":
        text = f"{event.fields['serial']}: {event.message}"
        console(event if console.is_json else structs.replace(event, message=text))


def failures_to(console: Console) -> Watcher:
    """Return a watcher for a list whose lanes are shown: only a failure stays on the screen."""

    def tell(event: Event) -> None:
        if event.name != "device":
            pass_on(event, console)
        elif event.fields["outcome"] != "done":
            console.tell(event, event.message)

    return tell


def with_lanes(screen: Screen, lines: Watcher, *, counts: bool) -> Watcher:
    """Return a watcher that shows a row for each lane, and passes all on to ``lines``.

    Args:
        screen: where the rows are shown.
        lines: writes what stays.
        counts: also show how many of the list are done, the rate, and the time left.
    """
    rows = LaneRows(counts=counts)

    def tell(event: Event) -> None:
        rows.note(event)
        if event.name == "opened":
            screen.show(rows.now)
        if event.name == "closed":
            screen.hide()
        screen.changed()
        lines(event)

    return tell


@dataclass(slots=True)
class LaneRows:
    """What each lane does now, and how far the whole list is. Thread-safe."""

    counts: bool
    _total: int = 0
    _ended: int = 0
    _failed: int = 0
    _began: float = field(default_factory=time.monotonic)
    _doing: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Lane → what it does, and since when; it does nothing without words."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, event: Event) -> None:
        """Take what an event tells of a lane or of the list."""
        fields = event.fields
        with self._lock:
            if event.name == "planned":
                self._total = fields["todo"]
            elif event.name == "opened":
                self._began = time.monotonic()
                self._doing = dict.fromkeys(fields["lanes"], ("", 0.0))
            elif event.name == "device":
                self._ended += 1
                self._failed += fields["outcome"] != "done"
            if (lane := fields.get("lane")) in self._doing:
                self._note_lane(lane, event)

    def _note_lane(self, lane: str, event: Event) -> None:
        _, since = self._doing[lane]
        serial = event.fields.get("serial")
        if event.name == "assigned":
            self._doing[lane] = (f"{serial}", time.monotonic())
        elif event.name == "started":
            self._doing[lane] = (f"{serial}  {event.fields['step']}", since)
        elif event.name == "device":
            self._doing[lane] = ("", 0.0)

    def now(self) -> list[str]:
        """Return the rows."""
        now = time.monotonic()
        with self._lock:
            width = max((len(spoken_lane(lane)) for lane in self._doing), default=0)
            return [
                *([self._whole(now)] if self.counts else []),
                *(f"{spoken_lane(lane):{width}}  " + _row(words, now - since)
                  for lane, (words, since) in self._doing.items()),
            ]  # fmt: skip

    def _whole(self, now: float) -> str:
        done = self._ended / self._total if self._total else 0.0
        bar = "#" * round(_BAR * done)
        passed = max(0.001, now - self._began)
        row = f"[{bar:.<{_BAR}}] {self._ended:,}/{self._total:,}"
        if self._ended:
            left = passed / self._ended * (self._total - self._ended)
            row += f"  {self._ended / passed * 3600:,.0f}/h  {_spoken(left)} left"
        return row + (f"  {self._failed:,} FAILED" if self._failed else "")


_BAR = 30  # characters


def _row(words: str, seconds: float) -> str:
    return f"{words}  {_spoken(seconds)}" if words else "free"


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
