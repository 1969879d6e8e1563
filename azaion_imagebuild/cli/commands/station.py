"""station: provision devices from the common queue; look after the stations."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from msgspec import structs

from ...errors import UsageError
from ...identity.serial import parse_serial
from .. import options, stdin, stdout, summaries
from ..common import folder_of_images, resolved
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ...ledger import Ledger
    from ..console import Console


def add_run_flags(run: argparse.ArgumentParser) -> None:
    options.general(run)
    run.add_argument("--name", metavar="NAME", dest="station", help="name of this station, e.g. S1")
    options.lanes(run, jobs=4)
    options.flash(run)
    options.rebuild(run, "rebuild the base, even if it is up to date")
    options.bell(run)
    options.operator(run)
    options.site(run)
    options.bsp(run)
    options.owner(run)
    options.database(run)


def run(args: argparse.Namespace, console: Console) -> int:
    from ...stations.station import Duty, run_station

    settings = settings_of(args, console)
    options.check_jobs(args)
    duty = Duty(
        lanes=args.jobs,
        out=folder_of_images(args, settings),
        base=args.image.absolute() if args.image else None,
        ports=tuple(args.lane),
        scans=stdin.is_live(),
        attended=stdin.is_terminal(),
    )
    console.has_bell = not args.no_bell
    with stdout.reserved(), stdin.typed(console, wanted=duty.scans) as typed:
        told = run_station(duty, settings, console.station(scans=duty.scans), typed)
    summaries.station_ended(told, console)
    if args.json:
        stdout.print_json(told, console)
    return int(told["exit_code"])


def add_status_flags(status: argparse.ArgumentParser) -> None:
    options.general(status)
    options.database(status)


def status(args: argparse.Namespace, console: Console) -> int:
    from ...stations.status import lines_of, read_status

    with _shared_ledger(args, console) as ledger:
        found = read_status(ledger)
    if args.json:
        stdout.print_json(found, console)
        return 0
    for line in lines_of(found):
        stdout.print_line(line, console)
    return 0


def add_resolve_flags(resolve: argparse.ArgumentParser) -> None:
    options.general(resolve)
    options.verdict(resolve)
    options.database(resolve)


def resolve(args: argparse.Namespace, console: Console) -> int:
    from ...stations.resolve import resolve

    pattern = settings_of(args, console).serial.pattern
    serials = [parse_serial(each, pattern) for each in args.serials]
    with _shared_ledger(args, console) as ledger:
        receipts = {
            each: resolve(ledger, each, args.verdict, args.reason, sandbox=args.sandbox)
            for each in serials
        }
    return resolved(receipts, args, console)


def add_reassign_flags(reassign: argparse.ArgumentParser) -> None:
    options.general(reassign)
    reassign.add_argument("name", metavar="NAME", nargs="?", help="name of the station")
    reassign.add_argument("--dead", action="store_true", help="every dead station")
    options.database(reassign)


def reassign(args: argparse.Namespace, console: Console) -> int:
    from ...stations.takeover import reassign

    if (args.name is None) != args.dead:
        raise UsageError(
            "give either the name of a station or --dead", hint="station status lists them"
        )
    with _shared_ledger(args, console) as ledger:
        taken, moved = reassign(ledger, args.name)
    for each in taken:
        console.say(f"{each.serial} of {each.station} is {each.outcome}: {each.reason}")
    console.say(f"DONE: {len(taken)} taken over, {len(moved)} moved to the common queue")
    if args.json:
        found = {"taken": [structs.asdict(each) for each in taken], "moved": moved}
        stdout.print_json({"outcome": "done", **found}, console)
    return 0


def _shared_ledger(args: argparse.Namespace, console: Console) -> Ledger:
    from ...stations.tables import shared_ledger

    return shared_ledger(settings_of(args, console))


RUN = Command(
    name="station run",
    summary="provision devices until Ctrl-C or SIGTERM",
    usage="--name NAME --database URL [options]",
    about="Takes devices from the queue and provisions them as fleet does. Press Ctrl-C once to"
    " finish the devices in progress and return the others to the queue, twice to stop at once.",
    examples=("station run --name S1 --jobs 4 --out images",),
    add_flags=add_run_flags,
    run=run,
)
STATUS = Command(
    name="station status",
    summary="show stations, lanes, queues and orphans",
    usage="--database URL [options]",
    about="Shows each station and its last heartbeat, the lanes, the queues, and the devices whose"
    " station is dead.",
    examples=("station status",),
    add_flags=add_status_flags,
    run=status,
)
RESOLVE = Command(
    name="station resolve",
    summary="record the outcome of a device",
    usage="SERIAL... {done,failed,retired,fused,unfused} --reason REASON [options]",
    about="Records the outcome of a device whose station died while flashing it. Such a device is"
    " never repeated automatically.",
    examples=('station resolve AZJN-0042 failed --reason "checked: no image"',),
    add_flags=add_resolve_flags,
    run=resolve,
)
REASSIGN = Command(
    name="station reassign",
    summary="give a station's devices to the others",
    usage="(NAME | --dead) [options]",
    about="Gives the devices of a dead station to the others. If that station comes back, it can"
    " no longer finish them.",
    examples=("station reassign S1", "station reassign --dead"),
    add_flags=add_reassign_flags,
    run=reassign,
)
COMMAND = Command(
    name="station",
    summary="provision devices from the common queue: run, status, resolve, reassign",
    usage="[COMMAND] ...",
    about="Provisions devices from the common queue. COMMAND may be left out before an option:"
    " station --name S1 means station run --name S1.",
    examples=("station status",),
    verbs=(RUN, STATUS, RESOLVE, REASSIGN),
    default_verb="run",
)
