"""The lanes of a station: where its devices are made, and what each does now."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from ..fleet.destinations import Destination
from ..fleet.run import Display
from ..pipeline.shared import SharedResources


class Lane(Struct, frozen=True, kw_only=True):
    """One place, and what its devices share."""

    place: Destination
    shared: SharedResources


class LaneDisplay:
    """Passes on what happens, and remembers what each lane does."""

    def __init__(self, display: Display, lanes: Iterable[str]) -> None:
        self._display = display
        self._doing: dict[str, str] = dict.fromkeys(lanes, "")
        self._changing = threading.Lock()

    def picture(self) -> dict[str, str]:
        """Return what each lane does now."""
        with self._changing:
            return dict(self._doing)

    def going(self, places: Sequence[str]) -> None:
        """The station begins."""
        self._display.going(places)

    def gone(self) -> None:
        """It has ended."""
        self._display.gone()

    def began(self, place: str, serial: str) -> None:
        """A device begins."""
        self._note(place, serial)
        self._display.began(place, serial)

    def step(self, place: str, serial: str, step: str) -> None:
        """A step of it begins."""
        self._note(place, f"{serial} {step}")
        self._display.step(place, serial, step)

    def ended(self, place: str, record: Mapping[str, Any]) -> None:
        """It has ended."""
        self._note(place, "")
        self._display.ended(place, record)

    def said(self, line: str) -> None:
        """Something that the operator should read."""
        self._display.said(line)

    def _note(self, place: str, doing: str) -> None:
        with self._changing:
            self._doing[place] = doing
