"""A station: its lanes take devices from the queue and make them until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy
from msgspec import Struct

from ..config.state_dir import state_dir_of
from ..errors import BugError, ExitCode, LedgerError, PreflightError
from ..fleet import events
from ..fleet.destinations import Destination
from ..fleet.order import Order, parts_for
from ..fleet.page_socket import PageSocket, page_socket
from ..fleet.plan import Plan
from ..fleet.preparation import destinations_for
from ..fleet.run import failed, made
from ..identity.serial_list import Listed, scanned
from ..ledger import Ledger
from ..ledger.engine import CONNECTION
from ..ledger.process_id import this_host, this_process, user
from ..pipeline.events import Watcher, said
from ..pipeline.hookspecs import REQUIRED
from ..pipeline.plugins import load_plugins
from ..pipeline.shared import SharedResources
from ..settings import Settings, StationSettings
from ..system.signals import heard_by, hold_to_the_end, let_threads_go_on, stop_threads
from .claim import Claim
from .jobs import GIVEN_BACK, TASK, Job, checked_name, queue_of
from .lane_display import Lane, LaneDisplay
from .roster import Station, sign_off
from .scanning import StationScans
from .tables import prepare, shared_ledger
from .takeover import Taken, sign_on_alone, take_over

if TYPE_CHECKING:
    from procrastinate import App, JobContext

    from .manager import Manager

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_BUSY = 5.0  # seconds until a job for a busy USB instance is tried again
_POLL = 1.0  # seconds between two checks for a job that is due


class Duty(Struct, frozen=True, kw_only=True):
    """What an operator asks of a station."""

    lanes: int
    out: Path | None = None
    """Folder of the images; None: devices are flashed."""
    base: Path | None = None
    """An image with a placeholder; None: the BSP's own base."""
    ports: tuple[str, ...] = ()
    """USB instances to flash at; none: all that are in recovery mode."""
    scans: bool = False
    """Labels are scanned into stdin."""
    attended: bool = False
    """Stdin is a terminal: a person scans and reads the answers."""


def run_station(
    duty: Duty, settings: Settings, watcher: Watcher, typed: Iterator[str] | None = None
) -> dict[str, Any]:
    """Make devices until a signal; return the JSON object with their number.

    SIGINT or SIGTERM once: running devices are finished, no new one begins. Twice: running devices
    are interrupted; those that were not being flashed are requeued.

    Args:
        duty: what is asked for.
        settings: of the site.
        watcher: who is told how the base is built, and how the devices go on.
        typed: the lines that are scanned; None: they come from stdin.

    Raises:
        OperatorError: the station could not begin; no account was touched.
    """
    name = checked_name(settings.ledger.station)
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    stopping = threading.Event()
    order = Order(
        sources=(),
        scans=True,  # the number of devices is unknown
        jobs=duty.lanes,
        out=duty.out,
        base=duty.base,
        lanes=duty.ports,
        work=state_dir_of(settings) / "stations" / name,
    )
    began = time.time()
    with (
        shared_ledger(settings, patience=float("inf")) as ledger,
        parts_for(order, settings) as (used, sandbox),
        page_socket(settings, ledger, watcher, sandbox=sandbox, run="station") as pages,
    ):
        prepare(ledger)
        nothing_yet = Plan(serials=(), todo=(), sandbox=sandbox)
        with destinations_for(
            order, used, nothing_yet, hook, pages, stopped=stopping.is_set
        ) as places:
            me = Station(
                name=name,
                worker=0,
                sandbox=sandbox,
                host=this_host(),
                process=this_process(),
                operator=settings.ledger.operator or user(),
                dead_after=settings.station.dead_after,
                lanes=dict.fromkeys((place.name for place in places), ""),
            )
            work = _Work(
                me=me,
                ledger=ledger,
                hook=hook,
                settings=settings.station,
                lanes=LaneDisplay(pages, me.lanes),
                stopping=stopping,
                scans=StationScans(
                    station=name,
                    sandbox=sandbox,
                    ledger=ledger,
                    settings=settings,
                    watcher=pages,
                    lanes=me.lanes,
                    stopped=stopping.is_set,
                    free_lane=lambda promised: work.free_lane(promised),
                ),
                duty=duty,
                pages=pages,
                typed=typed,
            )
            work.to_the_end(places)
    return work.told(time.time() - began)


@dataclass(slots=True, kw_only=True)
class _Work:
    """A run of a station."""

    me: Station
    ledger: Ledger
    hook: pluggy.HookRelay
    settings: StationSettings
    lanes: LaneDisplay
    stopping: threading.Event
    scans: StationScans
    duty: Duty
    pages: PageSocket
    typed: Iterator[str] | None
    stops: int = 0
    """How often it was told to stop."""
    ends: Counter[str] = field(default_factory=Counter)
    _free: list[Lane] = field(default_factory=list)
    _is_scanning: bool = False
    _manager: Manager = field(init=False)
    _threads: ThreadPoolExecutor = field(init=False)

    def to_the_end(self, places: Sequence[Destination]) -> None:
        """Make devices until a signal."""
        _quieten()
        self.lanes(events.opened([place.name for place in places]))
        try:
            with ExitStack() as held, ThreadPoolExecutor(len(places)) as self._threads:
                self._free = [
                    Lane(place=place, shared=held.enter_context(SharedResources()))
                    for place in places
                ]
                asyncio.run(self._run())
        finally:
            let_threads_go_on()
            self.lanes(events.closed())

    async def _run(self) -> None:
        """Open the queue, work, and unregister."""
        import psycopg
        from procrastinate import App, PsycopgConnector

        from .manager import Manager
        from .outcome import Again

        connector = PsycopgConnector(
            conninfo=_conninfo(str(self.ledger.url)),
            kwargs=CONNECTION,
            min_size=1,
            max_size=4,
            timeout=5.0,
            reconnect_timeout=5.0,
        )
        self._manager = Manager(
            connector, enlist=self._enlist, say=self.lanes.said, is_ready=self._is_ready
        )
        app = App(connector=connector)
        app.job_manager = self._manager
        app.task(name=TASK, pass_context=True, retry=Again())(self._job)
        try:
            await app.open_async()
        except psycopg.OperationalError as error:
            raise LedgerError(
                f"cannot open the queue: {error}",
                hint="check the database, then start the station again",
            ) from None
        try:
            await self._work(app)
        finally:
            await _in_a_thread(self._sign_off)
            await app.close_async()

    async def _work(self, app: App) -> None:
        """Run procrastinate's worker, with heartbeats until its last job has ended."""
        from .heartbeat import Heartbeat

        worker = asyncio.create_task(
            app.run_worker_async(
                name=self.me.name,
                queues=[queue_of(each, sandbox=self.me.sandbox) for each in (self.me.name, None)],
                concurrency=len(self._free),
                delete_jobs="successful",
                fetch_job_polling_interval=_POLL,
                listen_notify=False,  # a pooler passes no notification on
                install_signal_handlers=False,
            )
        )
        beats = Heartbeat(
            manager=self._manager,
            lanes=self.lanes,
            settings=self.settings,
            take_over=self._take_over,
        )
        beating = asyncio.create_task(beats.go_on())
        with self._listening(worker):
            await asyncio.wait([worker])
        beating.cancel()
        if not worker.cancelled():
            worker.result()  # raises the reason why it could not begin
            raise BugError("the queue's worker has stopped", hint="report it; start it again")

    async def _enlist(self) -> int:
        self.me, taken = await _in_a_thread(sign_on_alone, self.ledger, self.me)
        self._tell(taken)
        self._begin_to_scan()
        return self.me.worker

    def _begin_to_scan(self) -> None:
        self.pages.scan = self.scans.scans.scan
        if self.duty.scans and not self._is_scanning:
            self._is_scanning = True  # it may sign on again
            if self.duty.attended:
                self.lanes(said("ready: scan a label; end with Ctrl-C"))
            self.scans.start(scanned(self.typed), attended=self.duty.attended)

    def free_lane(self, promised: frozenset[str]) -> str | None:
        """Return a free lane that is not promised, with a device if there is one."""
        free = [each.place for each in self._free.copy() if each.place.name not in promised]
        best = max(free, key=lambda place: place.has_device(), default=None)
        return best.name if best is not None else None

    def _sign_off(self) -> None:
        try:
            with self.ledger.writing() as pen:
                sign_off(pen.connection, self.me)
        except LedgerError as error:
            self.lanes.said(f"warning: cannot unregister: {error.message}")

    async def _take_over(self) -> None:
        self._tell(await _in_a_thread(take_over, self.ledger))

    def _tell(self, taken: Sequence[Taken]) -> None:
        for each in taken:
            self.lanes.said(
                f"took over from {each.station}: {each.serial} is {each.outcome}: {each.reason}"
            )

    def _is_ready(self) -> bool:
        """Tell whether a lane has a device that needs an identity."""
        return any(lane.place.has_device() for lane in self._free)

    async def _job(self, context: JobContext, /, **args: Any) -> None:
        """Make one device: procrastinate's task."""
        row = context.job
        assert row.id is not None  # noqa: S101 - it was fetched
        assert row.worker_id is not None  # noqa: S101
        job = Job.of(args, row.queue)
        lane = self._lane_for(job)
        claim = Claim(
            ledger=self.ledger,
            job=job,
            id=row.id,
            worker=row.worker_id,
            station=self.me.name,
            lane=lane.place.name if lane else "",
        )
        if lane is None:
            self._end(claim, _no_lane(self.me.name, job), row.attempts)
            return
        self._free.remove(lane)
        try:
            loop = asyncio.get_running_loop()
            record = await loop.run_in_executor(self._threads, self._made, lane, claim)
        finally:
            self._free.append(lane)
        self._end(claim, record, row.attempts)

    def _lane_for(self, job: Job) -> Lane | None:
        """Return a free lane for a job, if possible one with a device; None if all are taken.

        Raises:
            Undone: the job's lane is busy.
        """
        from .outcome import Outcome, Undone

        wanted = job.usb_instance
        fit = [each for each in self._free if wanted in (None, each.place.name)]
        mine, others = self.scans.promised_to(job.serial), self.scans.promised()
        promised = [each for each in fit if each.place.name == mine]
        unpromised = [each for each in fit if each.place.name not in others]
        if best := promised or unpromised or (fit if mine else []):
            return max(best, key=lambda each: each.place.has_device())
        if fit or wanted in self.me.lanes:
            raise Undone(Outcome(outcome=GIVEN_BACK, wait=_BUSY))
        return None

    def _made(self, lane: Lane, claim: Claim) -> dict[str, Any]:
        self.scans.begun(claim.job.serial)  # in this thread: it may have to wait for the answer
        return made(lane.place, _listed(claim.job), lane.shared, self.hook, claim, self.lanes)

    def _end(self, claim: Claim, record: Mapping[str, Any], attempts: int) -> None:
        """Report how a device ended.

        Raises:
            Undone: it is not done.
        """
        from .outcome import Undone, note_of, outcome_of

        end = outcome_of(record, claim, attempts, self.settings)
        self.ends[end.outcome] += 1
        self.lanes(events.ended({**record, "lane": claim.lane, "outcome": end.outcome}))
        self.scans.ended(claim.job.serial, end.outcome)
        free = len(self._free) - self.scans.scans.waiting()
        if self.duty.attended and free > 0 and not self.stopping.is_set():
            self.lanes(events.ready(free))
        if end.outcome == "done":
            return
        if end.orphaned:
            self._manager.left.add(claim.id)
        self._manager.notes[claim.id] = note_of(claim, record, end)
        raise Undone(end)

    @contextmanager
    def _listening(self, worker: asyncio.Task[None]) -> Iterator[None]:
        """Handle signals while the station works."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self.stops += 1
            self.stopping.set()
            self._manager.stopping = True
            if self.stops == 1:
                self.lanes.said("stopping after the running devices (again: stop at once)")
                worker.cancel()
            elif not self._manager.gives_up:
                self.lanes.said("stopping the running devices")
                self._manager.gives_up = True
                stop_threads()

        with heard_by(lambda _: loop.call_soon_threadsafe(stop)):
            try:
                yield
            finally:
                hold_to_the_end()  # it still signs off, and says what it has done

    def told(self, seconds: float) -> dict[str, Any]:
        """Return the station's JSON object."""
        interrupted = self.stops > 1
        outcomes = ("done", "failed", "unknown", GIVEN_BACK)
        return {
            "outcome": "interrupted" if interrupted else "stopped",
            "station": self.me.name,
            "sandbox": self.me.sandbox,
            "host": self.me.host,
            "seconds": round(seconds, 3),
            **{outcome.replace(" ", "_"): self.ends[outcome] for outcome in outcomes},
            "exit_code": int(ExitCode.INTERRUPTED if interrupted else ExitCode.DONE),
        }


def _listed(job: Job) -> Listed:
    return Listed(serial=job.serial, where="the queue", usb_instance=job.usb_instance)


def _no_lane(station: str, job: Job) -> dict[str, Any]:
    error = PreflightError(
        f"station {station} has no lane at the USB instance {job.usb_instance}",
        hint="start it with that --lane, or submit the device without a USB instance",
    )
    return failed(_listed(job), error)


async def _in_a_thread(function: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def _conninfo(url: str) -> str:
    """Return the URL in libpq's form."""
    import sqlalchemy as sql

    plain = sql.make_url(url).set(drivername="postgresql")
    return plain.render_as_string(hide_password=False)


def _quieten() -> None:
    """Show the log of the queue's libraries only with ``--debug``."""
    for name in ("procrastinate", "psycopg", "psycopg.pool", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [_Forward()]
        logger.propagate = False
        logger.setLevel(logging.INFO)


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _logger.debug("%s: %s", record.name, record.getMessage())
