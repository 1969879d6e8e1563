"""What several commands do alike: settings out of flags, and how they end."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ...config.loading import load
from ...errors import UsageError
from ...settings import ENV_PREFIX
from .. import stdout
from ..grammar import FLAGS

if TYPE_CHECKING:
    from ...model import BuildRecord, Receipt
    from ...settings import Settings
    from ..console import Console


_PASSWORD = re.compile(r"://[^/@]*:[^@]+@|[?&](ssl)?password=")
"""In a database's URL."""


def settings_of(args: argparse.Namespace, console: Console) -> Settings:
    """Return the settings: of the flags that were given, the environment and the file.

    From now on the console speaks as they say.
    """
    flags = {
        place: value
        for flag, place in FLAGS.items()
        if (value := getattr(args, flag, None)) is not None
    }
    if _PASSWORD.search(getattr(args, "database", None) or ""):
        raise UsageError(
            "a password on the command line can be seen by every user of this host",
            hint="write it into ~/.pgpass, or the URL into the configuration ([ledger] database)",
        )
    config = args.config if args.config is not None else os.environ.get(ENV_PREFIX + "CONFIG")
    if config == "":
        raise UsageError("--config (CONFIG=) is empty", hint="name a file, or leave it out")
    settings = load(flags, os.environ, Path(config) if config else None)
    console.speak(is_json=settings.log.format == "json")
    return settings


def finish(record: BuildRecord, args: argparse.Namespace, console: Console) -> int:
    """Show and print the record of a build; return its exit code."""
    console.summary(record)
    if args.json:
        stdout.print_json(record.as_json(), console)
    return record.exit_code


def folder_of_images(args: argparse.Namespace, settings: Settings) -> Path | None:
    """Return where the images go; None: devices are flashed."""
    from ...fleet.fleet import default_out

    if args.out is None and settings.build.flash:
        return None
    out: Path = args.out or default_out(settings)
    return out.absolute()


def resolved(serial: str, receipt: Receipt, args: argparse.Namespace, console: Console) -> int:
    """Say that an operator's verdict is in the ledger."""
    if args.json:
        record = {"serial": serial, "outcome": args.verdict, "ledger": receipt.as_json()}
        stdout.print_json(record, console)
    console.say(f"DONE: {serial} is {args.verdict} (row {receipt.row})")
    return 0
