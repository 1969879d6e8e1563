"""image: build, prove and flash one device's image."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import options, stdout, summaries
from ..common import finish
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ...settings import Settings
    from ..console import Console


def add_flags(image: argparse.ArgumentParser) -> None:
    options.general(image)
    options.serial(image, alone=True)
    options.dry_run(
        image, about="check everything and show what would happen; touch no account, write nothing"
    )
    options.flash(image)
    options.usb_instance(image)
    options.keep_image(image)
    options.inject(image)
    options.rebuild(image, "with --inject stamp: rebuild the base")
    options.site(image)
    options.bsp(image)
    options.owner(image)
    options.fuse(
        image, "first run the site's [fuse] command, once per serial: this cannot be undone"
    )
    options.database(image)
    options.operator(image)
    options.confirmation(image, "build")


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations.image import build_image

    serial, settings = options.serial_of(args), settings_of(args, console)
    if args.plan:
        return _plan(serial, settings, args, console)
    with stdout.reserved():
        record = build_image(serial, settings, console)
    return finish(record, args, console)


def _plan(serial: str, settings: Settings, args: argparse.Namespace, console: Console) -> int:
    from ...operations.dry_run import plan_image

    with stdout.reserved():
        plan = plan_image(serial, settings)
    if args.json:
        stdout.print_json(plan.as_json(), console)
    summaries.image_planned(plan, console)
    return plan.exit_code


COMMAND = Command(
    name="image",
    summary="build, prove and flash one device's image",
    usage="SERIAL [options]",
    about="Builds, proves and flashes one device's image. If neither --bsp nor --api-url is set (by"
    " flag, variable or file), it runs in the sandbox, with an embedded admin API, BSP, device and"
    " Loader: nothing else is needed to try it. Repeating the command is safe: it gives the device"
    " a new password.",
    examples=(
        "image AZJN-0042",
        "image AZJN-0042 --no-flash",
        "image --serial AZJN-0042 --bsp /srv/l4t/Linux_for_Tegra --api-url"
        " https://admin.internal.example.com",
    ),
    add_flags=add_flags,
    run=run,
)
