"""The link to the run: it reads the socket, scans into it, and comes back when the run does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config.state_dir import state_dir_of
from ..errors import OperatorError
from ..fleet.day import Day
from ..fleet.page_socket import connected, socket_path
from ..ledger import Ledger
from ..ledger.engine import FILE
from ..operations.parts import is_sandbox
from ..settings import Settings
from .state import State

_PAUSE = 0.5  # seconds between two tries to connect
_PATIENCE = 30.0  # seconds to wait for the answer to a scan
_LONGEST_LINE = 1 << 20
_READ_AGAIN = 20  # tries to connect between two looks into the ledger

Changed = Callable[[set[str]], None]


class Link:
    """One connection to the run of these settings."""

    def __init__(self, settings: Settings, state: State, changed: Changed) -> None:
        self._settings = settings
        self._path = socket_path(settings)
        self._state = state
        self._changed = changed
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)

    async def go_on(self) -> None:
        """Follow the run, and the next one, until this is cancelled."""
        for tries in itertools.count():
            with contextlib.suppress(OSError, ValueError):
                await self._follow(self._path)
                tries = 0
            self._part()
            if tries % _READ_AGAIN == 0:
                await self._read_ledger()
            await asyncio.sleep(_PAUSE)

    async def scan(self, text: str) -> dict[str, Any]:
        """Scan a label; return the run's answer, or why it did not answer."""
        if self._writer is None:
            return _refused(
                text, "nothing runs here", "start fleet - or station run, then scan again"
            )
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._writer.write(json.dumps({"id": number, "scan": text}).encode() + b"\n")
            return await asyncio.wait_for(answer, _PATIENCE)
        except (asyncio.TimeoutError, OSError):
            return _refused(text, "no answer from the run", "look at its terminal, then scan again")
        finally:
            del self._asked[number]

    async def _follow(self, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(
            sock=connected(path), limit=_LONGEST_LINE
        )
        self._writer = writer
        try:
            while line := await reader.readline():
                self._take(json.loads(line))
        finally:
            writer.close()

    def _take(self, event: dict[str, Any]) -> None:
        if event["event"] != "answer":
            self._changed(self._state.apply(event))
        elif (asked := self._asked.get(event.get("id") or 0)) and not asked.done():
            asked.set_result(event)

    def _part(self) -> None:
        self._writer = None
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(OSError("the run has gone"))
        self._changed(self._state.lost())

    async def _read_ledger(self) -> None:
        """Count the day from the ledger's file; if this user may not read it, nothing changes."""
        day = await asyncio.get_running_loop().run_in_executor(None, self._day)
        if day is not None:
            self._changed(self._state.count(day))

    def _day(self) -> dict[str, Any] | None:
        """Return the day; None: it is not in a file of this user's.

        A database's password is no business of the page: it reads a file, or waits for the run.
        """
        file = state_dir_of(self._settings) / FILE
        if self._settings.ledger.database is not None or not file.is_file():
            return None
        try:
            sandbox = self._state.hello.get("sandbox")
            sandbox = is_sandbox(self._settings) if sandbox is None else bool(sandbox)
            with Ledger(file, create=False) as ledger:
                day = Day(ledger=ledger, sandbox=sandbox, station=self._settings.ledger.station)
                day.read()
                return dict(day.event().fields)
        except (OperatorError, OSError):
            return None


def _refused(text: str, message: str, hint: str) -> dict[str, Any]:
    return {"event": "scanned", "answer": "refused", "scan": text[:80], "serial": None,
            "message": message, "hint": hint}  # fmt: skip
