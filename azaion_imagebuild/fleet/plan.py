"""What a fleet is about to do, without touching anything."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..errors import ExitCode, PreflightError, problems_of, raise_for
from ..identity.serial_list import Listed
from ..ledger import Entry, Ledger, Standing
from ..model import Finding
from ..report.durations import spoken
from ..settings import LedgerSettings
from ..text import counted

_RECENT = 200  # attempts by which the time is estimated


class Plan(Struct, frozen=True, kw_only=True):
    """The devices to make, and what prevents it."""

    serials: tuple[str, ...]
    """All serials of the list, in its order."""
    todo: tuple[Listed, ...]
    done_before: tuple[tuple[Listed, Entry], ...] = ()
    """With the row of the ledger that shows it."""
    unknown: tuple[tuple[Listed, Entry], ...] = ()
    """Their last attempt died while flashing; only a person can tell what those devices hold."""
    refused: tuple[tuple[Listed, PreflightError], ...] = ()
    """Devices that the ledger refuses; they do not stop the others."""
    doubles: tuple[tuple[Listed, str], ...] = ()
    """Lines whose serial came before, and where."""
    findings: tuple[Finding, ...] = ()
    """What is wrong with the whole list."""
    space_needed: int = 0
    """The most bytes that the images can take."""
    space_free: int | None = None
    seconds: float | None = None
    """An estimate, from the ledger's recent attempts."""
    sandbox: bool = False

    @property
    def total(self) -> int:
        """Return how many devices the list has."""
        return len(self.serials)

    @classmethod
    def of_all(cls, plans: Iterable[Plan], *, sandbox: bool) -> Plan:
        """Return one plan for several."""
        every = list(plans)
        return cls(
            serials=tuple(serial for plan in every for serial in plan.serials),
            todo=tuple(each for plan in every for each in plan.todo),
            done_before=tuple(each for plan in every for each in plan.done_before),
            unknown=tuple(each for plan in every for each in plan.unknown),
            refused=tuple(each for plan in every for each in plan.refused),
            sandbox=sandbox,
        )

    def headline(self) -> str:
        """Return the plan in one line."""
        where = "SANDBOX  " if self.sandbox else ""
        todo, done = len(self.todo), len(self.done_before)
        return f"{where}{counted(self.total, 'device')}: {todo} to do, {done} done before"

    def details(self) -> Iterator[str]:
        """Yield more lines for the operator: unknown devices, space and time."""
        if self.unknown:
            yield f"  {len(self.unknown)} unknown: they died while flashing, and are left alone"
        if self.space_needed and self.space_free is not None:
            needed, free = (f"{n / 1e6:,.0f} MB" for n in (self.space_needed, self.space_free))
            yield f"  the images take up to {needed} of disk (their holes take none); {free} free"
        if self.seconds is not None and self.seconds >= 1:
            yield f"  about {_rounded(self.seconds)}, by the ledger's recent attempts"

    def serial_lines(self) -> Iterator[str]:
        """Yield a line for each serial, with what would become of it, and for each double."""
        states = {each.serial: "to do" for each in self.todo}
        states |= {each.serial: "done before" for each, _ in self.done_before}
        states |= {each.serial: "unknown" for each, _ in self.unknown}
        states |= {each.serial: "refused" for each, _ in self.refused}
        for serial in self.serials:
            yield f"  {serial:<16}  {states.get(serial, 'refused')}"
        for each, first in self.doubles:
            double = f"{each.where} is a double of {first}"
            twice = each.where == first  # both are words of the command line
            yield f"  {each.serial:<16}  {'it is given twice' if twice else double}"

    def as_json(self) -> dict[str, Any]:
        """Return the plan as one JSON object."""
        return {
            "outcome": "failed" if self.errors() else "planned",
            "sandbox": self.sandbox,
            "total": self.total,
            "todo": [each.serial for each in self.todo],
            "done_before": [each.serial for each, _ in self.done_before],
            "unknown": [each.serial for each, _ in self.unknown],
            "problems": [
                *({"error": each.message, "hint": each.hint} for each in self.findings),
                *({"error": error.message, "hint": error.hint} for _, error in self.refused),
            ],
            "doubles": [
                {"serial": each.serial, "line": each.where, "first": first}
                for each, first in self.doubles
            ],
            "space_needed": self.space_needed,
            "space_free": self.space_free,
            "seconds": self.seconds,
            "exit_code": self.exit_code,
        }

    @property
    def exit_code(self) -> int:
        """Return the exit code of a process that only plans."""
        return int(ExitCode.PREFLIGHT if self.errors() else ExitCode.DONE)

    def errors(self) -> list[tuple[str, str]]:
        """Return what must stop the fleet before it begins."""
        return problems_of(self.findings)

    def refuse_errors(self) -> None:
        """Raise unless the fleet may begin.

        Raises:
            PreflightError: it may not.
        """
        raise_for(self.findings, PreflightError)


def make_plan(
    listed: Sequence[Listed],
    ledger: Ledger,
    policy: LedgerSettings,
    *,
    sandbox: bool,
    is_done: Callable[[Listed, Standing], Entry | None],
    again: bool = False,
    jobs: int = 1,
    estimates: bool = True,
) -> Plan:
    """Look every device up in the ledger.

    Args:
        listed: the devices.
        ledger: their history.
        policy: for serials that were flashed before.
        sandbox: they are devices of the sandbox.
        is_done: returns the row that shows that a device is done, or None.
        again: redo devices that are done or unknown.
        jobs: devices at a time.
        estimates: also tell how long it may take; a scan is answered without.

    Raises:
        LedgerError: it cannot be read.
    """
    known = ledger.standings({each.serial: each.email for each in listed}, sandbox=sandbox)
    todo, done_before, unknown, refused = [], [], [], []
    for each in listed:
        standing = known.pop(each.serial)  # do not keep the rows of thousands of devices
        if not again and standing.unknown and standing.last is not None:
            unknown.append((each, standing.last))
        elif not again and (row := is_done(each, standing)):
            done_before.append((each, row))
        else:
            found = standing.findings(policy.reprovision, confirmed=policy.confirmed)
            if errors := problems_of(found):
                refused.append((each, PreflightError.of_problems(errors)))
            else:
                todo.append(each)
    took = _seconds_each(ledger) if todo and estimates else None
    return Plan(
        serials=tuple(each.serial for each in listed),
        todo=tuple(todo),
        done_before=tuple(done_before),
        unknown=tuple(unknown),
        refused=tuple(refused),
        findings=tuple(collisions(listed)),
        seconds=round(took * len(todo) / jobs, 1) if took is not None else None,
        sandbox=sandbox,
    )


def collisions(listed: Sequence[Listed]) -> Iterator[Finding]:
    """Find two serials of the list that share an account."""
    holders: dict[str, Listed] = {}
    for each in listed:
        first = holders.setdefault(each.email, each)
        if first is not each:
            yield Finding(
                message=f"{first.serial} ({first.where}) and {each.serial} ({each.where}) share the"
                f" account {each.email}",
                hint="an account is the segment after the last hyphen: give one of them another"
                " label, and take it out of the list",
            )


def _seconds_each(ledger: Ledger) -> float | None:
    took = [row.seconds for row in ledger.recent(_RECENT) if row.outcome == "done" and row.seconds]
    return statistics.median(took) if took else None


def _rounded(seconds: float) -> str:
    """Return an estimate, rounded."""
    return f"{seconds:.0f} s" if seconds < 59.5 else spoken(round(seconds))


def space_on(folder: Path) -> int | None:
    """Return the free bytes where ``folder`` is, or will be; None: unknown."""
    import shutil

    try:
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free
    except OSError:
        return None
