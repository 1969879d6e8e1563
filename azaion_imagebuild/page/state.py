"""What the page shows of a run: its lanes, the last scan and the day, from the run's events."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

STEPS = {
    "provision_identity": "creating its account",
    "pre_flash": "writing its identity",
    "build_image": "building its image",
    "digest_image": "building its image",
    "verify_image": "proving its image",
    "activate_identity": "activating its account",
    "flash": "flashing",
    "post_flash": "finishing",
}
"""A device's steps in their order, as an operator says them."""
WORDS = {"done": "PASS", "failed": "FAIL", "unknown": "UNKNOWN"}
LOST = "LOST"
PARTS = ("head", "answer", "tiles", "tally", "last", "undone")
"""The parts of the page that change; each tile is one, too."""
_MOST_TILES = 200
_LONGEST = 400  # characters of a cause or a hint

Json = Mapping[str, Any]


@dataclass(slots=True)
class Tile:
    """A lane or a job, and the device that is or was the last one there."""

    id: str
    lane: str
    serial: str = ""
    word: str = ""
    """``PASS FAIL UNKNOWN LOST``; empty: the device is in work, or no device is there."""
    step: str = ""
    part: int = 0
    """How many steps are behind it."""
    began: float = 0.0
    """Seconds since the epoch."""
    seconds: float | None = None
    cause: str = ""
    hint: str = ""

    @property
    def kind(self) -> str:
        """Return the tile's class in the style sheet."""
        return self.word.lower() or ("busy" if self.serial else "free")

    @property
    def elapsed(self) -> int:
        """Return for how many seconds the device has been in work."""
        return max(0, int(time.time() - self.began))


@dataclass(slots=True)
class State:
    """All that the page shows; :meth:`apply` returns which parts an event has changed."""

    connected: bool = False
    hello: Json = field(default_factory=dict)
    tiles: dict[str, Tile] = field(default_factory=dict)
    """By lane."""
    base: str = ""
    """The step of the base build, before the lanes are open."""
    answer: Json = field(default_factory=dict)
    """The last scan."""
    problems: deque[Json] = field(default_factory=lambda: deque(maxlen=3))
    day: Json = field(default_factory=dict)
    day_is_of: float = 0.0
    """When the day was counted, in seconds since the epoch."""
    is_over: bool = False

    def apply(self, event: Json) -> set[str]:
        """Take one event of a run."""
        lane = event.get("lane")
        if event["event"] in ("assigned", "started", "device") and isinstance(lane, str):
            return self._of_lane(event, lane)
        apply = {
            "hello": self._hello, "opened": self._opened, "closed": self._closed,
            "started": self._base, "scanned": self._scanned, "day": self._day,
        }.get(event["event"], self._problem)  # fmt: skip
        return apply(event)

    def lost(self) -> set[str]:
        """The run has gone: nobody knows what became of the devices in work."""
        if not self.connected:
            return set()
        self.connected = False
        for tile in self.tiles.values():
            if tile.kind == "busy":
                tile.word = LOST
                tile.cause = f"the run has gone while {tile.step or 'it was made'}"
                tile.hint = "leave the device where it is, and start the run again"
        return set(PARTS)

    def count(self, day: Json) -> set[str]:
        """Take the day as the ledger has it, while nothing runs."""
        return self._day({**day, "time": _now()})

    def _hello(self, event: Json) -> set[str]:
        self.connected, self.hello, self.is_over = True, event, False
        self.tiles, self.base, self.answer = {}, "", {}
        self.problems.clear()
        return set(PARTS)

    def _opened(self, event: Json) -> set[str]:
        self.base = ""
        for lane in event.get("lanes") or ():
            self._tile(str(lane))
        return {"tiles", "head"}

    def _closed(self, event: Json) -> set[str]:
        self.is_over = True
        return {"head"}

    def _base(self, event: Json) -> set[str]:
        self.base = str(event.get("step") or "")
        return {"head"}

    def _scanned(self, event: Json) -> set[str]:
        self.answer = event
        return {"answer"}

    def _day(self, event: Json) -> set[str]:
        self.day, self.day_is_of = event, seconds_of(str(event.get("time")))
        return {"tally", "last", "undone"}

    def _problem(self, event: Json) -> set[str]:
        if event.get("level") in ("warning", "error") and not event.get("lane"):
            self.problems.append(event)
        return {"head"}

    def _tile(self, lane: str) -> Tile:
        if lane not in self.tiles and len(self.tiles) < _MOST_TILES:
            self.tiles[lane] = Tile(id=f"tile-{len(self.tiles)}", lane=lane)
        return self.tiles.get(lane) or Tile(id="tile-none", lane=lane)

    def _of_lane(self, event: Json, lane: str) -> set[str]:
        is_new = lane not in self.tiles
        tile = self._tile(lane)
        serial = str(event.get("serial") or "")
        if event["event"] == "device":
            self._ended(tile, event)
        elif event["event"] == "assigned" or tile.serial != serial:
            self.tiles[lane] = tile = Tile(
                id=tile.id, lane=lane, serial=serial, began=seconds_of(str(event["time"]))
            )
        if event["event"] == "started" and not tile.word:
            self._step(tile, str(event.get("step") or ""))
        return {"tiles"} if is_new else {tile.id}

    def _step(self, tile: Tile, step: str) -> None:
        tile.step = STEPS.get(step, step)
        tile.part = [*STEPS].index(step) if step in STEPS else tile.part

    def _ended(self, tile: Tile, event: Json) -> None:
        outcome = str(event.get("outcome"))
        tile.serial = str(event.get("serial") or "")
        tile.word = WORDS.get(outcome, outcome.upper())
        tile.step = str(event.get("step") or "") if outcome != "done" else ""
        tile.seconds = event.get("seconds")
        tile.cause = str(event.get("error") or "")[:_LONGEST]
        tile.hint = str(event.get("hint") or "")[:_LONGEST]


def seconds_of(at: str) -> float:
    """Return a text of :func:`.text.utc` in seconds since the epoch; now, without one."""
    try:
        when = datetime.fromisoformat(at.removesuffix("Z"))
    except ValueError:
        return time.time()
    return when.replace(tzinfo=timezone.utc).timestamp()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
