"""What a person sees of a fleet: live bars on a terminal, a line for each device elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ..fleet.plan import Plan
from ..pipeline import events
from ..pipeline.events import Event, Level
from ..report.durations import spoken
from ..text import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Say = Callable[[str], None]


class Plain:
    """For a log file or a pipe: one line for each device that has ended."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._total = 0
        self._ended = 0

    def planned(self, plan: Plan) -> None:
        """The plan is made."""
        self._total = len(plan.todo)
        # Its errors end the run, and are told then.
        for line in lines_of(plan, errors=False) if plan.total else ():
            self._say(line)

    def going(self, places: Sequence[str]) -> None:
        """The devices begin."""

    def began(self, place: str, serial: str) -> None:
        """A device begins."""

    def step(self, place: str, serial: str, step: str) -> None:
        """A step of it begins."""

    def ended(self, place: str, record: Mapping[str, Any]) -> None:
        """A device has ended."""
        self._ended += 1
        whole = f"/{self._total}" if self._total else ""  # nobody knows how many will be scanned
        self._say(f"  {self._ended:>{len(str(self._total))}}{whole}  {line_of(record)}")

    def gone(self) -> None:
        """The last device has ended."""

    def said(self, line: str) -> None:
        """Something that the operator should read."""
        self._say(line)


class Bars(Plain):
    """For a terminal: a bar for the whole, with rate and time left, and a line for each place."""

    def __init__(self, say: Say, stream: TextIO) -> None:
        super().__init__(say)
        self._stream = stream
        self._progress: Progress | None = None
        self._whole: TaskID | None = None
        self._places: dict[str, TaskID] = {}
        self._failed = 0
        self._began = 0.0

    def going(self, places: Sequence[str]) -> None:
        """The devices begin."""
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._began = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
            transient=True,
            redirect_stdout=False,  # ours redacts
            redirect_stderr=False,
        )
        self._whole = self._progress.add_task("fleet", total=self._total, note="")
        for place in places:
            self._places[place] = self._progress.add_task(
                escape(place), total=len(_STEPS), note="waiting"
            )
        self._progress.start()

    def began(self, place: str, serial: str) -> None:
        """A device begins."""
        if self._progress is not None:
            self._progress.update(self._places[place], completed=0, note=serial)

    def step(self, place: str, serial: str, step: str) -> None:
        """A step of it begins."""
        if self._progress is not None:
            done = _STEPS.index(step) if step in _STEPS else 0
            self._progress.update(self._places[place], completed=done, note=f"{serial} {step}")

    def ended(self, place: str, record: Mapping[str, Any]) -> None:
        """A device has ended; only a failure stays on the screen."""
        self._ended += 1
        if self._progress is None or self._whole is None:
            return
        if record["outcome"] != "done":
            self._failed += 1
            self.said(line_of(record))
        rate = self._ended / max(0.001, time.monotonic() - self._began) * 3600
        note = f"{rate:,.0f}/h" + (f", {self._failed} failed" if self._failed else "")
        self._progress.update(self._whole, completed=self._ended, note=note)
        self._progress.update(self._places[place], completed=0, note="waiting")

    def gone(self) -> None:
        """The last device has ended: the bars go."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def said(self, line: str) -> None:
        """Something that the operator should read."""
        if self._progress is not None:
            self._progress.console.print(visible(line), markup=False, highlight=False)
        else:
            self._say(line)


class Lines(Plain):
    """For a station: a line for each device that has ended, wherever it is written."""

    def ended(self, place: str, record: Mapping[str, Any]) -> None:
        """A device has ended."""
        self._say(f"  {time.strftime('%H:%M:%S')}  {place}  {line_of(record)}")


class Events(Plain):
    """For a program: an event for each device that has ended."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        super().__init__(lambda line: tell(events.said(line)))
        self._tell = tell

    def ended(self, place: str, record: Mapping[str, Any]) -> None:
        """A device has ended."""
        level: Level = "info" if record["outcome"] == "done" else "error"
        line = line_of(record)
        self._tell(Event(name="device", message=line, level=level, fields=record))

    def said(self, line: str) -> None:
        """Something that the operator should read."""
        self._tell(events.said(line, "warning"))


_STEPS = ("provision_identity", "build_image", "verify_image", "flash", "post_flash", "done")


def line_of(record: Mapping[str, Any]) -> str:
    """Return a device's end on one line."""
    if record["outcome"] != "done":
        error = record.get("error", "interrupted before it began")
        return f"{record['serial']}  {record['outcome'].upper()}  {error}"
    where = record["device"] if record["flashed"] else record["image"]
    return f"{record['serial']}  done  {record['seconds']:.2f} s  → {where}"


def _rounded(seconds: float) -> str:
    """Return an estimate without what nobody knows of it."""
    return f"{seconds:.0f} s" if seconds < 59.5 else spoken(round(seconds))


def lines_of(plan: Plan, *, errors: bool = True) -> list[str]:
    """Return a plan for a person, with what stops the whole of it or without."""
    where = "SANDBOX  " if plan.sandbox else ""
    lines = [
        f"{where}{plan.total} devices: {len(plan.todo)} to do, {len(plan.done_before)} done before"
    ]
    if plan.unknown:
        lines.append(f"  {len(plan.unknown)} unknown: they died while flashing, and are left alone")
    if plan.space_needed and plan.space_free is not None:
        needed, free = (f"{size / 1e6:,.0f} MB" for size in (plan.space_needed, plan.space_free))
        lines.append(
            f"  the images take up to {needed} of disk (their holes take none); {free} are free"
        )
    if plan.seconds is not None and plan.seconds >= 1:
        lines.append(f"  about {_rounded(plan.seconds)}, by the ledger's recent attempts")
    problems = plan.errors() if errors else []
    problems += [(error.message, error.hint) for _, error in plan.refused]
    for message, hint in problems:
        lines += [f"error: {message}", f"hint: {hint}"]
    return lines
