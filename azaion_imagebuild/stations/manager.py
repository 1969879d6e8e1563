"""procrastinate's job manager, changed as a station needs it.

What differs from its parent, and why:

- **Only the worker that took a job can end it.** procrastinate ends a job by its number alone, and
  would end one that now belongs to another worker.
- **It waits for a lost database.** procrastinate's worker stops, or does not record that a job has
  ended.
- **Heartbeats continue until the last device has ended** (:mod:`.heartbeat`). procrastinate's
  worker stops them as soon as it is told to end, and other stations would take its devices.
- **It prunes no workers**: a dead station is taken over together with its devices.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import psycopg
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job as Row
from procrastinate.jobs import Status
from procrastinate.manager import JobManager
from procrastinate.sql import queries
from psycopg.types.json import Jsonb

from .jobs import TASK

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_LONGEST_PAUSE = 2.0  # seconds between two attempts to reach the database


class Manager(JobManager):
    """The jobs of one station, in one event loop."""

    def __init__(
        self,
        connector: PsycopgConnector,
        *,
        enlist: Callable[[], Awaitable[int]],
        say: Callable[[str], None],
        is_ready: Callable[[], bool],
    ) -> None:
        """Make the manager of a station.

        Args:
            connector: to the database.
            enlist: registers the station, and returns its worker.
            say: tells the operator.
            is_ready: tells whether a job could begin now.
        """
        super().__init__(connector)
        self._pool = connector
        self._enlist = enlist
        self._say = say
        self._is_ready = is_ready
        self.worker = 0
        self.signed_on = asyncio.Event()
        self.stopping = False
        """Take no new job."""
        self.gives_up = False
        """Stop waiting for a lost database."""
        self.running: set[int] = set()
        self.notes: dict[int, dict[str, Any]] = {}
        """Job → its row of ``station_job``, written when the job ends."""
        self.left: set[int] = set()
        """Jobs that are left as they are: the station that takes over decides."""
        self._strays: set[int] = set()
        self._away = False

    async def register_worker(self) -> int:
        """Sign on."""
        self.worker = await self._enlist()
        self.signed_on.set()
        return self.worker

    async def unregister_worker(self, worker_id: int) -> None:
        """Do nothing: the station unregisters itself after its last device."""

    async def prune_stalled_workers(self, seconds_since_heartbeat: float) -> list[int]:
        """Prune nobody."""
        return []

    async def update_heartbeat(self, worker_id: int) -> None:
        """Do nothing: :meth:`beat` sends heartbeats to the very end."""

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Row | None:
        """Take a job; None if the queue is empty, or no job may be taken now."""

        async def fetch() -> Row | None:
            try:
                return await super(Manager, self).fetch_job(queues=queues, worker_id=self.worker)
            except ConnectorException as error:
                if isinstance(error.__cause__, psycopg.errors.ForeignKeyViolation):
                    return None  # declared dead: the next heartbeat registers this station again
                raise

        if self.stopping or not self._is_ready():
            return None
        job = await self._patiently(fetch, gives_up=lambda: self.stopping)
        if job is not None and job.id is not None:
            self.running.add(job.id)
        return job

    async def finish_job(self, job: Row, status: Status, delete_job: bool) -> None:
        """End a job that still belongs to this station."""
        end = {"job_id": job.id, "status": status.value, "delete_job": delete_job}
        await self._end(job, queries["finish_job"], end)

    async def retry_job(
        self,
        job: Row,
        retry_at: datetime.datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Requeue a job that still belongs to this station."""
        end = {
            "job_id": job.id,
            "retry_at": retry_at or datetime.datetime.now(datetime.timezone.utc),
            "new_priority": priority,
            "new_queue_name": queue,
            "new_lock": lock,
        }
        await self._end(job, queries["retry_job"], end)

    async def _end(self, job: Row, query: str, arguments: dict[str, Any]) -> None:
        assert job.id is not None  # noqa: S101 - it was fetched

        async def end() -> bool:
            async with self._pool.pool.connection() as connection:
                mine = await connection.execute(
                    "SELECT 1 FROM procrastinate_jobs"
                    " WHERE id = %s AND worker_id = %s AND status = 'doing' FOR UPDATE",
                    (job.id, job.worker_id),
                )
                if await mine.fetchone() is None:
                    return False
                if note := self.notes.get(job.id or 0):
                    await connection.execute(_NOTE, note)
                await connection.execute(query, arguments)
                return True

        if job.id not in self.left:
            ended = await self._patiently(end, gives_up=lambda: self.gives_up)
            if ended is None:
                self.left.add(job.id)
        self.running.discard(job.id)
        self.notes.pop(job.id, None)

    async def beat(self, lanes: dict[str, str]) -> bool:
        """Send a heartbeat; tell whether the station was still registered.

        A job that was fetched in a transaction whose reply was lost is requeued.
        """

        async def beat() -> bool:
            async with self._pool.pool.connection() as connection:
                known = await connection.execute(
                    "UPDATE procrastinate_workers SET last_heartbeat = now()"
                    " WHERE id = %s RETURNING id",
                    (self.worker,),
                )
                if await known.fetchone() is None:
                    return False
                await connection.execute(
                    "UPDATE station SET lanes = %s WHERE worker = %s", (Jsonb(lanes), self.worker)
                )
                rows = await connection.execute(
                    "SELECT id FROM procrastinate_jobs"
                    " WHERE worker_id = %s AND status = 'doing' AND task_name = %s",
                    (self.worker, TASK),
                )
                strays = {row[0] for row in await rows.fetchall()} - self.running - self.left
                for job in strays & self._strays:  # the second time: not one being fetched now
                    await connection.execute(_REQUEUE, (job, self.worker))
                self._strays = strays
                return True

        return bool(await self._patiently(beat, gives_up=lambda: self.gives_up))

    async def someone_is_dead(self) -> bool:
        """Tell whether a job or a station waits for a takeover."""

        async def ask() -> bool:
            async with self._pool.pool.connection() as connection:
                found = await connection.execute(_DEAD, (TASK,))
                row = await found.fetchone()
                return bool(row and row[0])

        return bool(await self._patiently(ask, gives_up=lambda: self.stopping))

    async def purge(self, hours: int) -> None:
        """Remove jobs that ended long ago: many of them slow the queue down."""

        async def purge() -> None:
            await self.delete_old_jobs(
                nb_hours=hours, include_failed=True, include_cancelled=True, include_aborted=True
            )

        await self._patiently(purge, gives_up=lambda: self.stopping)

    async def _patiently(
        self, call: Callable[[], Awaitable[T]], *, gives_up: Callable[[], bool]
    ) -> T | None:
        """Return what ``call`` returns, once the database can be reached; None: it gave up."""
        pause = 0.1
        while True:
            try:
                found = await call()
            except (psycopg.OperationalError, ConnectorException) as error:
                cause = error.__cause__ if isinstance(error, ConnectorException) else error
                if not isinstance(cause, psycopg.OperationalError):
                    raise
                self._is_away(cause)
                if gives_up():
                    return None
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._is_back()
                return found

    def _is_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            self._say(f"waiting for the database: {' '.join(str(error).split())}")

    def _is_back(self) -> None:
        if self._away:
            self._away = False
            self._say("the database can be reached again")


_NOTE = """
INSERT INTO station_job (job, station, lane, attempt, outcome, step, error, hint, exit_code)
VALUES (%(job)s, %(station)s, %(lane)s, %(attempt)s, %(outcome)s, %(step)s, %(error)s, %(hint)s,
        %(exit_code)s)
ON CONFLICT (job) DO UPDATE SET station = excluded.station, lane = excluded.lane,
    attempt = coalesce(excluded.attempt, station_job.attempt), outcome = excluded.outcome,
    step = excluded.step, error = excluded.error, hint = excluded.hint,
    exit_code = excluded.exit_code, at = now()
"""
_REQUEUE = """
UPDATE procrastinate_jobs SET status = 'todo'
 WHERE id = %s AND worker_id = %s AND status = 'doing'
"""
_DEAD = """
SELECT EXISTS (
    SELECT 1 FROM station s LEFT JOIN procrastinate_workers w ON w.id = s.worker
     WHERE w.id IS NULL
        OR greatest(w.last_heartbeat, pg_postmaster_start_time())
           < clock_timestamp() - make_interval(secs => s.dead_after)
) OR EXISTS (
    SELECT 1 FROM procrastinate_jobs j LEFT JOIN station s ON s.worker = j.worker_id
     WHERE j.status = 'doing' AND j.task_name = %s AND s.name IS NULL
)
"""
