"""ledger: the record of every attempt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...errors import ExitCode, LedgerError, UsageError
from ...identity.serial import parse_serial
from .. import options, stdout
from ..common import resolved
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ...ledger import Ledger
    from ...settings import Settings
    from ..console import Console


def add_list_flags(every: argparse.ArgumentParser) -> None:
    options.general(every)
    every.add_argument("--serial", help="only the attempts for this device")
    options.database(every)


def list_attempts(args: argparse.Namespace, console: Console) -> int:
    from ...ledger import history

    settings = settings_of(args, console)
    serial = parse_serial(args.serial, settings.serial.pattern) if args.serial else None
    with _ledger_to_read(settings) as ledger:
        if args.json:
            stdout.print_json(list(history.attempts(ledger, serial)), console)
            return 0
        for entry in history.attempts(ledger, serial):
            stdout.print_line(history.line_of(entry), console)
    return 0


def add_show_flags(show: argparse.ArgumentParser) -> None:
    options.general(show)
    show.add_argument("serial", metavar="SERIAL", help="the device's serial")
    options.database(show)


def show(args: argparse.Namespace, console: Console) -> int:
    from ...ledger import history

    settings = settings_of(args, console)
    with _ledger_to_read(settings) as ledger:
        rows = history.history(ledger, parse_serial(args.serial, settings.serial.pattern))
    if args.json:
        stdout.print_json(rows, console)
        return 0
    for row in rows:
        stdout.print_line(f"row {row['row']}  {history.line_of(row)}", console)
    last = rows[-1]
    for name, value in [*(last | {"extra": None}).items(), *last["extra"].items()]:
        if value not in (None, {}):
            stdout.print_line(f"  {name:14} {value}", console)
    return 0


def add_verify_flags(verify: argparse.ArgumentParser) -> None:
    options.general(verify)
    verify.add_argument(
        "--anchor",
        action="append",
        default=[],
        metavar="ROW:HASH",
        type=options.anchor,
        help="a row and its hash from a record or an earlier verify; repeatable",
    )
    options.database(verify)


def verify(args: argparse.Namespace, console: Console) -> int:
    from ...operations.check_ledger import check_ledger

    problems, head = check_ledger(settings_of(args, console), tuple(args.anchor))
    if args.json:
        code = ExitCode.LEDGER if problems else ExitCode.DONE
        outcome = "failed" if problems else "done"
        found = {"outcome": outcome, "problems": problems, **head.as_json(), "exit_code": int(code)}
        stdout.print_json(found, console)
    if problems:
        hint = "compare it with a backup (azaion-imagebuild ledger export); find out who changed it"
        console.failed(LedgerError.of_problems((problem, hint) for problem in problems))
        return int(ExitCode.LEDGER)
    console.say(f"OK: {head.row} rows, all in their place; the last one is {head.row}:{head.hash}")
    return 0


def add_export_flags(export: argparse.ArgumentParser) -> None:
    options.general(export)
    export.add_argument("--csv", action="store_true", help="as CSV, not as JSON")
    export.add_argument("--out", metavar="FILE", type=Path, help="a new file; default: stdout")
    options.database(export)


def export(args: argparse.Namespace, console: Console) -> int:
    from ...ledger import history

    form: Literal["csv", "json"] = "csv" if args.csv else "json"
    with _ledger_to_read(settings_of(args, console)) as ledger:
        if args.out is None:
            with stdout.stream() as stream:
                history.export(ledger, stream, form)
            return 0
        try:
            with args.out.open("x", encoding="utf-8", newline="") as stream:
                count = history.export(ledger, stream, form)
        except OSError as error:
            raise UsageError(
                f"cannot write {args.out}: {error.strerror}", hint="name a new file by --out"
            ) from None
    console.say(f"DONE: {count} rows in {args.out}")
    return 0


def add_resolve_flags(resolve: argparse.ArgumentParser) -> None:
    options.general(resolve)
    options.verdict(resolve)
    options.database(resolve)


def resolve(args: argparse.Namespace, console: Console) -> int:
    from ...ledger.resolve import resolve as record_verdict
    from ...operations.parts import the_ledger

    settings = settings_of(args, console)
    serials = [parse_serial(each, settings.serial.pattern) for each in args.serials]
    with the_ledger(settings) as ledger:
        receipts = {
            each: record_verdict(ledger, each, args.verdict, args.reason, sandbox=args.sandbox)
            for each in serials
        }
    return resolved(receipts, args, console)


def _ledger_to_read(settings: Settings) -> Ledger:
    from ...operations.parts import ledger_to_read

    return ledger_to_read(settings)


LIST = Command(
    name="ledger list",
    summary="one line for each attempt",
    usage="[options]",
    about="Prints one line for each attempt, oldest first.",
    examples=("ledger list --serial AZJN-0042",),
    add_flags=add_list_flags,
    run=list_attempts,
)
SHOW = Command(
    name="ledger show",
    summary="everything about one device",
    usage="SERIAL [options]",
    about="Prints every row of one device, and every field of the last one.",
    examples=("ledger show AZJN-0042",),
    add_flags=add_show_flags,
    run=show,
)
VERIFY = Command(
    name="ledger verify",
    summary="check the hash chain for tampering",
    usage="[--anchor ROW:HASH]... [options]",
    about="Checks the hash chain through every row, and names rows that were edited, removed,"
    " inserted or moved. --anchor compares a row with a hash that was kept elsewhere. Exits with 9"
    " if the chain is broken.",
    examples=("ledger verify",),
    add_flags=add_verify_flags,
    run=verify,
)
EXPORT = Command(
    name="ledger export",
    summary="every row, as CSV or as a JSON array",
    usage="[options]",
    about="Writes every row as a JSON array or as CSV, for a backup or a spreadsheet.",
    examples=("ledger export --csv --out ledger.csv",),
    add_flags=add_export_flags,
    run=export,
)
RESOLVE = Command(
    name="ledger resolve",
    summary="record how an attempt ended, or that a device is retired",
    usage="SERIAL... {done,failed,retired,fused,unfused} --reason REASON [options]",
    about="Records what an operator knows about a device: that an unfinished attempt succeeded or"
    " failed; that the device is out of use, which frees its account; or the state of its fuses, if"
    " nobody saw the fuse command end.",
    examples=('ledger resolve AZJN-0042 retired --reason "scrapped: water in the housing"',),
    add_flags=add_resolve_flags,
    run=resolve,
)
COMMAND = Command(
    name="ledger",
    summary="the record of every attempt: list, show, verify, export, resolve",
    usage="COMMAND ...",
    about="Reads the ledger: which identity went into which device, when, by whom, and from which"
    " image. It holds fingerprints of the passwords, never a password.",
    examples=("ledger list",),
    verbs=(LIST, SHOW, VERIFY, EXPORT, RESOLVE),
)
