"""What this host has made today, and what nobody knows: counted from the ledger."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct, structs

from ..ledger import Entry, Ledger
from ..ledger.process_id import this_host
from ..ledger.standing import FUSE, ROTATE, died
from ..ledger.store import ended
from ..pipeline.events import Event
from ..text import utc

Verdict = Literal["passed", "failed", "unknown"]
_VERDICTS: dict[str, Verdict] = {"done": "passed", "failed": "failed", "unknown": "unknown"}
_LAST = 20
_MOST_UNKNOWN = 100  # that are listed; all are counted
_HOUR = 3600.0


class Made(Struct, frozen=True, kw_only=True):
    """How the last attempt for a serial ended."""

    serial: str
    verdict: Verdict
    at: str
    """As :func:`.text.utc`."""
    step: str
    error: str = ""


@dataclass(slots=True, kw_only=True)
class Day:
    """The devices that one station has made since midnight, local time. Thread-safe."""

    ledger: Ledger
    sandbox: bool
    station: str | None = None
    _made: dict[str, Made] = field(default_factory=dict)
    """Serial → its last attempt, in the order of their ends."""
    _unknown: list[Entry] = field(default_factory=list)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> None:
        """Read the ledger; what was noted of attempts that it does not know stays.

        Raises:
            LedgerError: it cannot be read.
        """
        made = {each.serial: each for each in reversed(list(self._today()))}
        unknown = self.ledger.unknown(sandbox=self.sandbox)
        with self._changing:  # not while it reads: no device waits for the ledger
            noted = [each for each in self._made.values() if _is_newer(each, made)]
            self._made = made
            for each in noted:
                self._put(each)
            passed = {each.serial for each in noted if each.verdict == "passed"}
            self._unknown = [each for each in unknown if each.serial not in passed]

    def note(self, record: Mapping[str, Any], when: float) -> None:
        """Count the record of a device that has ended."""
        verdict = _VERDICTS.get(record["outcome"])
        if verdict is None:  # it goes back into the queue, or was not begun
            return
        made = Made(
            serial=record["serial"],
            verdict=verdict,
            at=utc(when, "microseconds"),
            step=record.get("step") or "",
            error=record.get("error") or "",
        )
        with self._changing:
            self._put(made)
            if verdict == "passed":
                self._unknown = [each for each in self._unknown if each.serial != made.serial]

    def event(self) -> Event:
        """Return the event that tells the day: ``day``."""
        with self._changing:
            midnight, an_hour_ago = _midnight(), utc(time.time() - _HOUR)
            made = [each for each in self._made.values() if each.at >= midnight]
            unknown = self._unknown
        counts = Counter(each.verdict for each in made)
        fields: dict[str, Any] = {
            **{each: counts[each] for each in _VERDICTS.values()},
            "hour": sum(each.verdict == "passed" and each.at >= an_hour_ago for each in made),
            "yield": counts["passed"] / len(made) if made else None,
            "last": [structs.asdict(each) for each in made[: -_LAST - 1 : -1]],
            "not_done_count": len(unknown),
            "not_done": [_told(each) for each in unknown[:_MOST_UNKNOWN]],
        }
        message = f"today: {counts['passed']} passed, {counts['failed']} failed"
        return Event(name="day", message=message, level="debug", fields=fields)

    def _put(self, made: Made) -> None:
        self._made.pop(made.serial, None)  # so that the last one is the last
        self._made[made.serial] = made

    def _today(self) -> Iterator[Made]:
        """Yield the last attempt of each serial that this station made today, newest first."""
        midnight, host, seen = _midnight(), this_host(), set()
        for row in self.ledger.newest():
            if row.at < midnight:
                return
            is_ours = row.host == host and (not self.station or row.station == self.station)
            if row.serial in seen or not is_ours or row.sandbox != self.sandbox:
                continue
            if row.step not in (FUSE, ROTATE):
                seen.add(row.serial)
                if (made := _made(row)) is not None:
                    yield made


def _made(row: Entry) -> Made | None:
    """Return how an attempt ended by its last row; None: it is running."""
    if died(row):
        row = structs.replace(ended(row), at=row.at)  # as the next attempt will write it
    verdict = _VERDICTS.get(row.outcome)
    if verdict is None:
        return None
    return Made(serial=row.serial, verdict=verdict, at=row.at, step=row.step, error=row.error or "")


def _is_newer(made: Made, read: Mapping[str, Made]) -> bool:
    return made.serial not in read or read[made.serial].at < made.at


def _told(row: Entry) -> dict[str, Any]:
    names = ("serial", "at", "station", "operator", "host", "usb_instance")
    return {name: getattr(row, name) for name in names}


def _midnight() -> str:
    """Return the begin of today in local time, as :func:`.text.utc`."""
    now = time.localtime()
    return utc(time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, 0, 0, -1)))
