"""Labels that are scanned at a station: queued for it alone, and made before all others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from ..errors import PreflightError
from ..fleet.destinations import refuse_missing_lane
from ..fleet.scans import Answer, Scans, accepted, double, refused
from ..identity.serial_list import Listed
from ..ledger import Ledger
from ..pipeline.events import Watcher
from ..settings import Settings
from .jobs import GIVEN_BACK, resolve_command
from .submit import Submission, SubmitOrder, queue

_FIRST = 1
"""The priority of a scanned device."""


@dataclass(slots=True, kw_only=True)
class StationScans:
    """What becomes of the labels that are scanned at one station."""

    station: str
    sandbox: bool
    ledger: Ledger
    settings: Settings
    watcher: Watcher
    lanes: Collection[str]
    """The lanes of this station; a device may be pinned to one of them."""
    stopped: Callable[[], bool]
    """Whether nothing new begins."""
    free_lane: Callable[[frozenset[str]], str | None]
    """Returns a free lane that is not among those, or None."""
    scans: Scans = field(init=False)
    _promised: dict[str, str] = field(default_factory=dict)
    """Serial → the lane that the operator was told."""

    def __post_init__(self) -> None:
        self.scans = Scans(self._take, self.watcher, self.settings.serial.pattern)

    def start(self, lines: Iterable[tuple[str, str | None]], *, attended: bool) -> None:
        """Begin to read (line, USB instance); reading ends with the process."""
        read = threading.Thread(
            target=self.scans.scan_all, args=(lines,), kwargs={"attended": attended}, daemon=True
        )
        read.start()

    def promised_to(self, serial: str) -> str | None:
        """Return the lane that a device was promised."""
        return self._promised.get(serial)

    def promised(self) -> frozenset[str]:
        """Return the lanes that scanned devices are about to take."""
        return frozenset(self._promised.copy().values())

    def begun(self, serial: str) -> None:
        """A lane takes a device; its label was answered before."""
        self.scans.begun(serial)
        self._promised.pop(serial, None)

    def ended(self, serial: str, outcome: str) -> None:
        """A device has ended, or was requeued."""
        if outcome == GIVEN_BACK:
            self.scans.waits_again(serial)
        else:
            self.scans.ended(serial, done=outcome == "done")

    def _take(self, each: Listed) -> Answer:
        """Queue a device, unless it is queued, done, unknown or refused."""
        if self.stopped():
            raise PreflightError(
                "this station takes no more devices",
                hint="start station run again, then scan the label",
            )
        refuse_missing_lane(each, self.lanes)
        order = SubmitOrder(sources=(), station=self.station, sandbox=self.sandbox, priority=_FIRST)
        submission = Submission(sandbox=self.sandbox)
        lane = each.usb_instance or self.free_lane(self.promised())
        if lane is not None:
            self._promised[each.serial] = lane
        try:
            queue([each], order, self.settings, self.ledger, submission)
        finally:
            if not submission.queued:
                self._promised.pop(each.serial, None)
        return self._answer(each.serial, submission, lane)

    def _answer(self, serial: str, submission: Submission, lane: str | None) -> Answer:
        if submission.queued:
            return accepted(serial, lane)
        if where := submission.queued_before.get(serial):
            return double(f"{serial} is queued already: {where}")
        if serial in submission.done_before:
            return double(
                f"{serial} is done already", "to redo it: azaion-imagebuild submit --again"
            )
        if why := submission.unknown.get(serial):
            raise PreflightError(
                f"{serial} is unknown: {why}",
                hint="check the device, then: " + resolve_command(serial, sandbox=self.sandbox),
            )
        return refused(submission.refused[0][1])
