"""submit: queue a list of devices for the stations."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import options, stdout, summaries
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(submit: argparse.ArgumentParser) -> None:
    options.general(submit)
    options.serials(submit)
    submit.add_argument(
        "--station", metavar="NAME", dest="only", help="only this station may take them"
    )
    submit.add_argument(
        "--again",
        action="store_true",
        help="also queue devices that are done, or whose outcome is unknown",
    )
    submit.add_argument(
        "--sandbox", action="store_true", help="queue them for stations in the sandbox"
    )
    options.confirmation(submit, "queue")
    options.database(submit)


def run(args: argparse.Namespace, console: Console) -> int:
    from ...stations.submit import SubmitOrder, submit

    order = SubmitOrder(
        sources=tuple(args.serials), station=args.only, sandbox=args.sandbox, again=args.again
    )
    submission = submit(order, settings_of(args, console))
    summaries.say_all(submission.lines(), console)
    if args.json:
        stdout.print_json(submission.as_json(), console)
    return int(submission.exit_code)


COMMAND = Command(
    name="submit",
    summary="queue a list of devices for the stations",
    usage="SERIALS... --database URL [options]",
    about="Puts a list of devices into the common queue in PostgreSQL, from which the stations take"
    " them. Skips devices that are done or already queued.",
    examples=(
        "submit AZJN-0001..AZJN-1000 --database postgresql://factory@db.internal.example.com"
        "/azaion",
    ),
    add_flags=add_flags,
    run=run,
)
