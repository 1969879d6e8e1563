"""The ledger as a person asks it: the verbs of ledger."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Literal

from ...errors import ExitCode, LedgerError, UsageError
from ...identity.serial import parse_serial
from .. import stdout
from .common import resolved, settings_of

if TYPE_CHECKING:
    from ...ledger import Ledger
    from ...settings import Settings
    from ..console import Console


def ledger_list(args: argparse.Namespace, console: Console) -> int:
    from ...ledger import history as records

    settings = settings_of(args, console)
    serial = parse_serial(args.serial, settings.serial.pattern) if args.serial else None
    with _ledger_to_read(settings) as ledger:
        if args.json:
            stdout.print_json(list(records.attempts(ledger, serial)), console)
            return 0
        for entry in records.attempts(ledger, serial):
            stdout.print_line(records.line_of(entry), console)
    return 0


def ledger_show(args: argparse.Namespace, console: Console) -> int:
    from ...ledger import history as records

    settings = settings_of(args, console)
    with _ledger_to_read(settings) as ledger:
        rows = records.history(ledger, parse_serial(args.serial, settings.serial.pattern))
    if args.json:
        stdout.print_json(rows, console)
        return 0
    for row in rows:
        stdout.print_line(f"row {row['row']}  {records.line_of(row)}", console)
    last = rows[-1]
    for name, value in [*(last | {"extra": None}).items(), *last["extra"].items()]:
        if value not in (None, {}):
            stdout.print_line(f"  {name:14} {value}", console)
    return 0


def ledger_verify(args: argparse.Namespace, console: Console) -> int:
    from ...ledger.checking import check

    with _ledger_to_read(settings_of(args, console)) as ledger:
        problems = list(check(ledger, tuple(args.anchor)))
        head = ledger.head()
    if args.json:
        code = ExitCode.LEDGER if problems else ExitCode.DONE
        outcome = "failed" if problems else "done"
        found = {"outcome": outcome, "problems": problems, **head.as_json(), "exit_code": int(code)}
        stdout.print_json(found, console)
    if problems:
        hint = "compare it with a backup (azaion-imagebuild ledger export); find out who wrote it"
        console.failed(LedgerError.of_problems((problem, hint) for problem in problems))
        return int(ExitCode.LEDGER)
    console.say(f"OK: {head.row} rows, all in their place; the last one is {head.row}:{head.hash}")
    return 0


def ledger_export(args: argparse.Namespace, console: Console) -> int:
    from ...ledger import history as records

    form: Literal["csv", "json"] = "csv" if args.csv else "json"
    with _ledger_to_read(settings_of(args, console)) as ledger:
        if args.out is None:
            with stdout.stream() as stream:
                records.export(ledger, stream, form)
            return 0
        try:
            with args.out.open("x", encoding="utf-8", newline="") as stream:
                count = records.export(ledger, stream, form)
        except OSError as error:
            raise UsageError(
                f"cannot write {args.out}: {error.strerror}", hint="name a new file by --out"
            ) from None
    console.say(f"DONE: {count} rows in {args.out}")
    return 0


def ledger_resolve(args: argparse.Namespace, console: Console) -> int:
    from ...ledger import history as records
    from ...operations.parts import the_ledger

    settings = settings_of(args, console)
    serial = parse_serial(args.serial, settings.serial.pattern)
    with the_ledger(settings) as ledger:
        receipt = records.resolve(ledger, serial, args.verdict, args.reason, sandbox=args.sandbox)
    return resolved(serial, receipt, args, console)


def _ledger_to_read(settings: Settings) -> Ledger:
    from ...operations.parts import ledger_to_read

    return ledger_to_read(settings)
