"""A device in a queue, and the queues: a common one, and one for each station."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..errors import UsageError
from .tables import driver

if TYPE_CHECKING:
    import procrastinate.jobs
    import sqlalchemy as sql
    from typing_extensions import Self

TASK = "azaion-imagebuild:make"
GIVEN_BACK = "given back"
"""The outcome of a requeued device; the database and ``--json`` keep this word."""

_COMMON, _SANDBOX = "devices", "sandbox"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,23}")
"""Short, because a channel is named after its queue, and PostgreSQL allows 63 bytes for that."""


class Job(Struct, frozen=True, kw_only=True):
    """A device to make once."""

    serial: str
    sandbox: bool
    after: int
    """The ledger's last row when it was queued; if it was made after that, it is not made again."""
    station: str | None = None
    """The only station that may make it; None: any."""
    usb_instance: str | None = None
    confirmed: bool = False
    """The operator has confirmed that it is made again (``reprovision = confirm``)."""
    lost: int = 0
    """How many stations died while making it."""
    priority: int = 0
    """Higher ones go first."""

    @classmethod
    def of(cls, args: Mapping[str, Any], queue: str) -> Self:
        """Return the job in a row of the queue."""
        known = set(cls.__struct_fields__)
        told = {name: value for name, value in args.items() if name in known}
        return cls(**{**told, "station": station_of(queue)})

    @property
    def lock(self) -> str:
        """Return its lock; two jobs with one lock never run at the same time."""
        return lock_of(self.serial, sandbox=self.sandbox)

    def row(self) -> procrastinate.jobs.Job:
        """Return the job as a row of the queue."""
        from procrastinate.jobs import Job as Row

        args: dict[str, Any] = {
            "serial": self.serial,
            "sandbox": self.sandbox,
            "after": self.after,
            "usb_instance": self.usb_instance,
            "confirmed": self.confirmed,
            "lost": self.lost,
        }
        return Row(
            queue=queue_of(self.station, sandbox=self.sandbox),
            lock=self.lock,
            queueing_lock=self.lock,
            task_name=TASK,
            task_kwargs=args,
            priority=self.priority,
        )


def put(connection: sql.Connection, jobs: Sequence[Job]) -> None:
    """Queue jobs, in the transaction of ``connection``."""
    from procrastinate import SyncPsycopgConnector
    from procrastinate.manager import JobManager

    if jobs:
        manager = JobManager(SyncPsycopgConnector())
        manager.batch_defer_jobs([job.row() for job in jobs], connection=driver(connection))


def lock_of(serial: str, *, sandbox: bool) -> str:
    """Return the lock of a device."""
    return f"{_SANDBOX} {serial}" if sandbox else serial


def queue_of(station: str | None, *, sandbox: bool) -> str:
    """Return the name of a station's queue, or of the common one."""
    common = _SANDBOX if sandbox else _COMMON
    return f"{common}@{station}" if station else common


def station_of(queue: str) -> str | None:
    """Return the station of a queue; None: it is the common one."""
    return queue.partition("@")[2] or None


def resolve_command(serial: str, *, sandbox: bool) -> str:
    """Return the command by which an operator says what became of a device."""
    flag = "--sandbox " if sandbox else ""
    return f"azaion-imagebuild station resolve {flag}--reason … {serial} done (or failed)"


def checked_name(name: str | None) -> str:
    """Return a station's name.

    Raises:
        UsageError: it is missing or invalid.
    """
    if not name:
        raise UsageError("the station has no name", hint="give --name S1, or set [ledger] station")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"invalid station name {name!a}",
            hint="use up to 24 letters, digits, dots, hyphens and underscores, e.g. S1 or line-2",
        )
    return name
