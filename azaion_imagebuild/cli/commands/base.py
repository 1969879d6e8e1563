"""base: build an image with a placeholder, ready to be stamped."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .. import options, stdout
from ..common import finish
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(base: argparse.ArgumentParser) -> None:
    options.general(base)
    base.add_argument("--out", metavar="FILE", type=Path, help="copy the image to this new file")
    options.site(base)
    options.bsp(base)
    options.owner(base)


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations.image import build_base

    with stdout.reserved():
        record = build_base(settings_of(args, console), console, args.out)
    return finish(record, args, console)


COMMAND = Command(
    name="base",
    summary="build an image with a placeholder, ready to be stamped",
    usage="[options]",
    about="Builds an image whose device.conf is a placeholder that no Loader can log in with. The"
    " commands stamp and fleet put identities into it. No account is touched, and nothing is"
    " flashed.",
    examples=("base --out base.img",),
    add_flags=add_flags,
    run=run,
)
