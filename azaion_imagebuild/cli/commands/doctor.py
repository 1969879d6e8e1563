"""doctor: check that host, BSP and API are ready."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from msgspec import structs

from ...errors import ExitCode
from .. import options, stdout, summaries
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(doctor: argparse.ArgumentParser) -> None:
    options.general(doctor)
    doctor.add_argument(
        "--api",
        action="store_true",
        help="also test the admin API, with requests that it can only refuse",
    )
    options.flash(doctor, "0: check only what a build without flashing needs")
    options.usb_instance(doctor)
    options.inject(doctor)
    options.site(doctor)
    options.bsp(doctor)
    options.owner(doctor)


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations.doctor import examine, parts_in_words

    settings = settings_of(args, console)
    with stdout.reserved():
        findings = examine(settings, api=args.api)
    errors = [finding for finding in findings if finding.severity == "error"]
    if args.json:
        stdout.print_json(
            {
                "outcome": "failed" if errors else "done",
                "findings": [structs.asdict(finding) for finding in findings],
                "exit_code": int(ExitCode.PREFLIGHT if errors else ExitCode.DONE),
            },
            console,
        )
    summaries.host_examined(findings, parts_in_words(settings), console)
    return int(ExitCode.PREFLIGHT if errors else ExitCode.DONE)


COMMAND = Command(
    name="doctor",
    summary="check that host, BSP and API are ready",
    usage="[options]",
    about="Checks that this host, the BSP, the rootfs, the device in recovery mode and the admin"
    " API are ready for image, and says how to fix what is not. Changes nothing. With --api it also"
    " tests the admin API.",
    examples=("doctor", "doctor --api"),
    add_flags=add_flags,
    run=run,
)
