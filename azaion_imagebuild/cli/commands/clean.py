"""clean: remove the images that FLASH=0 left in a BSP."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import options, stdout
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(clean: argparse.ArgumentParser) -> None:
    options.general(clean)
    clean.add_argument("--bsp", metavar="DIR", help="the Linux_for_Tegra folder")


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations.clean import clean_bsp

    settings = settings_of(args, console)
    removed = clean_bsp(settings)
    for name in removed:
        console.say(f"  removed {name}")
    console.say(f"DONE: no image and no credential is left in {settings.bsp.dir}")
    if args.json:
        stdout.print_json({"outcome": "done", "removed": removed}, console)
    return 0


COMMAND = Command(
    name="clean",
    summary="remove the images that FLASH=0 left in a BSP",
    usage="--bsp DIR [options]",
    about="Removes every image, backup and package from a BSP, then searches all of its files for"
    " a device's credential. Run it when your own flash procedure has written the image. It waits"
    " for a build that is running there.",
    examples=("clean --bsp /srv/l4t/Linux_for_Tegra",),
    add_flags=add_flags,
    run=run,
)
