"""What several commands share: the folder of images, and the end of a command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from . import stdout, summaries

if TYPE_CHECKING:
    from ..model import BuildRecord, Receipt
    from ..settings import Settings
    from .console import Console


def finish(record: BuildRecord, args: argparse.Namespace, console: Console) -> int:
    """Show and print the record of a build; return its exit code."""
    summaries.build_ended(record, console)
    if args.json:
        stdout.print_json(record.as_json(), console)
    return record.exit_code


def folder_of_images(args: argparse.Namespace, settings: Settings) -> Path | None:
    """Return the folder to write images to, or None if devices are flashed."""
    from ..fleet.order import default_out

    if args.out is None and settings.build.flash:
        return None
    out: Path = args.out or default_out(settings)
    return out.absolute()


def resolved(receipts: Mapping[str, Receipt], args: argparse.Namespace, console: Console) -> int:
    """Report that the ledger holds an operator's verdict on one or several devices."""
    records = [
        {"serial": serial, "outcome": args.verdict, "ledger": receipt.as_json()}
        for serial, receipt in receipts.items()
    ]
    if args.json:
        several = {"outcome": args.verdict, "resolved": records}
        stdout.print_json(records[0] if len(records) == 1 else several, console)
    for serial, receipt in receipts.items():
        console.say(f"DONE: {serial} is {args.verdict} (row {receipt.row})")
    return 0
