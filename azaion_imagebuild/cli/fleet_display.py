"""What a person sees of a fleet: live bars on a terminal, a line for each device elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from msgspec import structs

from ..fleet.events import spoken_lane
from ..pipeline.events import Event, Watcher
from ..text import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from .console import Console

_STEPS = ("provision_identity", "build_image", "verify_image", "flash", "post_flash", "done")


def lines_to(console: Console) -> Watcher:
    """Return a watcher that writes one line for each device that has ended."""
    ended = total = 0

    def tell(event: Event) -> None:
        nonlocal ended, total
        if event.name == "planned":
            total = event.fields["todo"]
        if event.name == "device":
            ended += 1
            whole = f"/{total}" if total else ""  # nobody knows how many will be scanned
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
    """Tell the console all but what many devices do at the same time, step by step."""
    if "lane" not in event.fields:
        console(event)
    elif event.name == "warning":
        text = f"{event.fields['serial']}: {event.message}"
        console(event if console.is_json else structs.replace(event, message=text))


class LiveFleet:
    """For a terminal: a bar for the whole, with rate and time left, and a line for each lane."""

    def __init__(self, console: Console, stream: TextIO) -> None:
        self._console = console
        self._stream = stream
        self._progress: Progress | None = None
        self._whole: TaskID | None = None
        self._lanes: dict[str, TaskID] = {}
        self._total = self._ended = self._failed = 0
        self._began = 0.0

    def __call__(self, event: Event) -> None:
        """Show what happens; this is a watcher."""
        if event.name == "planned":
            self._total = event.fields["todo"]
        shown: dict[str, Callable[[Event], None]] = {
            "opened": self._open, "closed": self._close,
            "assigned": self._assigned, "started": self._started, "device": self._device,
        }  # fmt: skip
        if event.name in shown and (event.name != "started" or "lane" in event.fields):
            shown[event.name](event)
        else:
            pass_on(event, self._console)

    def _open(self, event: Event) -> None:
        self._began = time.monotonic()
        self._progress = _bars(self._stream)
        self._whole = self._progress.add_task("fleet", total=self._total, note="")
        for lane in event.fields["lanes"]:
            self._lanes[lane] = self._progress.add_task(lane, total=len(_STEPS), note="waiting")
        self._progress.start()
        self._console.above = self._print

    def _assigned(self, event: Event) -> None:
        self._update(event, 0, event.fields["serial"])

    def _started(self, event: Event) -> None:
        step = event.fields["step"]
        done = _STEPS.index(step) if step in _STEPS else 0
        self._update(event, done, f"{event.fields['serial']} {step}")

    def _device(self, event: Event) -> None:
        """Count a device that has ended; only a failure stays on the screen."""
        self._ended += 1
        if event.fields["outcome"] != "done":
            self._failed += 1
            self._console.tell(event, event.message)
        if self._progress is not None and self._whole is not None:
            rate = self._ended / max(0.001, time.monotonic() - self._began) * 3600
            note = f"{rate:,.0f}/h" + (f", {self._failed} failed" if self._failed else "")
            self._progress.update(self._whole, completed=self._ended, note=note)
            self._update(event, 0, "waiting")

    def _update(self, event: Event, completed: int, note: str) -> None:
        if self._progress is not None:
            lane = self._lanes[event.fields["lane"]]
            self._progress.update(lane, completed=completed, note=visible(note))

    def _close(self, event: Event) -> None:
        """Remove the bars."""
        self._console.above = None
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print(self, line: str) -> None:
        """Print a line above the bars."""
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _bars(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
        redirect_stdout=False,  # ours redacts
        redirect_stderr=False,
    )
