"""Running a plan: a thread for each destination; a failure does not stop the other devices."""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pluggy
from msgspec import structs

from ..errors import BugError, ExitCode, InterruptedBuild, OperatorError, PreflightError, exhausted
from ..identity.serial_list import Listed
from ..ledger import Ledger
from ..model import BuildRecord
from ..pipeline import recipes as pipeline
from ..pipeline.attempt import Book
from ..pipeline.events import Event, Watcher, said
from ..pipeline.shared import SharedResources
from ..secret import redacted
from ..system.signals import (
    check_interrupt,
    heard_by,
    hold_to_the_end,
    is_stopping,
    let_threads_go_on,
    stop_threads,
)
from ..text import utc
from . import events
from .destinations import Destination

_logger = logging.getLogger(__name__)


class Source(Protocol):
    """Where the devices come from; called by several threads."""

    closed: bool
    """Begin nothing new."""

    def next(self, place: Destination) -> Listed | None:
        """Return the next device for a place, or None if the place should stop."""
        ...

    def ended(self, serial: str, *, done: bool) -> None:
        """A device of it has ended."""

    def close(self) -> None:
        """Let nothing new begin."""


@dataclass(slots=True)
class Feed:
    """The devices left to make; thread-safe."""

    todo: Iterator[Listed]
    pinned: dict[str, list[Listed]] = field(default_factory=dict)
    """Devices that belong to one place (a USB instance)."""
    closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, todo: Iterable[Listed], *, pinned: bool = True) -> Feed:
        """Return the feed of a list; with ``pinned`` a USB instance's devices are for it only."""
        free: list[Listed] = []
        of_place: dict[str, list[Listed]] = {}
        for each in todo:
            if pinned and each.usb_instance is not None:
                of_place.setdefault(each.usb_instance, []).append(each)
            else:
                free.append(each)
        return cls(iter(free), of_place)

    def next(self, place: Destination) -> Listed | None:
        """Return the next device for a place, or None if the place should stop."""
        with self._lock:
            if self.closed:
                return None
            if own := self.pinned.get(place.name):
                return own.pop(0)
            return next(self.todo, None)

    def ended(self, serial: str, *, done: bool) -> None:
        """A device of it has ended: it is not done again in this run."""

    def close(self) -> None:
        """Let nothing new begin."""
        self.closed = True


@dataclass(slots=True)
class Run:
    """A run of a fleet."""

    feed: Source
    hook: pluggy.HookRelay
    ledger: Ledger
    watcher: Watcher
    max_failures: int | None = None
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Serial → the record of its last attempt in this run; the ledger has all of them."""
    interrupted: bool = False
    _failures: int = 0
    _ended: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _unsaid: deque[str] = field(default_factory=deque)

    def to_the_end(self, places: Sequence[Destination]) -> None:
        """Make every device; ``records`` then has one for each that was begun.

        SIGINT once: running devices are finished, no new one begins. Twice, or SIGTERM: running
        devices are interrupted, as a single build would be.
        """
        self.watcher(events.opened([place.name for place in places]))
        try:
            with self._listening(), self._at_work(places) as threads:
                for _ in threads:
                    while self._wait() is None:
                        self._tell()
                self._tell()
        finally:
            self.watcher(events.closed())

    @contextlib.contextmanager
    def _at_work(self, places: Sequence[Destination]) -> Iterator[list[threading.Thread]]:
        """Start the threads; whatever happens, the places stay until the last one has ended."""
        threads: list[threading.Thread] = []
        try:
            for place in places:
                thread = threading.Thread(target=self._work, args=(place,), daemon=True)
                thread.start()
                threads.append(thread)
            yield threads
        except BaseException:
            self.feed.close()
            stop_threads()
            raise
        finally:
            for thread in threads:
                thread.join()

    def _wait(self) -> str | None:
        try:
            return self._ended.get(timeout=0.2)  # a signal is handled between two waits
        except queue.Empty:
            return None

    def _tell(self) -> None:
        """Report what the signals did: their handler must not print itself."""
        while self._unsaid:
            self.watcher(said(self._unsaid.popleft(), "warning"))

    def _work(self, place: Destination) -> None:
        try:
            with SharedResources() as shared:
                while (each := self.feed.next(place)) is not None:
                    record = made(place, each, shared, self.hook, self.ledger, self.watcher)
                    self._note(record)
                    self.watcher(events.ended(record))
                    self.feed.ended(each.serial, done=record["outcome"] == "done")
        finally:
            self._ended.put(place.name)

    def _note(self, record: dict[str, Any]) -> None:
        with self._counting:
            self.records[record["serial"]] = record
            self._failures += record["outcome"] != "done"
            if self.max_failures is not None and self._failures >= self.max_failures:
                self.feed.close()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Take the signals while the threads work."""

        def on_signal(number: int) -> None:
            self.feed.close()
            if number == signal.SIGINT and not self.interrupted:
                self._unsaid.append(
                    "interrupted: what is running is finished, nothing new begins"
                    " (again: stop at once)"
                )
            elif not is_stopping():
                stop_threads()
                self._unsaid.append("stopping what is running")
            self.interrupted = True

        with heard_by(on_signal):
            try:
                yield
            finally:
                hold_to_the_end()  # what was done is still told
                let_threads_go_on()


def made(
    place: Destination,
    each: Listed,
    shared: SharedResources,
    hook: pluggy.HookRelay,
    ledger: Book,
    watcher: Watcher,
) -> dict[str, Any]:
    """Make one device, and return its record, whatever goes wrong."""
    took: dict[str, float] = {}
    watcher(events.assigned(place.name, each.serial))
    began = time.time()
    timed = _timed(watcher, place.name, each.serial, took)
    records: list[BuildRecord] = []
    try:
        with place.ready(each) as (build, blank):
            build = structs.replace(build, shared=shared)
            records.append(pipeline.stamp(build, blank, hook, timed, ledger))
    except BaseException as error:
        if not records:
            return _not_made(each, error, place.name)
        _logger.warning("cannot tidy up behind %s: %s", each.serial, str(error) or "interrupted")
    return {
        **blank_record(each),
        **redacted(records[0].as_json()),
        "lane": place.name,
        "began": utc(began),
        "steps": took,
    }


def _not_made(each: Listed, error: BaseException, place: str) -> dict[str, Any]:
    """Return the record of a device that its place could not be made ready for."""
    if isinstance(error, (KeyboardInterrupt, InterruptedBuild)):
        return {**blank_record(each), "lane": place}
    if isinstance(error, OperatorError):
        return failed(each, error, place=place)
    if problem := exhausted(error):
        return failed(each, PreflightError.of_problems([problem]), place=place)
    _logger.error("a bug while making %s", each.serial, exc_info=error)
    bug = BugError(f"a bug: {type(error).__name__}: {error}", hint="report it")
    return failed(each, bug, place=place)


def _timed(watcher: Watcher, lane: str, serial: str, took: dict[str, float]) -> Watcher:
    """Return a watcher that times the steps of a device, and adds its serial to the events."""

    def tell(event: Event) -> None:
        if event.name in ("began", "started"):
            check_interrupt()
        if event.name == "step":
            took[event.fields["step"]] = event.fields["seconds"]
        watcher(event.with_fields({"lane": lane, "serial": serial}))

    return tell


def blank_record(each: Listed) -> dict[str, Any]:
    """Return the record of a device before it is known."""
    return {
        "serial": each.serial,
        "email": each.email,
        "outcome": "not started",
        "attempt": None,
        "account": None,
        "image": None,
        "image_format": None,
        "image_sha256": None,
        "base_sha256": None,
        "flashed": False,
        "device": None,
        "usb_instance": None,
        "ecid": None,
        "lane": None,
        "began": None,
        "seconds": None,
        "steps": {},
        "ledger": None,
    }


def failed(each: Listed, error: OperatorError, *, place: str | None = None) -> dict[str, Any]:
    """Return the record of a device that could not begin."""
    return {
        **blank_record(each),
        "outcome": "failed",
        "lane": place,
        "step": "preflight",
        "error": error.message,
        "hint": error.hint,
        "exit_code": int(error.exit_code),
    }


def exit_code(outcome: str) -> ExitCode:
    """Return the process's exit code."""
    codes = {"done": ExitCode.DONE, "interrupted": ExitCode.INTERRUPTED}
    return codes.get(outcome, ExitCode.FLEET_INCOMPLETE)
