"""The times of each step of a fleet's devices, and their positions on an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

_TICKS = {
    1e-6: "1 µs", 1e-5: "10 µs", 1e-4: "100 µs", 1e-3: "1 ms", 1e-2: "10 ms", 0.1: "100 ms",
    1.0: "1 s", 10.0: "10 s", 60.0: "1 min", 600.0: "10 min", 3600.0: "1 h", 36000.0: "10 h",
    360000.0: "100 h",
}  # fmt: skip
"""Seconds on the axis: decades up to 10 s, then the units that people read."""


class StepTimes(Struct, frozen=True, kw_only=True):
    """The seconds of a step, over all devices that completed it."""

    step: str
    count: int
    low: float
    quarter: float
    """A quarter of the devices took less."""
    median: float
    three_quarters: float
    p95: float
    """95 % of the devices took less."""
    high: float
    share: float
    """Share of the time of all steps of all devices, 0 to 1."""


class Axis(Struct, frozen=True, kw_only=True):
    """A logarithmic axis of seconds; positions are percents from its left."""

    low: float
    high: float

    @classmethod
    def over(cls, times: Sequence[StepTimes]) -> Axis:
        """Return the axis between the ticks around all ``times``."""
        marks = list(_TICKS)
        least = min((t.low for t in times if t.low > 0), default=1e-3)
        most = max((t.high for t in times), default=1.0)
        low = max((mark for mark in marks[:-1] if mark <= least), default=marks[0])
        high = min((mark for mark in marks if mark >= most and mark > low), default=marks[-1])
        return cls(low=low, high=high)

    def place(self, seconds: float) -> float:
        """Return the position of ``seconds``; a time off the axis is at its end."""
        if seconds <= self.low:
            return 0.0
        along = math.log(seconds / self.low) / math.log(self.high / self.low)
        return round(min(along, 1.0) * 100, 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return (position, label) of every tick."""
        within = [mark for mark in _TICKS if self.low <= mark <= self.high]
        return [(self.place(mark), _TICKS[mark]) for mark in within]


def step_times(records: Sequence[Mapping[str, Any]]) -> list[StepTimes]:
    """Return the times of every step of this run, in the order of the steps."""
    found: dict[str, list[float]] = {}
    taken = [record.get("steps") or {} for record in records if _in_this_run(record)]
    for step in max(taken, key=len, default={}):  # a failed device did not reach all steps
        found[step] = []
    for steps in taken:
        for step, seconds in steps.items():
            if _is_time(seconds):
                found.setdefault(step, []).append(float(seconds))
    whole = sum(map(sum, found.values()))
    return [_times(step, sorted(each), whole) for step, each in found.items() if each]


def device_median(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the median time of the devices done in this run, in seconds."""
    seconds = sorted(
        float(record["seconds"])
        for record in records
        if record.get("outcome") == "done" and _is_time(record.get("seconds"))
    )
    return _quantile(seconds, 0.5) if seconds else None


def spoken(seconds: object) -> str:
    """Return seconds for a reader, to three digits; a plug-in may have put anything in."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return "–"
    if seconds <= 0:
        return "0 s"
    for unit, name in ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s")):
        if seconds < 999.5 * unit and (seconds < 59.95 or unit < 1):
            return f"{_three_digits(seconds / unit)} {name}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02} min" if minutes else f"{hours:,} h"
    return f"{minutes} min {rest:02} s" if rest else f"{minutes} min"


def _three_digits(value: float) -> str:
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}"


def _times(step: str, seconds: list[float], whole: float) -> StepTimes:
    return StepTimes(
        step=step,
        count=len(seconds),
        low=seconds[0],
        quarter=_quantile(seconds, 0.25),
        median=_quantile(seconds, 0.5),
        three_quarters=_quantile(seconds, 0.75),
        p95=_quantile(seconds, 0.95),
        high=seconds[-1],
        share=sum(seconds) / whole if whole else 0.0,
    )


def _quantile(ascending: Sequence[float], share: float) -> float:
    """Return the quantile of a share, interpolated between neighbours."""
    at = share * (len(ascending) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (at - below)


def _in_this_run(record: Mapping[str, Any]) -> bool:
    return record.get("outcome") in ("done", "failed", "unknown")


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0
