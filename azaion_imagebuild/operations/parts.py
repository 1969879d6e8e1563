"""The parts that an operation uses: real ones or the sandbox's, and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..config.state_dir import state_dir_of
from ..errors import UsageError
from ..settings import Settings

if TYPE_CHECKING:
    from ..ledger import Ledger
    from ..sandbox import Sandbox


@contextmanager
def parts(settings: Settings) -> Iterator[tuple[Settings, bool]]:
    """Yield the settings to build with, and whether they are the sandbox's.

    Raises:
        UsageError: one part is set without the other: a real build never falls into the sandbox.
    """
    if is_sandbox(settings):
        with the_sandbox(settings).running(settings) as used:
            yield used, True
    else:
        yield settings, False


def is_sandbox(settings: Settings) -> bool:
    """Tell whether a build with these settings runs on the embedded parts.

    Raises:
        UsageError: one part is set without the other: a real build never falls into the sandbox.
    """
    needed = {"BSP (--bsp)": settings.bsp.dir, "API_URL (--api-url)": settings.admin_api.url}
    given = needed | {"ROOTFS_DIR (--rootfs-dir)": settings.bsp.rootfs_dir}
    if all(value is not None for value in needed.values()):
        return False
    if all(value is None for value in given.values()):
        return True
    there = " and ".join(name for name, value in given.items() if value is not None)
    missing = " and ".join(name for name, value in needed.items() if value is None)
    raise UsageError(
        f"{there} is set, but not {missing}",
        hint="set both for a real build, or neither to build in the sandbox"
        + (f"; its rootfs is {the_sandbox(settings).rootfs}" if settings.bsp.rootfs_dir else ""),
    )


@contextmanager
def parts_of_api(settings: Settings) -> Iterator[Settings]:
    """Yield the settings with an admin API: the configured one, or the sandbox's."""
    if settings.admin_api.url is not None:
        yield settings
    else:
        with the_sandbox(settings).running(settings) as used:
            yield used


def the_sandbox(settings: Settings) -> Sandbox:
    """Return the sandbox of this user's state folder."""
    from ..sandbox import Sandbox  # imported late: a real build does not need it

    return Sandbox(state_dir_of(settings) / "sandbox")


def the_ledger(settings: Settings) -> Ledger:
    """Return the ledger of these settings: by default the one in this user's state folder."""
    from ..ledger import ledger_of  # imported late: `provision` does not need it

    return ledger_of(settings.ledger, state_dir_of(settings))


def ledger_to_read(settings: Settings) -> Ledger:
    """Return the ledger, or an empty one if none exists yet: reading creates no file."""
    from ..ledger import Ledger
    from ..ledger.engine import FILE

    if settings.ledger.database is None and not (state_dir_of(settings) / FILE).exists():
        return Ledger("sqlite://")
    return the_ledger(settings)
