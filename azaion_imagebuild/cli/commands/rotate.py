"""rotate: give a device's account a new password."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from .. import options, stdout, summaries
from ..common import finish
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ...pipeline.target import Target
    from ...settings import Settings
    from ..console import Console


def add_flags(rotate: argparse.ArgumentParser) -> None:
    options.general(rotate)
    which = rotate.add_mutually_exclusive_group(required=True)
    options.serial(which)
    which.add_argument(
        "--all-older-than",
        metavar="AGE",
        help="every device in the ledger whose credential is older: 90d, 12h, 4w",
    )
    rotate.add_argument(
        "--rootfs-dir", metavar="DIR", type=options.path, help="write it into this root filesystem"
    )
    rotate.add_argument("--image", metavar="FILE", type=options.path, help="and/or into this image")
    rotate.add_argument(
        "--device-conf",
        metavar="FILE",
        type=options.path,
        help="and/or to this file (mode 0600)",
    )
    rotate.add_argument(
        "--out",
        metavar="DIR",
        type=options.path,
        help="with --all-older-than: folder for the files SERIAL.conf",
    )
    rotate.add_argument(
        "--plan",
        action="store_true",
        help="with --all-older-than: only list the devices",
    )
    options.api_url(rotate)
    options.owner(rotate)
    options.database(rotate)
    options.operator(rotate)
    options.disable(rotate)


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations import rotate as rotation
    from ...operations.file_target import ConfFile
    from ...operations.image_target import ImageFile
    from ...operations.rootfs_target import RootfsFolder

    settings = settings_of(args, console)
    places: list[tuple[Callable[..., Target], Path | None]] = [
        (RootfsFolder, args.rootfs_dir), (ImageFile, args.image), (ConfFile, args.device_conf),
    ]  # fmt: skip
    targets = [kind(path=path.absolute()) for kind, path in places if path is not None]
    if args.all_older_than is not None:
        return _rotate_all(args, settings, targets, console)
    if args.plan or args.out is not None:
        raise UsageError("--plan and --out go with --all-older-than", hint="leave them out")
    with stdout.reserved():
        record = rotation.rotate(args.serial, targets, settings, console)
    return finish(record, args, console)


def _rotate_all(
    args: argparse.Namespace, settings: Settings, targets: Sequence[object], console: Console
) -> int:
    from ...operations import rotate_all as rotation

    age = rotation.parse_age(args.all_older_than)
    if targets or (args.out is None and not args.plan):
        raise UsageError(
            "--all-older-than writes its new files into a folder",
            hint="give --out DIR, and no --rootfs-dir, --image or --device-conf",
        )
    if args.plan:
        result = rotation.plan_all(age, settings)
        summaries.rotation_planned(result, console)
    else:
        with stdout.reserved():
            told = partial(summaries.device_rotated, console)
            result = rotation.rotate_all(age, args.out.absolute(), settings, console, told)
        summaries.rotation_ended(result, console)
    if args.json:
        stdout.print_json(result, console)
    return int(result["exit_code"])


COMMAND = Command(
    name="rotate",
    summary="give a device's account a new password",
    usage="(--serial SERIAL | --all-older-than AGE) [options]",
    about="Gives a device's account a new password at the admin API, and writes it into a rootfs,"
    " into a finished image or to a device.conf. Name at least one of them: a password that is"
    " written nowhere would lock the device out. --all-older-than rotates the password of every"
    " such device in the ledger, and writes the files to --out.",
    examples=(
        "rotate --serial AZJN-0042 --device-conf AZJN-0042.conf",
        "rotate --all-older-than 90d --out new-credentials",
    ),
    add_flags=add_flags,
    run=run,
)
