"""help: show the help of a command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import stdout
from ..parser import Command, check_first, parser, walk

if TYPE_CHECKING:
    from ..console import Console


def add_flags(help_: argparse.ArgumentParser) -> None:
    help_.add_argument(
        "words", metavar="COMMAND", nargs="*", help="a command; default: list them all"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    check_first(args.words)
    whole = parser()
    found = dict(walk(whole)).get(" ".join(args.words), whole)
    for line in found.format_help().splitlines():
        stdout.print_line(line, console)
    return 0


COMMAND = Command(
    name="help",
    summary="show the help of a command",
    usage="[COMMAND]",
    about="Shows the help of a command, as COMMAND --help does, or lists all commands.",
    examples=("help image", "help ledger list"),
    add_flags=add_flags,
    run=run,
)
