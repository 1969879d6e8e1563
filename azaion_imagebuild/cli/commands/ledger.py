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
    options.serial(every, alone=True)
    every.add_argument("--failed", action="store_true", help="only attempts that failed")
    every.add_argument(
        "--unknown",
        action="store_true",
        help="only devices in an unknown state: an attempt died while flashing, and no later"
        " attempt flashed the device; check it, then use ledger resolve",
    )
    every.add_argument(
        "--since", metavar="WHEN", help="an age like 12h or 7d, or a local date: 2026-11-28"
    )
    every.add_argument("-n", "--last", metavar="N", type=int, help="only the newest N")
    options.database(every)


def list_attempts(args: argparse.Namespace, console: Console) -> int:
    from ...ledger import history

    settings, serial = settings_of(args, console), options.serial_of(args)
    if args.last is not None and args.last < 1:
        raise UsageError("-n is less than 1", hint="leave it out for all")
    wanted = history.Wanted(
        serial=parse_serial(serial, settings.serial.pattern) if serial else None,
        failed=args.failed,
        unknown=args.unknown,
        since=_since(args.since) if args.since is not None else None,
        last=args.last,
    )
    with _ledger_to_read(settings) as ledger:
        found = history.attempts(ledger, wanted)
    if args.json:
        stdout.print_json(found, console)
        return 0
    if not found:
        asked = wanted != history.Wanted()
        console.say("no attempt in the ledger is like that" if asked else "the ledger is empty")
    for line in [history.HEADER, *map(history.line_of, found)] if found else ():
        stdout.print_line(line, console)
    return 0


def _since(text: str) -> str:
    """Return the time that an age or a local date means, as the ledger writes it."""
    from datetime import datetime, timezone

    from ...operations.rotate_all import parse_age
    from ...text import utc

    try:
        when = datetime.fromisoformat(text).astimezone()
    except ValueError:
        when = datetime.now(timezone.utc) - parse_age(text)
    return utc(when.timestamp(), "microseconds")


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
    usage="[SERIAL] [options]",
    about="Prints one line for each attempt, oldest first, with how it ended and whether a device"
    " was flashed. An attempt that died while flashing is shown as unknown.",
    examples=("ledger list AZJN-0042", "ledger list --failed --since 12h", "ledger list --unknown"),
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
    " inserted or moved. --anchor compares a row with a hash that you kept elsewhere. Exits with 9"
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
