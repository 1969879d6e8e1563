"""verify: check device.conf in a rootfs or an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ExitCode
from ...identity.serial import parse_serial
from .. import options, stdout, summaries
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(verify: argparse.ArgumentParser) -> None:
    options.general(verify)
    verify.add_argument(
        "target",
        metavar="TARGET",
        type=Path,
        help="rootfs folder, or an image: raw ext4, Android sparse, tar, tar.zst or ext4.zst",
    )
    options.serial(verify)
    options.owner(verify)


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations.verify import verify

    settings = settings_of(args, console)
    serial = args.serial
    if serial is not None:
        serial = parse_serial(serial, settings.serial.pattern)
    report = verify(args.target, serial, settings.device_conf)
    if args.json:
        stdout.print_json(report.as_json(), console)
    summaries.target_verified(report, console)
    return int(ExitCode.VERIFICATION if report.findings else ExitCode.DONE)


COMMAND = Command(
    name="verify",
    summary="check device.conf in a rootfs or an image",
    usage="TARGET [--serial SERIAL] [options]",
    about="Reads device.conf from a rootfs folder or a finished image, without mounting it, and"
    " reports every difference from what this device must carry. Exits with 8 if there is one."
    " Without --serial it says which device's identity was found.",
    examples=("verify AZJN-0042.img --serial AZJN-0042", "verify AZJN-0042.img"),
    add_flags=add_flags,
    run=run,
)
