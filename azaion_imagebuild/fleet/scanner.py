"""Devices as an operator scans them: each label is looked at, and begun, as it comes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..errors import OperatorError
from ..identity.serial_list import Listed
from ..pipeline.events import Watcher, problem, said
from .plan import Plan


@dataclass(slots=True)
class Scanner:
    """Hands out the devices that come from a barcode scanner, until its input ends."""

    lines: Iterator[tuple[str, str]]
    """(where, text): see :func:`azaion_imagebuild.identity.serial_list.scanned`."""
    look: Callable[[str, str], Plan]
    """Returns the plan for one line; raises an OperatorError for a bad one."""
    watcher: Watcher
    plans: dict[str, Plan] = field(default_factory=dict)
    """Serial → its plan, in the order of the scans."""
    closed: bool = False
    _taken: set[str] = field(default_factory=set)
    _accounts: dict[str, str] = field(default_factory=dict)
    _ready: queue.SimpleQueue[Listed | None] = field(default_factory=queue.SimpleQueue)

    def start(self) -> None:
        """Begin to read; reading may wait for ever, and ends with the process."""
        threading.Thread(target=self._read, daemon=True).start()

    def next(self, place: str) -> Listed | None:
        """Wait for a device; None: the input has ended, or no new one shall begin."""
        while not self.closed:
            try:
                each = self._ready.get(timeout=0.2)
            except queue.Empty:
                continue
            if each is None:
                self._ready.put(None)  # for the other places
            return each
        return None

    def close(self) -> None:
        """Let nothing new begin."""
        self.closed = True

    def failed(self, serial: str) -> None:
        """A device has failed: its label may be scanned again."""
        self._taken.discard(serial)

    def _read(self) -> None:
        try:
            self._read_all()
        finally:
            self._ready.put(None)  # whatever went wrong, nobody waits for more

    def _read_all(self) -> None:
        for where, text in self.lines:
            try:
                plan = self.look(where, text)
            except OperatorError as error:
                self._refuse(error)
                continue
            for each in plan.todo:
                holder = self._accounts.setdefault(each.email, each.serial)
                if each.serial in self._taken:
                    self._say(f"{each.serial} was scanned before: it is being made, or done")
                elif holder != each.serial:
                    message = f"{each.serial} shares the account {each.email} with {holder}"
                    self.watcher(problem("error", message, "scan the label again"))
                else:
                    self.plans[each.serial] = plan
                    self._taken.add(each.serial)
                    self._ready.put(each)
            self._tell_others(plan)

    def _tell_others(self, plan: Plan) -> None:
        """Say what is not to be done, and keep it for the report."""
        for each, _ in plan.done_before:
            self._say(f"{each.serial} is done already")
            self.plans.setdefault(each.serial, plan)
        for each, _ in plan.unknown:
            message = f"{each.serial} died while flashing: what it holds is not known"
            hint = f"check the device, then: azaion-imagebuild ledger resolve {each.serial} …"
            self.watcher(problem("error", message, hint))
            self.plans.setdefault(each.serial, plan)
        for each, error in plan.refused:
            self._refuse(error)
            self.plans.setdefault(each.serial, plan)

    def _refuse(self, error: OperatorError) -> None:
        for message, hint in error.problems:
            self.watcher(problem("error", message, hint))

    def _say(self, line: str) -> None:
        self.watcher(said(line, "warning"))
