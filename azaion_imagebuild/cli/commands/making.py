"""Making devices: one image, a base, a stamp, an account with its file, a fleet."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, TextIO

from ...errors import ExitCode, UsageError
from .. import stdout
from .common import finish, folder_of_images, settings_of

if TYPE_CHECKING:
    from ...fleet.fleet import Order
    from ...settings import Settings
    from ..console import Console


def image(args: argparse.Namespace, console: Console) -> int:
    from ...operations.image import build_image

    with stdout.reserved():
        record = build_image(args.serial or "", settings_of(args, console), console)
    return finish(record, args, console)


def provision(args: argparse.Namespace, console: Console) -> int:
    from ...operations.image import provision

    with stdout.reserved():
        record = provision(args.serial or "", settings_of(args, console), console)
    return finish(record, args, console)


def base(args: argparse.Namespace, console: Console) -> int:
    from ...operations.image import build_base

    with stdout.reserved():
        record = build_base(settings_of(args, console), console, args.out)
    return finish(record, args, console)


def stamp(args: argparse.Namespace, console: Console) -> int:
    from ...operations import stamp as stamps

    settings, serial = settings_of(args, console), args.serial or ""
    if args.clear and (serial or args.out or args.device_conf):
        raise UsageError("--clear takes the image only", hint="leave the other flags out")
    if not args.clear and args.device_conf is None:
        with stdout.reserved():
            built = stamps.stamp(args.image, serial, settings, console, out=args.out)
        return finish(built, args, console)
    if args.clear:
        record = stamps.clear(args.image, settings)
    else:
        given, out = args.device_conf, args.out
        record = stamps.stamp_given(args.image, serial, settings, given, out=out)
    console.stamped(record)
    if args.json:
        stdout.print_json(record.as_json(), console)
    return int(ExitCode.DONE)


def fleet(args: argparse.Namespace, console: Console) -> int:
    from ...fleet.fleet import plan_fleet, run_fleet

    settings = settings_of(args, console)
    order = _order(args, settings)
    if args.plan:
        plan = plan_fleet(order, settings)
        if args.json:
            stdout.print_json(plan.as_json(), console)
        console.planned(plan)
        return plan.exit_code
    with stdout.reserved():
        fleet = run_fleet(order, settings, console, console.fleet(scans=order.scans))
    console.fleet_ended(fleet)
    if args.json:
        stdout.print_json(fleet, console)
    return int(fleet["exit_code"])


def _order(args: argparse.Namespace, settings: Settings) -> Order:
    from ...fleet.fleet import Order
    from ...identity.serial_list import STDIN

    if args.jobs < 1:
        raise UsageError("--jobs is less than 1", hint="leave it out for 8")
    out = folder_of_images(args, settings)
    if out is None and args.image is not None:
        raise UsageError(
            "--image is stamped into copies, not flashed",
            hint="add --out DIR (or FLASH=0); to flash, leave --image out: the BSP's base is used",
        )
    return Order(
        source=args.serials,
        scans=args.serials == STDIN and _is_terminal(sys.stdin) and not args.plan,
        jobs=args.jobs,
        out=out,
        base=args.image.absolute() if args.image else None,
        lanes=tuple(args.lane),
        again=args.again,
        max_failures=1 if args.fail_fast else args.max_failures,
        report=args.report.absolute() if args.report else None,
    )


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()
