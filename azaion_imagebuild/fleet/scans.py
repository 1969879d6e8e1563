"""The answer to a scanned line: accepted, waiting for a lane, a double, or refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct, structs

from ..errors import OperatorError
from ..identity.serial import parse_serial
from ..identity.serial_list import Listed, expanded
from ..pipeline.events import Event, Level, Watcher
from ..text import visible
from .events import spoken_lane

Kind = Literal["accepted", "waiting", "double", "refused"]
_LEVELS: dict[Kind, Level] = {"double": "warning", "refused": "error"}
_LONGEST = 80  # characters of a scanned line that are shown
_HOPELESS = 100  # refused lines in a row: this is not a list of serials


class Answer(Struct, frozen=True, kw_only=True):
    """The answer to a scanned line."""

    kind: Kind
    message: str
    """One line for the operator: ``AZJN-0901 accepted for USB 1-3``."""
    hint: str = ""
    """What to do next, if the line was refused."""
    serial: str | None = None
    """None: the line is not a serial."""
    lane: str | None = None
    """The lane that makes it, if one is free."""
    scan: str = ""
    """The line as it was scanned, at most 80 characters."""

    @property
    def is_taken(self) -> bool:
        """Whether the device will be made."""
        return self.kind in ("accepted", "waiting")

    def event(self) -> Event:
        """Return the event of the scan: ``scanned``."""
        fields = {
            "scan": self.scan, "answer": self.kind, "serial": self.serial, "lane": self.lane,
            "hint": self.hint,
        }  # fmt: skip
        level = _LEVELS.get(self.kind, "info")
        return Event(name="scanned", message=self.message, level=level, fields=fields)

    def as_json(self) -> dict[str, str | None]:
        """Return a refused scan for the record of a fleet."""
        return {"scan": self.scan, "serial": self.serial, "error": self.message, "hint": self.hint}


def accepted(serial: str, lane: str | None) -> Answer:
    """Return the answer to a scan whose device is made at ``lane``; None: it waits for one."""
    if lane is None:
        return Answer(kind="waiting", message=f"{serial} accepted; waiting for a free lane")
    return Answer(kind="accepted", message=f"{serial} accepted for {spoken_lane(lane)}", lane=lane)


def double(message: str, hint: str = "") -> Answer:
    """Return the answer to a scan whose device is made, or done, already."""
    return Answer(kind="double", message=message, hint=hint)


def refused(error: OperatorError) -> Answer:
    """Return the answer to a scan whose device must not be made."""
    return Answer(kind="refused", message=error.message, hint=error.hint)


class _Scan(Struct, kw_only=True):
    at: float
    """When it was scanned, by the monotonic clock."""
    state: Literal["making", "waiting", "done"]


@dataclass(slots=True)
class Scans:
    """The scans of one run; a terminal, a pipe and a page may scan at the same time."""

    take: Callable[[Listed], Answer]
    """Takes a device that is not in progress, or says why not; raises to refuse it."""
    watcher: Watcher
    """Told every answer, before the device begins."""
    pattern: str | None = None
    """The site's own pattern of a serial."""
    refused: list[Answer] = field(default_factory=list)
    """Refused scans; they do not count as failed devices."""
    count: int = 0
    """Lines that were scanned."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    _scans: dict[str, _Scan] = field(default_factory=dict)
    _holders: dict[str, str] = field(default_factory=dict)
    """E-mail → the serial that has the account in this run."""

    def scan(self, text: str, *, usb_instance: str | None = None) -> Answer:
        """Answer one scanned line, with or without its line end.

        Args:
            text: a serial, as a scanner or a page sends it.
            usb_instance: the only port where the device may be made; None: any.
        """
        with self.lock:
            self.count += 1
            answer = self._answer(text, usb_instance)
            answer = structs.replace(answer, scan=visible(text.strip(), _LONGEST))
            if answer.kind == "refused":
                self.refused.append(answer)
            self.watcher(answer.event())
        return answer

    def scan_all(self, lines: Iterable[tuple[str, str | None]], *, attended: bool) -> None:
        """Answer (line, USB instance) until the input ends; a line may be a range.

        Without a person who reads the answers, a hundred refused lines in a row end it.
        """
        in_a_row = 0
        for text, usb_instance in lines:
            for serial in _serials(text):
                is_refused = self.scan(serial, usb_instance=usb_instance).kind == "refused"
                in_a_row = in_a_row + 1 if is_refused else 0
                if in_a_row >= _HOPELESS and not attended:
                    return

    def begun(self, serial: str) -> None:
        """A device that was waiting has a lane."""
        with self.lock:
            if serial in self._scans:
                self._scans[serial].state = "making"

    def ended(self, serial: str, *, done: bool) -> None:
        """A device has ended; if it is not done, its label may be scanned again.

        It waits for no answer that is being looked up: a station's event loop calls it.
        """
        if not done:
            self._scans.pop(serial, None)
        elif scan := self._scans.get(serial):
            scan.state = "done"

    def waits_again(self, serial: str) -> None:
        """A device was requeued."""
        if scan := self._scans.get(serial):
            scan.state = "waiting"

    def waiting(self) -> int:
        """Return how many labels wait for a lane; as :meth:`ended`, it waits for no answer."""
        return sum(each.state == "waiting" for each in self._scans.copy().values())

    def _answer(self, text: str, usb_instance: str | None) -> Answer:
        try:
            serial = parse_serial(text, self.pattern)
        except OperatorError as error:
            return refused(error)
        try:
            answer = self._taken_before(serial) or self._take(serial, usb_instance)
        except OperatorError as error:
            answer = refused(error)
        return structs.replace(answer, serial=serial)

    def _taken_before(self, serial: str) -> Answer | None:
        """Return the answer to a second scan of a label in this run."""
        scan = self._scans.get(serial)
        if scan is None:
            return None
        states = {
            "making": "is being made", "waiting": "is waiting for a free lane",
            "done": "is done already",
        }  # fmt: skip
        seconds = time.monotonic() - scan.at
        return double(f"{serial} {states[scan.state]} (scanned {_ago(seconds)} ago)")

    def _take(self, serial: str, usb_instance: str | None) -> Answer:
        each = Listed(serial=serial, where=f"scan {self.count}", usb_instance=usb_instance)
        holder = self._holders.get(each.email, serial)
        if holder != serial:
            return Answer(
                kind="refused",
                message=f"{serial} shares the account {each.email} with {holder}",
                hint="scan the label again; if it says so, give one of the two another label",
            )
        answer = self.take(each)
        if answer.is_taken:
            self._holders[each.email] = serial
            state: Literal["making", "waiting"] = "making" if answer.lane else "waiting"
            self._scans[serial] = _Scan(at=time.monotonic(), state=state)
        return answer


def _serials(text: str) -> Iterable[str]:
    try:
        return list(expanded(text))
    except OperatorError:
        return [text]  # refused with its own message, on one line


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
