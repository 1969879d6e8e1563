"""A station's heartbeats, and its check for stations that have stopped theirs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..errors import OperatorError
from ..settings import StationSettings
from .lane_display import LaneDisplay
from .manager import Manager

_logger = logging.getLogger(__name__)
_LONGEST = 10.0  # seconds: procrastinate's interval, which a site's other workers expect
_PURGE = 3600.0  # seconds between two removals of old jobs


@dataclass(slots=True, kw_only=True)
class Heartbeat:
    """The heartbeats of one station, until it is cancelled."""

    manager: Manager
    lanes: LaneDisplay
    settings: StationSettings
    take_over: Callable[[], Awaitable[None]]
    """Takes over the devices of dead stations."""
    _last: float = field(default_factory=time.monotonic)
    _regular_since: float = field(default_factory=time.monotonic)
    _purged: float | None = None

    @property
    def interval(self) -> float:
        """Return the seconds between two heartbeats."""
        return min(_LONGEST, self.settings.dead_after / 6)

    async def go_on(self) -> None:
        """Send heartbeats forever, whatever goes wrong."""
        await self.manager.signed_on.wait()
        while True:
            try:
                await self._beat()
            except OperatorError as error:
                self.lanes.said(f"warning: {error.message}")
            except Exception:
                _logger.exception("a bug while sending a heartbeat")
            await asyncio.sleep(self.interval)

    async def _beat(self) -> None:
        if await self.manager.beat(self.lanes.picture()):
            self._beaten()
        elif not self.manager.stopping:
            self.lanes.said(
                "warning: this station was declared dead, and others took over its devices; it"
                " registers again"
            )
            await self.manager.register_worker()
        if self._may_judge() and await self.manager.someone_is_dead():
            await self.take_over()
        if self._purged is None or time.monotonic() - self._purged > _PURGE:
            self._purged = time.monotonic()
            await self.manager.purge(self.settings.keep)

    def _beaten(self) -> None:
        now = time.monotonic()
        if now - self._last > 2 * self.interval + 1.0:
            self._regular_since = now
        self._last = now

    def _may_judge(self) -> bool:
        """Tell whether this station can judge the others.

        After an outage of the database or of this machine, every other station looks silent too.
        """
        regular = self._last - self._regular_since
        return regular >= self.settings.dead_after and not self.manager.stopping
