"""What surrounds the steps of an attempt: the lock, errors that become a record, the clean-up."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pluggy
from msgspec import structs

from ..errors import (
    BugError,
    FlashError,
    ImageBuildError,
    InterruptedBuild,
    LedgerError,
    OperatorError,
    PreflightError,
    ProvisioningError,
    StagingError,
    VerificationError,
    denied,
    exhausted,
    is_denied,
    is_interrupt,
)
from ..model import Build, BuildRecord
from ..shipped import shipped
from ..system.locks import locked
from ..system.signals import held_back
from . import events
from .answers import problem_of_base, try_all
from .attempt import Attempt, Book
from .events import Watcher
from .hookspecs import EVERY_STEP
from .watchers import watched

_logger = logging.getLogger(__name__)


def run_steps(
    build: Build,
    hook: pluggy.HookRelay,
    watcher: Watcher,
    steps: Callable[[Attempt], None],
    ledger: Book | None = None,
) -> BuildRecord:
    """Run the steps of one attempt; return its record, whatever went wrong."""
    with contextlib.ExitStack() as held, watched(build, watcher) as (tell, end):
        attempt = Attempt(build=build, hook=hook, watcher=tell, ledger=ledger, held=held)
        return end(_run_to_record(attempt, steps))


def _run_to_record(attempt: Attempt, steps: Callable[[Attempt], None]) -> BuildRecord:
    try:
        with _locked(attempt.build) as build, _always_cleaned_up(attempt):
            attempt.build = build
            steps(attempt)
            attempt.hold_signals()
    except BaseException as error:  # sys.exit(), a panic of a Rust extension
        attempt.hold_signals()
        return attempt.finish(_told_of_base(attempt, _for_operator(attempt, error)))
    return attempt.finish()


def _told_of_base(attempt: Attempt, error: OperatorError) -> OperatorError:
    error.problems = tuple(problem_of_base(attempt.build, each) for each in error.problems)
    return error


def _for_operator(attempt: Attempt, error: BaseException) -> OperatorError:
    """Return the error to show; a bug's traceback goes to the log."""
    if isinstance(error, OperatorError):
        return error
    if is_interrupt(error):
        interrupted = InterruptedBuild(
            f"interrupted during {attempt.current}",
            hint="run the same command again: repeating it is safe",
        )
        interrupted.problems += tuple(attempt.left_behind)
        return interrupted
    if is_denied(error) and attempt.current in ("lock", "preflight"):
        return PreflightError.of_problems([denied(error)])
    return _with_flashed(attempt, _shortage(attempt, error) or _bug(attempt, error))


def _shortage(attempt: Attempt, error: BaseException) -> OperatorError | None:
    """Return the error if the host ran out of memory, files or space; None: it did not."""
    problem = exhausted(error)
    if problem is None:
        return None
    return _KINDS.get(attempt.current, StagingError).of_problems([problem])


_KINDS: dict[str, type[OperatorError]] = {
    **dict.fromkeys(("lock", "preflight", "prepare"), PreflightError),
    **dict.fromkeys(("provision_identity", "activate_identity"), ProvisioningError),
    "ledger": LedgerError,
    "build_image": ImageBuildError,
    "verify_image": VerificationError,
    "flash": FlashError,
}


def _bug(attempt: Attempt, error: BaseException) -> OperatorError:
    _logger.error("a bug in the step %s", attempt.current, exc_info=error)
    return BugError(
        f"a bug in {_culprit(error, attempt.hook)}, step {attempt.current}:"
        f" {type(error).__name__}: {error}",
        hint="report it with the traceback above; --disable NAME turns a plug-in off",
    )


def _with_flashed(attempt: Attempt, error: OperatorError) -> OperatorError:
    if attempt.flashed is not None:
        told = f"the device {attempt.flashed.device} is flashed already, and has its new password"
        error.problems += ((told, "if you run the same command again, flash that very device"),)
    return error


def _culprit(error: BaseException, hook: Any) -> str:
    """Return the file and line to look at: a site's plug-in if it called, else our own.

    Where our own pipeline failed, a site's plug-in may have answered what it cannot use.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(__file__).parent.parent
    shipped_hooks = shipped("hooks")
    plugins = {
        impl.function.__code__.co_filename: impl.plugin_name
        for step in EVERY_STEP
        for impl in getattr(hook, step).get_hookimpls()
        if hasattr(impl.function, "__code__")
    }
    of_site = {file: name for file, name in plugins.items() if Path(file).parent != shipped_hooks}
    theirs = [each for each in frames if each.filename in plugins]
    sites = [each for each in theirs if each.filename in of_site]
    own = [each for each in frames if each in theirs or ours in Path(each.filename).parents]
    found = (sites or own or frames)[-1:]
    if not found:
        return "azaion-imagebuild"
    place = f"{found[0].filename}:{found[0].lineno}"
    in_pipeline = Path(found[0].filename).parent == Path(__file__).parent
    names = ", ".join(sorted(set(of_site.values())))
    return f"{place}, or in what {names} answered" if in_pipeline and names else place


@contextlib.contextmanager
def _locked(build: Build) -> Iterator[Build]:
    folders = [folder for folder in (build.bsp_dir, build.rootfs_dir) if folder is not None]
    with locked(folders, build.settings.build.lock_wait) as descriptors:
        held = structs.replace(build, lock_fds=(*build.lock_fds, *descriptors), began=time.time())
        if build.overlays and build.rootfs_dir.is_dir():
            from ..rootfs.overlay import staged_over  # imported late: few builds use it

            with staged_over(build.rootfs_dir) as staging_dir:
                yield structs.replace(held, rootfs_dir=staging_dir)
        else:
            yield held


@contextlib.contextmanager
def _always_cleaned_up(attempt: Attempt) -> Iterator[None]:
    hook = attempt.hook
    try:
        yield
    except BaseException as error:
        attempt.hold_signals()
        with held_back():
            left = try_all(
                hook.build_failed, build=attempt.build, staged=attempt.staged, error=error
            )
            left += try_all(hook.cleanup, build=attempt.build)
            attempt.left_behind += left
        if isinstance(error, OperatorError):
            error.problems += tuple(each for each in left if each not in error.problems)
        raise
    with held_back():
        left = try_all(hook.cleanup, build=attempt.build)
    for each in left:
        message, hint = problem_of_base(attempt.build, each)
        attempt.watcher(events.problem("warning", message, hint))
