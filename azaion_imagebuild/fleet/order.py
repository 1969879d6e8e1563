"""What an operator asks of a fleet, and the settings that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from ..config.state_dir import state_dir_of
from ..errors import UsageError
from ..operations import stamp as stamps
from ..operations.parts import (
    is_sandbox,
    parts,
    parts_of_api,
)
from ..settings import Settings

T = TypeVar("T")


class Order(Struct, frozen=True, kw_only=True):
    """What an operator asks for."""

    sources: tuple[str, ...]
    """Lists, ``-``, ranges, serials: see :mod:`azaion_imagebuild.identity.serial_list`."""
    scans: bool = False
    """Devices come one by one from stdin, a terminal or a pipe: their number is unknown."""
    attended: bool = False
    """Stdin is a terminal: a person scans and reads the answers."""
    jobs: int = 8
    out: Path | None = None
    """Folder of the images; None: devices are flashed."""
    work: Path | None = None
    """Folder for temporary files; None: one in the state folder."""
    base: Path | None = None
    """An image with a placeholder; None: the BSP's own base, built when it is out of date."""
    lanes: tuple[str, ...] = ()
    """USB instances to flash at; none: all that are in recovery mode."""
    again: bool = False
    max_failures: int | None = None
    report: Path | None = None
    """Folder of the report; None: a new one in the state folder."""


def default_out(settings: Settings) -> Path:
    """Return where images go with FLASH=0 and no ``--out``."""
    return state_dir_of(settings) / "images"


@contextmanager
def parts_for(order: Order, settings: Settings) -> Iterator[tuple[Settings, bool]]:
    """Yield the settings to work with; a given base needs no BSP.

    Raises:
        UsageError: the settings contradict each other, or ask to burn fuses.
    """
    refuse_fuses(settings)
    if order.base is None:
        with parts(settings) as (used, sandbox):
            yield used, sandbox
    else:
        sandbox = is_for_sandbox(order, settings)
        with parts_of_api(settings) as used:
            yield used, sandbox


def is_for_sandbox(order: Order, settings: Settings) -> bool:
    """Tell whether the devices are the sandbox's: by the given base, or by what is set."""
    if order.base is not None:
        return stamps.wants_sandbox(order.base, settings)
    return is_sandbox(settings)


def refuse_fuses(settings: Settings) -> None:
    """Refuse to burn fuses, which an operator must watch, one device at a time."""
    if settings.build.fuse:
        raise UsageError(
            "a fleet and a station burn no fuses",
            hint="fuse devices one by one: azaion-imagebuild image --fuse --serial …",
        )
