"""The command line: parsing it, running the command, and always ending with an exit code."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import (
    ExitCode,
    InterruptedBuild,
    OperatorError,
    PreflightError,
    UsageError,
    denied,
    exhausted,
    is_denied,
    is_interrupt,
)
from ..settings import ENV_PREFIX
from ..system import limits
from ..system.signals import hold_to_the_end, taken
from . import stdout
from .console import Console
from .parser import check_first, parser, with_verb


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    began = time.monotonic()
    _forbid_core_dumps()
    console = Console(sys.stderr, is_json=_speaks_json(argv))
    with taken(), stdout.said(console):
        try:
            code = _ended(argv, console)
        finally:
            console.closed()
        hold_to_the_end()
        _deliver_traces()
    console.exited(code, time.monotonic() - began)
    return code


def _speaks_json(argv: Sequence[str]) -> bool:
    """Tell whether stderr must be JSON; needed before parsing, to report a usage error."""
    words = [word for each in argv for word in each.split("=", 1)]
    if "--log-format" in words:
        return words[words.index("--log-format") + 1 :][:1] == ["json"]
    return os.environ.get(f"{ENV_PREFIX}LOG_FORMAT") == "json"


def _ended(argv: Sequence[str], console: Console) -> int:
    """Run the command; report every failure and return its exit code."""
    try:
        check_first(argv)
        words = with_verb(argv)
        args = parser(words).parse_args(words)
        console.debug = args.debug
        if words[:1] not in _LIGHT:
            limits.check()
        with _permitted(), _held_at_its_end():
            code = _called(args, console)
    except SystemExit:  # --help, --version
        raise
    except BaseException as error:
        if is_interrupt(error):
            hint = "run the same command again: repeating it is safe"
            return _refused(InterruptedBuild("interrupted", hint=hint), argv, console)
        if isinstance(error, OperatorError):
            return _refused(error, argv, console)
        if problem := exhausted(error):
            return _refused(PreflightError.of_problems([problem]), argv, console)
        logging.getLogger(__name__).exception("a bug of azaion-imagebuild")
        if "--json" in argv:
            bug = {"outcome": "failed", "error": "a bug", "exit_code": int(ExitCode.BUG)}
            stdout.print_json(bug, console)
        return int(ExitCode.BUG)
    return code


_LIGHT = (["completion"], ["hooks"], ["ledger"], ["verify"])
"""Commands that need little of the host."""


def _refused(error: OperatorError, argv: Sequence[str], console: Console) -> int:
    console.failed(error)
    if "--json" in argv:
        stdout.print_json({"outcome": _outcome(error), **_failure(error)}, console)
    return int(error.exit_code)


@contextlib.contextmanager
def _held_at_its_end() -> Iterator[None]:
    """Hold signals as soon as it is clear how the command ends: that is still told."""
    try:
        yield
    finally:
        hold_to_the_end()


@contextlib.contextmanager
def _permitted() -> Iterator[None]:
    """Report any path without read permission as a usage error."""
    try:
        yield
    except PermissionError as error:
        if not is_denied(error):
            raise
        raise UsageError.of_problems([denied(error)]) from error


def _deliver_traces() -> None:
    """Wait briefly until the collector has the traces; an interrupt ends the wait."""
    tracing = sys.modules.get("azaion_imagebuild.pipeline.trace")  # most commands make no traces
    if tracing is not None:
        with contextlib.suppress(KeyboardInterrupt):
            tracing.deliver()


def _called(args: argparse.Namespace, console: Console) -> int:
    """Call the command's function; a plug-in that exits cannot choose the exit code."""
    try:
        code: int = args.command.run(args, console)
    except SystemExit as error:
        raise RuntimeError(f"a plug-in called sys.exit({error.code!r})") from error
    return code


def _outcome(error: OperatorError) -> str:
    return "interrupted" if error.exit_code == ExitCode.INTERRUPTED else "failed"


def _failure(error: OperatorError) -> dict[str, Any]:
    told = {"error": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
    return {**error.facts, **told}


def _forbid_core_dumps() -> None:
    """Forbid core dumps, which would hold passwords."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
