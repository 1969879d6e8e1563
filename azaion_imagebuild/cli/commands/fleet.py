"""fleet: provision a list of devices."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from .. import options, stdin, stdout, summaries
from ..common import folder_of_images
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ...fleet.order import Order
    from ...fleet.plan import Plan
    from ...settings import Settings
    from ..console import Console


def add_flags(fleet: argparse.ArgumentParser) -> None:
    options.general(fleet)
    options.serials(fleet)
    options.dry_run(fleet, "--plan", about="only show what would be done")
    options.lanes(fleet, jobs=8)
    options.flash(fleet)
    options.rebuild(fleet, "rebuild the base, even if it is up to date")
    fleet.add_argument("--again", action="store_true", help="redo devices that are already done")
    fleet.add_argument(
        "--fail-fast", action="store_true", help="start no more devices after a failure"
    )
    fleet.add_argument(
        "--max-failures", metavar="N", type=int, help="start no more devices after N failures"
    )
    fleet.add_argument(
        "--report",
        metavar="DIR",
        type=Path,
        help="folder for report.html, .csv and .json; default: a new one in --state-dir",
    )
    options.bell(fleet)
    options.site(fleet)
    options.bsp(fleet)
    options.fuse(fleet, argparse.SUPPRESS)  # make passes it on, to be refused with its reason
    options.owner(fleet)
    options.database(fleet)
    options.operator(fleet)
    options.confirmation(fleet, "build")


def run(args: argparse.Namespace, console: Console) -> int:
    from ...fleet.fleet import plan_fleet, run_fleet

    settings = settings_of(args, console)
    order = _order(args, settings)
    if args.plan:
        plan = plan_fleet(order, settings)
        if args.json:
            stdout.print_json(plan.as_json(), console)
        _show(plan, console)
        return plan.exit_code
    console.has_bell = not args.no_bell
    with stdout.reserved(), stdin.typed(console, wanted=order.scans) as typed:
        fleet = run_fleet(order, settings, console.fleet(scans=order.scans), typed)
    summaries.fleet_ended(fleet, order.out, console)
    if args.json:
        stdout.print_json(fleet, console)
    return int(fleet["exit_code"])


def _show(plan: Plan, console: Console) -> None:
    summaries.say_all([*plan.serial_lines(), plan.headline(), *plan.details()], console)
    problems = [*plan.errors(), *((error.message, error.hint) for _, error in plan.refused)]
    for message, hint in problems:
        summaries.say_all([f"error: {message}", f"hint: {hint}"], console)


def _order(args: argparse.Namespace, settings: Settings) -> Order:
    from ...fleet.order import Order
    from ...identity.serial_list import STDIN

    options.check_jobs(args)
    out = folder_of_images(args, settings)
    if out is None and args.image is not None:
        raise UsageError(
            "--image is stamped into copies, not flashed",
            hint="add --out DIR (or FLASH=0); to flash, leave --image out: the BSP's base is used",
        )
    return Order(
        sources=tuple(args.serials),
        scans=args.serials == [STDIN] and not args.plan and stdin.is_live(),
        attended=stdin.is_terminal(),
        jobs=args.jobs,
        out=out,
        base=args.image.absolute() if args.image else None,
        lanes=tuple(args.lane),
        again=args.again,
        max_failures=1 if args.fail_fast else args.max_failures,
        report=args.report.absolute() if args.report else None,
    )


COMMAND = Command(
    name="fleet",
    summary="provision a list of devices",
    usage="SERIALS... [options]",
    about="Provisions a list of devices: flashes each, or with --out writes an image for each. A"
    " failed device does not stop the others; run the same command again to do the rest. Press"
    " Ctrl-C once to finish the devices in progress, twice to stop at once.",
    examples=(
        "fleet AZJN-0001..AZJN-1000 --plan",
        "fleet list.csv --out images",
        "fleet AZJN-0042 AZJN-0043",
    ),
    add_flags=add_flags,
    run=run,
)
