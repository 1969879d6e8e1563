"""The operator's decision on a device that a station left behind."""

from __future__ import annotations

from ..errors import UsageError
from ..ledger import Ledger
from ..ledger.resolve import Verdict
from ..ledger.resolve import resolve as record_verdict
from ..model import Receipt
from .jobs import lock_of
from .tables import are_there
from .takeover import take_over


def resolve(
    ledger: Ledger, serial: str, verdict: Verdict, reason: str, *, sandbox: bool
) -> Receipt:
    """Record what happened to a device, and remove its ended job from the status.

    Raises:
        UsageError: a station is making it now, or the serial is not in the ledger.
        LedgerError: it cannot be written.
    """
    take_over(ledger)
    lock = lock_of(serial, sandbox=sandbox)
    with ledger.reading() as connection:
        at_work = (
            are_there(connection)
            and connection.exec_driver_sql(
                "SELECT s.name FROM procrastinate_jobs j JOIN station s ON s.worker = j.worker_id"
                " WHERE j.lock = %s AND j.status = 'doing'",
                (lock,),
            ).scalar()
        )
    if at_work:
        raise UsageError(
            f"{serial} is being made by station {at_work} now",
            hint="wait for it to end; if the station is gone: azaion-imagebuild station reassign"
            f" {at_work}",
        )
    receipt = record_verdict(ledger, serial, verdict, reason, sandbox=sandbox)
    with ledger.writing() as pen:
        if are_there(pen.connection):
            pen.connection.exec_driver_sql(
                "DELETE FROM procrastinate_jobs"
                " WHERE lock = %s AND status NOT IN ('todo', 'doing')",
                (lock,),
            )
    return receipt
