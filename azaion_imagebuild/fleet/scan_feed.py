"""Devices as an operator scans them: a free lane takes each at once, or it waits for one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import PreflightError
from ..identity.serial_list import Listed
from ..ledger.standing import resolve_command
from ..pipeline.events import Watcher
from ..text import spoken_time
from . import events
from .destinations import Destination, refuse_missing_lane
from .plan import Plan
from .scans import Answer, Scans, accepted, double, refused


@dataclass(slots=True)
class ScanFeed:
    """Hands scanned devices to the lanes until the input ends. Thread-safe."""

    planned: Callable[[Sequence[Listed]], Plan]
    """Looks devices up in the ledger."""
    watcher: Watcher
    pattern: str | None = None
    attended: bool = True
    """A person reads the answers: the input is a terminal."""
    lanes: frozenset[str] | None = None
    """The USB instances that a device may be pinned to; None: pins do not count."""
    plans: dict[str, Plan] = field(default_factory=dict)
    """Serial → its plan, in the order of the scans."""
    closed: bool = False
    scans: Scans = field(init=False)
    _changed: threading.Condition = field(init=False)
    _idle: dict[str, Destination] = field(default_factory=dict)
    """The lanes that wait for a device, longest first."""
    _given: dict[str, Listed] = field(default_factory=dict)
    """Lane → the device that an idle lane is about to take."""
    _waiting: deque[Listed] = field(default_factory=deque)
    _busy: set[str] = field(default_factory=set)
    _is_over: bool = False

    def __post_init__(self) -> None:
        self.scans = Scans(self._take, self.watcher, self.pattern)
        self._changed = threading.Condition(self.scans.lock)

    def start(self, lines: Iterable[tuple[str, str | None]], lanes: int) -> None:
        """Read (line, USB instance) as soon as that many lanes wait; ends with the process."""
        threading.Thread(target=self._read, args=(lines, lanes), daemon=True).start()

    def next(self, place: Destination) -> Listed | None:
        """Wait for a device; None: the input has ended, or no new one shall begin."""
        with self._changed:
            if (each := self._next_waiting(place.name)) is None:
                each = self._wait(place)
            if each is not None:
                self._busy.add(place.name)
                self.scans.begun(each.serial)
            return each

    def close(self) -> None:
        """Let nothing new begin."""
        self.closed = True  # a signal's handler calls this: no lock

    def ended(self, serial: str, *, done: bool) -> None:
        """A device has ended; if it failed, its label may be scanned again."""
        self.scans.ended(serial, done=done)

    def _next_waiting(self, lane: str) -> Listed | None:
        for each in self._waiting:
            if not self.closed and self._may_be_made(each, lane):
                self._waiting.remove(each)
                return each
        return None

    def _wait(self, place: Destination) -> Listed | None:
        self._idle[place.name] = place
        self._changed.notify_all()
        self._say_ready(place.name)
        try:
            while not (self.closed or (self._is_over and place.name not in self._given)):
                if (each := self._given.pop(place.name, None)) is not None:
                    return each
                self._changed.wait(0.2)  # a signal closes it, and cannot notify
            return None
        finally:
            del self._idle[place.name]

    def _say_ready(self, lane: str) -> None:
        """Ask for the next label when a device has ended and none waits; once at the start."""
        if lane in self._busy and not self._is_over and self.attended:
            self.watcher(events.ready(len(self._idle)))
        self._busy.discard(lane)

    def _may_be_made(self, each: Listed, lane: str) -> bool:
        return self.lanes is None or each.usb_instance in (None, lane)

    def _take(self, each: Listed) -> Answer:
        if self.closed or self._is_over:
            raise PreflightError(
                "this run takes no more devices", hint="start fleet - again, then scan the label"
            )
        plan = self.planned([each])
        if not plan.todo:
            return self._left_alone(plan)
        if self.lanes is not None:
            refuse_missing_lane(each, sorted(self.lanes))
        self.plans[each.serial] = plan
        free = [lane for lane in self._idle
                if lane not in self._given and self._may_be_made(each, lane)]  # fmt: skip
        if not free:
            self._waiting.append(each)
            return accepted(each.serial, None)
        lane = max(free, key=lambda lane: self._idle[lane].has_device())  # the first of the best
        self._given[lane] = each
        self._changed.notify_all()
        return accepted(each.serial, lane)

    def _left_alone(self, plan: Plan) -> Answer:
        """Answer for a device that the ledger refuses; its row goes into the report."""
        for each, row in plan.done_before:
            self.plans.setdefault(each.serial, plan)
            message = f"{each.serial} is done already ({spoken_time(row.at)})"
            return double(message, "to redo it, start again with --again")
        for each, row in plan.unknown:
            self.plans.setdefault(each.serial, plan)
            raise PreflightError(
                f"{each.serial} died while flashing: what it holds is unknown",
                hint=f"check the device, then: {resolve_command(row)} done (or failed)",
            )
        return refused(plan.refused[0][1])

    def _read(self, lines: Iterable[tuple[str, str | None]], lanes: int) -> None:
        try:
            with self._changed:
                self._changed.wait_for(lambda: self.closed or len(self._idle) >= lanes)
            self.scans.scan_all(lines, attended=self.attended)
        finally:  # whatever went wrong, nobody waits for more
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
