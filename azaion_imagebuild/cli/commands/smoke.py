"""smoke: log in at a device's Loader with the device's own credentials."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...pipeline import events
from .. import options, stdout, summaries
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(smoke: argparse.ArgumentParser) -> None:
    options.general(smoke)
    smoke.add_argument(
        "--loader-url", metavar="URL", help="base URL of the Loader; {serial} is filled in"
    )
    source = smoke.add_mutually_exclusive_group(required=True)
    source.add_argument("--rootfs-dir", metavar="DIR", help="read the credentials from this rootfs")
    source.add_argument(
        "--image",
        metavar="FILE",
        type=Path,
        help="or from this image: raw ext4, Android sparse, tar, tar.zst or ext4.zst",
    )
    source.add_argument("--device-conf", metavar="FILE", type=Path, help="or from this device.conf")
    options.serial(smoke)
    smoke.add_argument(
        "--wait",
        metavar="SECONDS",
        default="0",
        help="wait this long for the device to boot; default: 0",
    )
    smoke.add_argument(
        "--ca-file", metavar="FILE", help="certificate to trust, e.g. the device's own"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations.smoke import smoke
    from ...proof import readback

    settings = settings_of(args, console)
    if args.device_conf is not None:
        found = readback.of_device_conf(args.device_conf)
    elif args.image is not None:
        found = readback.of_image(args.image)
    else:
        found = readback.of_rootfs(Path(args.rootfs_dir))
    console(events.started("smoke"))
    try:
        report = smoke(found, args.serial, settings)
    finally:
        console.stopped()
    summaries.smoke_tested(report, console)
    if args.json:
        stdout.print_json(report.as_json(), console)
    return report.exit_code


COMMAND = Command(
    name="smoke",
    summary="log in at a device's Loader with its own credentials",
    usage="--loader-url URL (--image FILE | --rootfs-dir DIR | --device-conf FILE) [options]",
    about="Checks the health of a booted device's Loader, then logs in with the device's own"
    " credentials, read from an image, a rootfs or a device.conf. If that fails, it reports why and"
    " exits with 8.",
    examples=(
        "smoke --loader-url http://azjn-0042.local:8080 --image AZJN-0042.img --serial"
        " AZJN-0042 --wait 300",
    ),
    add_flags=add_flags,
    run=run,
)
