"""sandbox: show or remove the embedded parts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import options, stdout
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ...sandbox import Sandbox
    from ...settings import Settings
    from ..console import Console


def add_flags(sandbox: argparse.ArgumentParser) -> None:
    options.general(sandbox)
    sandbox.add_argument(
        "action",
        nargs="?",
        choices=["show", "accounts", "reset"],
        default="show",
        help="show: print where its parts are; accounts: list the accounts of its admin API; reset:"
        " remove it; default: show",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from ...operations.parts import the_sandbox

    settings = settings_of(args, console)
    sandbox = the_sandbox(settings)
    if args.action == "reset":
        return _reset(sandbox, settings, args, console)
    sandbox.create(lock_wait=10.0)
    if args.action == "accounts":
        return _show_accounts(sandbox, args, console)
    parts = {"bsp": str(sandbox.bsp), "device": str(sandbox.device)}
    if args.json:
        stdout.print_json(parts, console)
        return 0
    for name, path in parts.items():
        stdout.print_line(f"{name:8}{path}", console)
    return 0


def _reset(sandbox: Sandbox, settings: Settings, args: argparse.Namespace, console: Console) -> int:
    from ...ledger.resolve import retire_sandbox
    from ...operations.parts import the_ledger

    sandbox.reset()
    with the_ledger(settings) as ledger:
        retire_sandbox(ledger)
    console.say(f"removed {sandbox.dir}")
    if args.json:
        stdout.print_json({"removed": str(sandbox.dir)}, console)
    return 0


def _show_accounts(sandbox: Sandbox, args: argparse.Namespace, console: Console) -> int:
    accounts = [
        {
            "email": each.email,
            "role": each.role,
            "created": each.created,
            "updated": each.updated,
        }
        for each in sandbox.accounts.list()
    ]
    if args.json:
        stdout.print_json(accounts, console)
        return 0
    for account in accounts:
        line = "{email}  {role}  created {created}  updated {updated}".format(**account)
        stdout.print_line(line, console)
    return 0


COMMAND = Command(
    name="sandbox",
    summary="show or remove the sandbox's embedded parts",
    usage="[{show,accounts,reset}] [options]",
    about="Prints where the sandbox's BSP and virtual device are, or lists the accounts of its"
    " admin API, or removes the sandbox. A build uses the sandbox if neither a BSP nor an API URL"
    " is set.",
    examples=("sandbox", "sandbox accounts"),
    add_flags=add_flags,
    run=run,
)
