"""Queueing a list of devices for the stations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..errors import ExitCode, PreflightError, UsageError, raise_for
from ..fleet.plan import Plan, collisions, make_plan
from ..identity.serial_list import Listed, read_lists
from ..ledger import Entry, Ledger, Standing
from ..settings import Settings
from .jobs import Job, checked_name, lock_of, put, resolve_command, station_of
from .tables import prepare, shared_ledger

if TYPE_CHECKING:
    import sqlalchemy as sql

_DIED = "an attempt died while its device was flashed"
_MANY = 500  # devices in one transaction: stations wait for it


class SubmitOrder(Struct, frozen=True, kw_only=True):
    """What an operator asks for."""

    sources: tuple[str, ...]
    """Lists, ``-``, ranges, serials: see :mod:`azaion_imagebuild.identity.serial_list`."""
    station: str | None = None
    """The only station that may make them; None: any."""
    sandbox: bool = False
    again: bool = False
    """Also queue devices that are done or unknown."""
    priority: int = 0
    """Higher ones go first: an operator with a device in hand does not wait for the whole queue."""


@dataclass(slots=True)
class Submission:
    """What happened to each device of a list."""

    sandbox: bool = False
    queued: list[str] = field(default_factory=list)
    queued_before: dict[str, str] = field(default_factory=dict)
    """Serial → where it is: ``waits``, ``waits for S1``, ``being made``."""
    done_before: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    """Serial → why nobody knows what its device holds."""
    refused: list[tuple[str, PreflightError]] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """Return the process's exit code."""
        left_out = self.refused or self.unknown
        return ExitCode.FLEET_INCOMPLETE if left_out else ExitCode.DONE

    def lines(self) -> Iterator[str]:
        """Yield it as lines for the operator."""
        for serial, error in self.refused:
            yield f"error: {serial}: {error.message}"
            yield f"hint: {error.hint}"
        for serial, why in self.unknown.items():
            yield f"error: {serial} is unknown: {why}"
            yield f"hint: check it, then run {resolve_command(serial, sandbox=self.sandbox)}"
        yield (
            f"{len(self.queued)} queued, {len(self.queued_before)} already queued,"
            f" {len(self.done_before)} are done, {len(self.unknown)} unknown,"
            f" {len(self.refused)} refused"
        )

    def as_json(self) -> dict[str, Any]:
        """Return what ``submit --json`` prints."""
        return {
            "outcome": "incomplete" if self.exit_code else "queued",
            "queued": self.queued,
            "queued_before": self.queued_before,
            "done_before": self.done_before,
            "unknown": self.unknown,
            "refused": [
                {"serial": serial, "error": error.message, "hint": error.hint}
                for serial, error in self.refused
            ],
            "exit_code": int(self.exit_code),
        }


def submit(order: SubmitOrder, settings: Settings) -> Submission:
    """Queue the devices of a list that are neither queued nor done.

    Submitting the same list again queues only what is left.

    Raises:
        UsageError: the list or the settings are wrong; nothing is queued.
        PreflightError: two devices of the list share an account; nothing is queued.
        LedgerError: the database cannot be written; the same command again continues.
    """
    listed = read_lists(order.sources, settings.serial.pattern).devices
    if order.station is not None:
        checked_name(order.station)
    elif ports := [each.where for each in listed if each.usb_instance is not None]:
        raise UsageError(
            f"{ports[0]} names a USB instance, but not its station",
            hint="give --station, or leave the column usb_instance out",
        )
    raise_for(collisions(listed), PreflightError)
    submission = Submission(sandbox=order.sandbox)
    with shared_ledger(settings) as ledger:
        prepare(ledger)
        for start in range(0, len(listed), _MANY):
            queue(listed[start : start + _MANY], order, settings, ledger, submission)
    return submission


def queue(
    listed: Sequence[Listed],
    order: SubmitOrder,
    settings: Settings,
    ledger: Ledger,
    submission: Submission,
) -> None:
    """Queue devices, in one transaction with the check that they are neither queued nor done."""
    locks = {each.serial: lock_of(each.serial, sandbox=order.sandbox) for each in listed}
    with ledger.writing() as pen:
        active = _active(pen.connection, list(locks.values()))
        before = {each.serial: active[locks[each.serial]] for each in listed
                  if locks[each.serial] in active}  # fmt: skip
        rest = [each for each in listed if each.serial not in before]
        plan = _planned(rest, order, settings, ledger)
        _forget(pen.connection, [locks[each.serial] for each in plan.todo])
        after = pen.head().row
        jobs = [
            Job(
                serial=each.serial,
                sandbox=order.sandbox,
                after=after,
                station=order.station,
                usb_instance=each.usb_instance,
                confirmed=settings.ledger.confirmed,
                priority=order.priority,
            )
            for each in plan.todo
        ]
        put(pen.connection, jobs)
    submission.queued += [each.serial for each in plan.todo]
    submission.queued_before |= before
    submission.done_before += [each.serial for each, _ in plan.done_before]
    submission.unknown |= {each.serial: row.error or _DIED for each, row in plan.unknown}
    submission.refused += [(each.serial, error) for each, error in plan.refused]


def _planned(
    listed: Sequence[Listed], order: SubmitOrder, settings: Settings, ledger: Ledger
) -> Plan:
    return make_plan(
        listed,
        ledger,
        settings.ledger,
        sandbox=order.sandbox,
        is_done=_is_done,
        again=order.again,
    )


def _is_done(each: Listed, standing: Standing) -> Entry | None:
    """Return the row of a device whose last attempt succeeded; its image is on some station."""
    row = standing.last
    return row if row is not None and row.outcome == "done" else None


def _active(connection: sql.Connection, locks: list[str]) -> dict[str, str]:
    """Return where each waiting or running job is.

    A running one may be requeued, and the queue takes only one waiting job for each lock.
    """
    rows = connection.exec_driver_sql(
        "SELECT lock, queue_name, status = 'doing' FROM procrastinate_jobs"
        " WHERE lock = ANY(%s) AND status IN ('todo', 'doing')",
        (locks,),
    )
    return {lock: _where(queue, doing) for lock, queue, doing in rows}


def _where(queue: str, doing: bool) -> str:
    station = station_of(queue)
    if doing:
        return "being made"
    return f"waits for {station}" if station else "waits"


def _forget(connection: sql.Connection, locks: list[str]) -> None:
    """Remove the ended jobs of devices that are queued again; the ledger keeps their history."""
    connection.exec_driver_sql(
        "DELETE FROM procrastinate_jobs WHERE lock = ANY(%s) AND status NOT IN ('todo', 'doing')",
        (locks,),
    )
