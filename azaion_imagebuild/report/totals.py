"""Totals of a fleet run: how many are done, the yield, the rate, and what to run next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ..text import counted


class Totals(Struct, frozen=True, kw_only=True):
    """The numbers of one run."""

    total: int
    done: int
    """In this run."""
    done_before: int
    """By an earlier run of the same command."""
    failed: int
    unknown: int
    """Their process is gone, and their end is unknown."""
    not_started: int
    refused: int = 0
    """Scans that were not serials, or that the ledger refused."""
    seconds: float
    scanned: bool = False
    """Its devices were scanned one by one: the same command again knows none of them."""

    @classmethod
    def of(cls, fleet: Mapping[str, Any]) -> Totals:
        """Take the numbers from a fleet's JSON; count those that are missing."""
        records = fleet.get("records") or ()
        counted = Counter(record.get("outcome") for record in records)

        def number(name: str, otherwise: int) -> int:
            value = fleet.get(name)
            return otherwise if value is None else int(value)

        return cls(
            total=number("total", len(records)),
            done=number("done", counted["done"]),
            done_before=number("done_before", counted["done before"]),
            failed=number("failed", counted["failed"]),
            unknown=number("unknown", counted["unknown"]),
            not_started=number("not_started", counted["not started"]),
            refused=len(fleet.get("refused") or ()),
            seconds=float(fleet.get("seconds") or 0.0),
            scanned=bool(fleet.get("scanned")),
        )

    @property
    def ready(self) -> int:
        """Return how many devices are done, in any run."""
        return self.done + self.done_before

    @property
    def left(self) -> int:
        """Return how many devices are not done."""
        return self.failed + self.unknown + self.not_started

    @property
    def attempted(self) -> int:
        """Return how many devices this run has started."""
        return self.done + self.failed + self.unknown

    @property
    def yield_(self) -> float | None:
        """Return the share of attempted devices that are done, 0 to 1; None if there are none."""
        return self.done / self.attempted if self.attempted else None

    @property
    def per_hour(self) -> float | None:
        """Return how many devices an hour this run has done."""
        return self.done / self.seconds * 3600 if self.done and self.seconds > 0 else None

    @property
    def next(self) -> str:
        """Return what the operator should do now."""
        if not self.left:
            return "Nothing is left to do"
        again = self.failed + self.not_started
        steps = []
        if self.unknown:
            them = "it" if self.unknown == 1 else "them"
            steps.append(f"check {counted(self.unknown, 'unknown device')} and resolve {them}")
        if again:
            fix = "follow the hints, then " if self.failed else ""
            those = "the one that is" if again == 1 else f"the {again:,} that are"
            what = "failed or not started" if self.unknown else "not done"
            repeat = (
                f"scan the label of {those} {what}"
                if self.scanned
                else f"run the same command again; it builds {those} {what}"
            )
            steps.append(fix + repeat)
        return f"Next: {'; '.join(steps)}"


def percent(share: float | None) -> str:
    """Return a share for a reader: 0 % means none, 100 % means all."""
    if share is None:
        return "–"
    if 0 < share < 0.001:
        return "< 0.1 %"
    if share in (0.0, 1.0):
        return f"{share * 100:.0f} %"
    return f"{min(share * 100, 99.9):.1f} %"
