"""The lanes of a station, and what each is doing now."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from msgspec import Struct

from ..fleet.destinations import Destination
from ..pipeline.events import Event, Watcher, said
from ..pipeline.shared import SharedResources


class Lane(Struct, frozen=True, kw_only=True):
    """A destination, and what its devices share."""

    place: Destination
    shared: SharedResources


class LaneDisplay:
    """A watcher that passes events on and remembers what each lane is doing."""

    def __init__(self, watcher: Watcher, lanes: Iterable[str]) -> None:
        self._watcher = watcher
        self._doing: dict[str, str] = dict.fromkeys(lanes, "")
        self._changing = threading.Lock()

    def picture(self) -> dict[str, str]:
        """Return what each lane is doing now."""
        with self._changing:
            return dict(self._doing)

    def __call__(self, event: Event) -> None:
        """Note what a lane is doing now, and pass the event on."""
        lane, serial = event.fields.get("lane"), event.fields.get("serial")
        if event.name in ("assigned", "started", "device") and lane is not None:
            now = {"assigned": serial, "started": f"{serial} {event.fields.get('step')}"}
            with self._changing:
                self._doing[lane] = now.get(event.name) or ""
        self._watcher(event)

    def said(self, line: str) -> None:
        """Tell the operator something important."""
        self._watcher(said(line, "warning"))
