"""stamp: put a device's identity into a finished image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ExitCode, UsageError
from .. import options, stdout, summaries
from ..common import finish
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(stamp: argparse.ArgumentParser) -> None:
    options.general(stamp)
    stamp.add_argument(
        "image",
        metavar="IMAGE",
        type=Path,
        help="raw ext4, Android sparse, tar or tar.zst; an ext4.zst can be verified, not stamped",
    )
    options.serial(stamp)
    stamp.add_argument(
        "--device-conf",
        metavar="FILE",
        type=Path,
        help="stamp these credentials instead of provisioning new ones",
    )
    stamp.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="stamp a copy in this new file; keep IMAGE unchanged",
    )
    stamp.add_argument(
        "--clear", action="store_true", help="replace the identity with a placeholder"
    )
    stamp.add_argument(
        "--replace", action="store_true", help="also overwrite another device's identity"
    )
    options.api_url(stamp)
    options.owner(stamp)
    options.database(stamp)
    options.operator(stamp)
    options.confirmation(stamp, "build")
    options.disable(stamp)


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations import stamp as stamps

    settings, serial = settings_of(args, console), args.serial or ""
    if args.clear and (serial or args.out or args.device_conf or args.replace):
        raise UsageError("--clear takes only the image", hint="leave the other flags out")
    if not args.clear and args.device_conf is None:
        with stdout.reserved():
            built = stamps.stamp(
                args.image, serial, settings, console, out=args.out, replace=args.replace
            )
        return finish(built, args, console)
    if args.clear:
        record = stamps.clear(args.image, settings)
    else:
        record = stamps.stamp_given(
            args.image,
            serial,
            settings,
            args.device_conf,
            out=args.out,
            replace=args.replace,
        )
    summaries.image_stamped(record, console)
    if args.json:
        stdout.print_json(record.as_json(), console)
    return int(ExitCode.DONE)


COMMAND = Command(
    name="stamp",
    summary="put a device's identity into a finished image",
    usage="IMAGE (--serial SERIAL | --clear) [options]",
    about="Puts a device's identity into a finished image without mounting it, in place or into a"
    " copy, and reads it back. The account is created, or gets a new password. With --device-conf"
    " the credentials come from that file, and no account is touched.",
    examples=(
        "stamp base.img --serial AZJN-0042 --out AZJN-0042.img",
        "stamp AZJN-0042.img --clear",
    ),
    add_flags=add_flags,
    run=run,
)
