"""This host and this tool: doctor, hooks, sandbox, completion."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from msgspec import structs

from ...errors import ExitCode
from .. import grammar, stdout
from .common import settings_of

if TYPE_CHECKING:
    from ..console import Console


def doctor(args: argparse.Namespace, console: Console) -> int:
    from ...operations.doctor import examine, parts_in_words

    settings = settings_of(args, console)
    with stdout.reserved():
        findings = examine(settings, api=args.api)
    errors = [finding for finding in findings if finding.severity == "error"]
    if args.json:
        stdout.print_json(
            {
                "outcome": "failed" if errors else "done",
                "findings": [structs.asdict(finding) for finding in findings],
                "exit_code": int(ExitCode.PREFLIGHT if errors else ExitCode.DONE),
            },
            console,
        )
    console.examined(findings, parts_in_words(settings))
    return int(ExitCode.PREFLIGHT if errors else ExitCode.DONE)


def hooks(args: argparse.Namespace, console: Console) -> int:
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


def sandbox(args: argparse.Namespace, console: Console) -> int:
    from ...ledger.history import retire_sandbox
    from ...operations.parts import the_ledger, the_sandbox

    settings = settings_of(args, console)
    sandbox = the_sandbox(settings)
    if args.action == "reset":
        sandbox.reset()
        with the_ledger(settings) as ledger:
            retire_sandbox(ledger)
        console.say(f"removed {sandbox.dir}")
        if args.json:
            stdout.print_json({"removed": str(sandbox.dir)}, console)
        return 0
    sandbox.create(lock_wait=10.0)
    if args.action == "accounts":
        accounts = [
            {
                "email": a.email,
                "role": a.role,
                "created": _in_utc(a.created),
                "updated": _in_utc(a.updated),
            }
            for a in sandbox.accounts.list()
        ]
        if args.json:
            stdout.print_json(accounts, console)
        for account in [] if args.json else accounts:
            line = "{email}  {role}  created {created}  updated {updated}".format(**account)
            stdout.print_line(line, console)
    else:
        parts = {"bsp": sandbox.bsp, "device": sandbox.device}
        if args.json:
            stdout.print_json({name: str(path) for name, path in parts.items()}, console)
        for name, path in {} if args.json else parts.items():
            stdout.print_line(f"{name:8}{path}", console)
    return 0


def _in_utc(time: str) -> str:
    """Return SQLite's time as the ledger shows its own."""
    return f"{time.replace(' ', 'T')}Z"


def completion(args: argparse.Namespace, console: Console) -> int:
    from .. import completion

    with stdout.stream() as stream:
        stream.write(f"{completion.script(grammar.parser(), args.shell)}\n")
    return 0
