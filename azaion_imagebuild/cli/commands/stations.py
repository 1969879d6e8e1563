"""The common queue and its stations: submit, and the verbs of station."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from msgspec import structs

from ...errors import UsageError
from ...identity.serial import parse_serial
from .. import stdout
from .common import folder_of_images, resolved, settings_of

if TYPE_CHECKING:
    from ...ledger import Ledger
    from ..console import Console


def submit(args: argparse.Namespace, console: Console) -> int:
    from ...stations.submit import Order, submit

    order = Order(source=args.serials, station=args.only, sandbox=args.sandbox, again=args.again)
    submission = submit(order, settings_of(args, console))
    console.submitted(submission)
    if args.json:
        stdout.print_json(submission.as_json(), console)
    return int(submission.exit_code)


def station_run(args: argparse.Namespace, console: Console) -> int:
    from ...stations.station import Duty, run_station

    settings = settings_of(args, console)
    if args.lanes < 1:
        raise UsageError("--lanes is less than 1", hint="leave it out for 4")
    duty = Duty(
        lanes=args.lanes,
        out=folder_of_images(args, settings),
        base=args.image.absolute() if args.image else None,
        ports=tuple(args.lane),
    )
    with stdout.reserved():
        told = run_station(duty, settings, console, console.station())
    counts = ", ".join(f"{told[name]} {name.replace('_', ' ')}"
                       for name in ("done", "failed", "unknown", "given_back"))  # fmt: skip
    console.say(f"station {told['station']} has {told['outcome']}: {counts}")
    if args.json:
        stdout.print_json(told, console)
    return int(told["exit_code"])


def station_status(args: argparse.Namespace, console: Console) -> int:
    from ...stations.status import lines_of, look

    with _shared_ledger(args, console) as ledger:
        board = look(ledger)
    if args.json:
        stdout.print_json(board, console)
        return 0
    for line in lines_of(board):
        stdout.print_line(line, console)
    return 0


def station_resolve(args: argparse.Namespace, console: Console) -> int:
    from ...stations.resolve import resolve

    serial = parse_serial(args.serial, settings_of(args, console).serial.pattern)
    with _shared_ledger(args, console) as ledger:
        receipt = resolve(ledger, serial, args.verdict, args.reason, sandbox=args.sandbox)
    return resolved(serial, receipt, args, console)


def station_reassign(args: argparse.Namespace, console: Console) -> int:
    from ...stations.takeover import reassign

    if (args.name is None) != args.dead:
        raise UsageError("name one station, or say --dead", hint="station status lists them")
    with _shared_ledger(args, console) as ledger:
        taken, moved = reassign(ledger, args.name)
    for each in taken:
        console.say(f"{each.serial} of {each.station} is {each.outcome}: {each.reason}")
    console.say(f"DONE: {len(taken)} taken away, {len(moved)} that waited are in the common queue")
    if args.json:
        found = {"taken": [structs.asdict(each) for each in taken], "moved": moved}
        stdout.print_json({"outcome": "done", **found}, console)
    return 0


def _shared_ledger(args: argparse.Namespace, console: Console) -> Ledger:
    from ...stations.tables import shared_ledger

    return shared_ledger(settings_of(args, console))
