"""image: build, prove and flash one device's image."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import options, stdout
from ..common import finish
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(image: argparse.ArgumentParser) -> None:
    options.general(image)
    options.serial(image)
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

    with stdout.reserved():
        record = build_image(args.serial or "", settings_of(args, console), console)
    return finish(record, args, console)


COMMAND = Command(
    name="image",
    summary="build, prove and flash one device's image",
    usage="--serial SERIAL [options]",
    about="Builds, proves and flashes one device's image. If neither --bsp nor --api-url is set (by"
    " flag, variable or file), it runs in the sandbox, with an embedded admin API, BSP, device and"
    " Loader: nothing else is needed to try it. Repeating the command is safe; it gives the device"
    " a new password.",
    examples=(
        "image --serial AZJN-0042",
        "image --serial AZJN-0042 --bsp /srv/l4t/Linux_for_Tegra --api-url"
        " https://admin.internal.example.com",
    ),
    add_flags=add_flags,
    run=run,
)
