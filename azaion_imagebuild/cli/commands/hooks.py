"""hooks: list the steps of a build and the plug-ins that do them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import options, stdout
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(hooks: argparse.ArgumentParser) -> None:
    options.general(hooks)
    options.disable(hooks)


def run(args: argparse.Namespace, console: Console) -> int:
    from ...pipeline.hookspecs import EVERY_STEP
    from ...pipeline.plugins import implementers, load_plugins

    with stdout.reserved():
        manager = load_plugins(settings_of(args, console).hooks, required=())
    rows = [
        {"step": step, "plugin": plugin, "file": file}
        for step in EVERY_STEP
        for plugin, file in implementers(manager, step) or [("–", "–")]
    ]
    if args.json:
        stdout.print_json(rows, console)
        return 0
    titles = {"step": "STEP", "plugin": "PLUG-IN", "file": "FILE"}
    widths = [max(len(row[name]) for row in [titles, *rows]) for name in ("step", "plugin")]
    for row in [titles, *rows]:
        stdout.print_line(
            f"{row['step']:{widths[0]}}  {row['plugin']:{widths[1]}}  {row['file']}", console
        )
    return 0


COMMAND = Command(
    name="hooks",
    summary="list the steps of a build and their plug-ins",
    usage="[options]",
    about="Lists the steps of a build, in order, and the plug-ins that do them. A site's own"
    " plug-ins come before the shipped ones.",
    examples=("hooks",),
    add_flags=add_flags,
    run=run,
)
