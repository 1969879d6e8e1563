"""The Unix socket that a page shows a fleet or a station by, and scans labels into.

One JSON object a line each way. To a client: ``hello``, then the events of :data:`SHOWN` as they
are logged, and ``day`` (:mod:`.day`). From a client: ``{"id": 1, "scan": "AZJN-0042"}``, which is
answered by ``{"event": "answer", "id": 1, …}``. Whoever can open the socket can do what an operator
with a scanner can, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.state_dir import state_dir_of
from ..errors import LedgerError
from ..ledger import Ledger
from ..ledger.process_id import this_host, user
from ..pipeline.events import Event, Watcher, problem
from ..settings import Settings
from ..system.files import make_folder, opened_folder
from .day import Day
from .scans import Answer

SHOWN = frozenset(
    ("opened", "closed", "assigned", "started", "device", "scanned", "said", "warning", "error")
)
"""Names of the events that a client gets."""
MOST_CLIENTS = 8
MOST_UNREAD = 1 << 20
"""Bytes that a client may leave unread; a slower one is dropped."""
LONGEST_LINE = 4096
"""Bytes of a client's line."""
_PAUSE = 0.05  # seconds in which events are collected, to be sent together
_DAY_PAUSE = 0.5  # seconds between two counts of the day
_DAY_AGAIN = 60.0  # seconds after which the ledger is read again for a client
_REFUSED_PAUSE = 0.1  # seconds that a client waits after a refused scan
_logger = logging.getLogger(__name__)

Timed = tuple[float, Event]
"""When it happened, in seconds since the epoch, and what."""


def _starting(label: str) -> Answer:
    message, hint = "labels are not accepted yet", "the run is starting: scan it again in a moment"
    return Answer(kind="refused", message=message, hint=hint)


def works_off_a_list(label: str) -> Answer:
    """Refuse a label: the run makes the devices of a list."""
    hint = "this run works off a list: start fleet - or station run to scan labels"
    return Answer(kind="refused", message="labels are not accepted now", hint=hint)


def socket_path(settings: Settings) -> Path:
    """Return where the socket of these settings is."""
    return settings.station.page_socket or state_dir_of(settings) / "page" / "page.sock"


@contextlib.contextmanager
def page_socket(
    settings: Settings, ledger: Ledger, watcher: Watcher, *, sandbox: bool, run: str
) -> Iterator[PageSocket]:
    """Yield a watcher that passes events on, and shows them to pages through a socket.

    If there can be no socket, that is a warning: no device waits for a page.

    Args:
        settings: of the site.
        ledger: to count the day from.
        watcher: who is told besides the pages.
        sandbox: whether the sandbox's devices are made.
        run: ``fleet`` or ``station``.
    """
    hello = {
        "run": run, "station": settings.ledger.station, "host": this_host(), "sandbox": sandbox,
        "operator": settings.ledger.operator or user(),
    }  # fmt: skip
    day = Day(ledger=ledger, sandbox=sandbox, station=settings.ledger.station)
    pages = PageSocket(watcher, hello, day)
    with contextlib.ExitStack() as held:
        try:
            listening = held.enter_context(
                _bound(socket_path(settings), settings.station.page_group)
            )
        except (OSError, _Taken) as error:
            hint = "azaion-imagebuild page does not show this run; [station] page_socket may help"
            watcher(problem("warning", f"no page can be served: {_why(error)}", hint))
        else:
            held.enter_context(pages.serving(listening))
        yield pages


def connected(path: Path) -> socket.socket:
    """Return a connection to the run's socket.

    Raises:
        OSError: nothing runs there, or this user may not open it.
    """
    folder = os.open(path.parent, os.O_PATH)
    ours = socket.socket(socket.AF_UNIX)
    try:
        ours.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        ours.close()
        raise
    finally:
        os.close(folder)
    return ours


@dataclass(slots=True)
class _Picture:
    """What a page that is opened now has to know."""

    opened: Timed | None = None
    base: Timed | None = None
    """The step of the base build, until the lanes are open."""
    scanned: Timed | None = None
    lanes: dict[str, dict[str, Timed]] = field(default_factory=dict)
    """Lane → name → the last such event there."""
    problems: deque[Timed] = field(default_factory=lambda: deque(maxlen=3))

    def note(self, timed: Timed) -> None:
        event = timed[1]
        if (lane := event.fields.get("lane")) is not None and event.name != "scanned":
            self._note_lane(str(lane), timed)
        elif event.name == "opened":
            self.opened, self.base = timed, None
        elif event.name == "started":
            self.base = timed
        elif event.name == "scanned":
            self.scanned = timed
        elif event.level in ("warning", "error"):
            self.problems.append(timed)

    def _note_lane(self, lane: str, timed: Timed) -> None:
        name = timed[1].name
        if name == "assigned":
            self.lanes[lane] = {name: timed}
        elif name in ("started", "device"):
            self.lanes.setdefault(lane, {})[name] = timed

    def events(self) -> list[Timed]:
        told = [self.opened, self.base, *self.problems, self.scanned]
        for lane in self.lanes.values():
            told += lane.values()
        return sorted((each for each in told if each is not None), key=lambda timed: timed[0])


class PageSocket:
    """A watcher that passes events on, and copies them to the socket's clients."""

    def __init__(self, watcher: Watcher, hello: Mapping[str, Any], day: Day) -> None:
        self.scan: Callable[[str], Answer] = _starting
        """Answers a scanned label."""
        self._watcher = watcher
        self._hello = hello
        self._day = day
        self._picture = _Picture()
        self._lock = threading.Lock()
        self._clients: set[asyncio.StreamWriter] = set()
        self._connected = 0
        self._news: list[Timed] = []
        self._is_day_due = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, event: Event) -> None:
        """Pass the event on, and note it for the clients; never waits for one of them."""
        self._watcher(event)
        if event.name not in SHOWN or (event.level == "debug" and event.name == "said"):
            return
        timed = (time.time(), event)
        with self._lock:
            self._picture.note(timed)
            if event.name == "device":
                self._day.note(event.fields, timed[0])
            if not self._clients:
                return
            self._news.append(timed)
            is_first = len(self._news) == 1
        if is_first and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed: the run ends
                self._loop.call_soon_threadsafe(self._loop.call_later, _PAUSE, self._send_news)

    @contextlib.contextmanager
    def serving(self, listening: socket.socket) -> Iterator[None]:
        """Serve clients in a thread of its own."""
        ready, stop = threading.Event(), asyncio.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            async with await asyncio.start_unix_server(
                self._serve, sock=listening, limit=LONGEST_LINE
            ):
                counting = asyncio.create_task(self._count_the_day())
                ready.set()
                await stop.wait()
                counting.cancel()
                await self._part()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        ready.wait(10)
        try:
            yield
        finally:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(stop.set)
            thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connected >= MOST_CLIENTS:
            writer.close()
            return
        self._connected += 1
        try:
            await self._read_day()
            self._greet(writer)
            while line := await reader.readline():
                await self._answer(line, writer)
        except (ValueError, OSError):  # a line that is too long or no JSON; a client that has gone
            pass
        finally:
            self._connected -= 1
            self._clients.discard(writer)
            writer.close()

    def _greet(self, writer: asyncio.StreamWriter) -> None:
        """Tell a client all that there is; it gets all that happens from then on."""
        with self._lock:
            told = self._picture.events()
            self._clients.add(writer)
        hello = Event(name="hello", message="a page", fields=self._hello)
        lines = [_line((time.time(), each)) for each in (hello, self._day.event())]
        _write(writer, b"".join([*lines[:1], *map(_line, told), *lines[1:]]))

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(line)
        if not isinstance(asked, dict) or not isinstance(asked.get("scan"), str):
            raise ValueError("not a scan")
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(None, self._scanned, asked["scan"])
        fields = {**answer.event().fields, "id": asked.get("id")}
        event = Event(name="answer", message=answer.message, fields=fields)
        _write(writer, _line((time.time(), event)))
        if answer.kind == "refused":
            await asyncio.sleep(_REFUSED_PAUSE)

    def _scanned(self, text: str) -> Answer:
        try:
            return self.scan(text)
        except KeyboardInterrupt:
            return Answer(kind="refused", message="the run is stopping", hint="scan it again later")

    def _send_news(self) -> None:
        """Send what happened; of a lane's steps that passed meanwhile only the last one."""
        with self._lock:
            news, self._news = self._news, []
        lines = b"".join(map(_line, _without_passed_steps(news)))
        for client in [*self._clients]:
            _write(client, lines)
        if any(event.name == "device" for _, event in news) and not self._is_day_due:
            self._is_day_due = True
            asyncio.get_running_loop().call_later(_DAY_PAUSE, self._send_day)
        if any(event.fields.get("outcome") == "unknown" for _, event in news):
            self._reading = asyncio.ensure_future(self._read_day())

    def _send_day(self) -> None:
        self._is_day_due = False
        line = _line((time.time(), self._day.event()))
        for client in [*self._clients]:
            _write(client, line)

    async def _count_the_day(self) -> None:
        while True:
            await asyncio.sleep(_DAY_AGAIN)
            if self._clients:
                await self._read_day()
                self._send_day()

    async def _read_day(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._day.read)
        except (LedgerError, KeyboardInterrupt) as error:
            _logger.debug("the day was not read: %s", error)

    async def _part(self) -> None:
        """Send what is left, and end."""
        self._send_news()
        self._send_day()
        clients = [*self._clients]
        for client in clients:
            client.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(each.wait_closed() for each in clients)), 1)


def _write(writer: asyncio.StreamWriter, lines: bytes) -> None:
    """Send without waiting; a client that does not read is dropped."""
    if writer.transport.is_closing():
        return
    writer.write(lines)
    if writer.transport.get_write_buffer_size() > MOST_UNREAD:
        writer.transport.abort()


def _line(timed: Timed) -> bytes:
    return timed[1].as_json(timed[0]).encode() + b"\n"


def _without_passed_steps(news: list[Timed]) -> Iterator[Timed]:
    last = {event.fields.get("lane"): event for _, event in news if event.name == "started"}
    for when, event in news:
        if event.name != "started" or last[event.fields.get("lane")] is event:
            yield when, event


class _Taken(Exception):
    """Another run has the socket."""


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


@contextlib.contextmanager
def _bound(path: Path, group: str | None) -> Iterator[socket.socket]:
    """Yield a listening socket: for this user only, or for a group as well.

    Raises:
        OSError: there can be no such socket there.
        _Taken: another run has it.
    """
    gid = _gid(group) if group else None
    if not path.parent.exists():
        make_folder(path.parent)
        if gid is not None:
            os.chown(path.parent, -1, gid)
            path.parent.chmod(0o710)
    with opened_folder(path.parent) as folder, _alone(folder, path):
        short = f"/proc/self/fd/{folder}/{path.name}"  # the kernel takes 107 bytes
        Path(short).unlink(missing_ok=True)  # of a run that was killed
        with socket.socket(socket.AF_UNIX) as listening:
            os.fchmod(listening.fileno(), 0o600)  # before anyone can open it
            listening.bind(short)
            if gid is not None:
                os.chown(short, -1, gid)
                Path(short).chmod(0o660)
            listening.listen()
            try:
                yield listening
            finally:
                Path(short).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: int, path: Path) -> Iterator[None]:
    """Hold the socket's name for one run; a killed one gives it back."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(f"{path.name}.lock", flags, 0o600, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise _Taken(f"another run has {path}") from None
    finally:
        os.close(descriptor)


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise _Taken(f"this host has no group {group!a}") from None
