"""Devices that were made: verify, smoke, rotate."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ExitCode, UsageError
from ...identity.serial import parse_serial
from .. import stdout
from .common import finish, settings_of

if TYPE_CHECKING:
    from ...pipeline.target import Target
    from ...settings import Settings
    from ..console import Console


def verify(args: argparse.Namespace, console: Console) -> int:
    from ...operations.verify import verify

    settings = settings_of(args, console)
    serial = parse_serial(args.serial or "", settings.serial.pattern)
    report = verify(args.target, serial, settings.device_conf)
    if args.json:
        stdout.print_json(report.as_json(), console)
    console.verified(report)
    return int(ExitCode.VERIFICATION if report.findings else ExitCode.DONE)


def smoke(args: argparse.Namespace, console: Console) -> int:
    from ...operations.smoke import smoke
    from ...proof import readback as credentials

    settings = settings_of(args, console)
    if args.device_conf is not None:
        found = credentials.of_device_conf(args.device_conf)
    elif args.image is not None:
        found = credentials.of_image(args.image)
    else:
        found = credentials.of_rootfs(Path(args.rootfs_dir))
    console.started("smoke")
    try:
        report = smoke(found, args.serial, settings)
    finally:
        console.stopped()
    console.tested(report)
    if args.json:
        stdout.print_json(report.as_json(), console)
    return report.exit_code


def rotate(args: argparse.Namespace, console: Console) -> int:
    from ...operations import rotate as rotation
    from ...operations.targets import ConfFile, ImageFile, RootfsFolder

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
    from ...operations import rotate as rotation

    age = rotation.parse_age(args.all_older_than)
    if targets or (args.out is None and not args.plan):
        raise UsageError(
            "the new files of --all-older-than go into a folder",
            hint="give --out DIR, and no --rootfs-dir, --image or --device-conf",
        )
    if args.plan:
        result = rotation.plan_all(age, settings)
        console.rotation_planned(result)
    else:
        with stdout.reserved():
            result = rotation.rotate_all(
                age, args.out.absolute(), settings, console.warned, console.rotated
            )
        console.rotation_ended(result)
    if args.json:
        stdout.print_json(result, console)
    return int(result["exit_code"])
