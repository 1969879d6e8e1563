"""provision: create the account and write device.conf (the runbook's step 4)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import options, stdout
from ..common import finish
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(provision: argparse.ArgumentParser) -> None:
    options.general(provision)
    options.serial(provision, alone=True)
    options.site(provision)
    options.owner(provision)


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations.image import provision

    with stdout.reserved():
        record = provision(options.serial_of(args), settings_of(args, console), console)
    return finish(record, args, console)


COMMAND = Command(
    name="provision",
    summary="create the account and write device.conf (runbook, step 4)",
    usage="SERIAL --api-url URL --rootfs-dir DIR [options]",
    about="Creates the account, or gives it a new password, and writes device.conf into a rootfs,"
    " where it stays (the runbook's step 4).",
    examples=(
        "provision --serial AZJN-0042 --api-url https://admin.internal.example.com --rootfs-dir"
        " /srv/images/orin-nano/rootfs-staging",
    ),
    add_flags=add_flags,
    run=run,
)
