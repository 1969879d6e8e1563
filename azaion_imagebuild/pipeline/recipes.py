"""The ways to give a device its identity: which steps each one takes, in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pluggy

from ..images.digest import fingerprints
from ..model import Build, BuildRecord
from . import steps
from .attempt import Attempt, Book
from .events import Watcher
from .guard import run_steps

if TYPE_CHECKING:
    from .target import Blank, Target


def run(build: Build, hook: pluggy.HookRelay, watcher: Watcher, ledger: Book) -> BuildRecord:
    """Run every step for one device and return what was done.

    Every failure ends in the record, also an interrupt and a bug (with its traceback in the log).
    Every ``cleanup`` is tried, and after a failure every ``build_failed`` before it.

    The ledger gets the intent before the account is touched, before the image is built, before a
    known account's password changes and before the device is flashed, and the end. An attempt that
    preflight refuses has changed nothing and is not in it.
    """

    def recipe(attempt: Attempt) -> None:
        ownership = steps.prepare_device(attempt)
        identity = steps.provision_identity(attempt)
        steps.stage(attempt, identity, ownership)
        attempt.intend("build_image")
        image = steps.build_image(attempt, identity)
        before = fingerprints(image)
        steps.verify(attempt, identity, image)
        steps.digest(attempt, image)
        identity = steps.activate_proven(attempt, identity, image, before)
        steps.flash(attempt, image, before)
        steps.finish(attempt, identity, image)

    return run_steps(build, hook, watcher, recipe, ledger)


def provision(build: Build, hook: pluggy.HookRelay, watcher: Watcher) -> BuildRecord:
    """Run the steps up to the staged device.conf, which stays: the runbook's step 4."""

    def recipe(attempt: Attempt) -> None:
        ownership = steps.prepare_device(attempt)
        identity = steps.activate(attempt, steps.provision_identity(attempt))
        steps.stage(attempt, identity, ownership)

    return run_steps(build, hook, watcher, recipe)


def build_base(build: Build, hook: pluggy.HookRelay, watcher: Watcher) -> BuildRecord:
    """Build an image that holds a placeholder, to be stamped: no account is touched."""

    def recipe(attempt: Attempt) -> None:
        steps.build_base(attempt, steps.prepare(attempt))

    return run_steps(build, hook, watcher, recipe)


def use_base(
    build: Build, hook: pluggy.HookRelay, watcher: Watcher, use: Callable[[Blank], None]
) -> BuildRecord:
    """Call ``use`` with a base, which is rebuilt only if it is out of date.

    The BSP is locked while ``use`` runs; what it raises ends in the record.
    """

    def recipe(attempt: Attempt) -> None:
        blank = steps.ensure_base(attempt, steps.prepare(attempt))
        attempt.current = "fleet"
        use(blank)

    return run_steps(build, hook, watcher, recipe)


def stamp(
    build: Build, blank: Blank, hook: pluggy.HookRelay, watcher: Watcher, ledger: Book
) -> BuildRecord:
    """Give one device its identity in an image that is built already; return what was done.

    Like :func:`run`, without a rootfs: the account, the stamp, the proof, then ``publish`` or
    flash.
    """

    def recipe(attempt: Attempt) -> None:
        attempt.release = blank.release
        steps.admit(attempt)
        identity = steps.provision_identity(attempt, make_room=blank.make_room)
        image = steps.stamp_image(attempt, identity, blank)
        before = fingerprints(image)
        steps.verify(attempt, identity, image)
        attempt.base_sha256 = blank.image.base_sha256
        identity = steps.activate_proven(attempt, identity, image, before)
        if blank.publish is not None:
            attempt.image = blank.publish()
        steps.flash(attempt, image, before)
        steps.finish(attempt, identity, attempt.image or image)

    return run_steps(build, hook, watcher, recipe, ledger)


def issue(
    build: Build,
    targets: Sequence[Target],
    hook: pluggy.HookRelay,
    watcher: Watcher,
    ledger: Book,
) -> BuildRecord:
    """Give one device a new credential in what is finished already; return what was done.

    Like :func:`run`, without building anything: every target is checked before the account is
    touched, and written before a known account's password changes. If that fails, the targets get
    back what they held.
    """

    def recipe(attempt: Attempt) -> None:
        with ExitStack() as held:
            opened = steps.open_targets(attempt, targets, held)
            steps.issue(attempt, opened)

    return run_steps(build, hook, watcher, recipe, ledger)
