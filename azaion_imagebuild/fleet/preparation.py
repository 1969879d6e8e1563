"""Preparing the destinations of an order: the base first, then image files or lanes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pluggy
from msgspec import Struct, structs

from ..config.state_dir import state_dir_of
from ..errors import PreflightError, UsageError
from ..images.digest import fingerprints, image_digest
from ..l4t.usb import checked_instances, devices_to_flash
from ..lanes.lane import opened_lanes
from ..model import Build
from ..operations import stamp as stamps
from ..operations.parts import the_sandbox
from ..pipeline import events
from ..pipeline.events import Watcher
from ..pipeline.new import base_build
from ..pipeline.recipes import use_base
from ..pipeline.target import Blank
from ..settings import Settings
from .destinations import (
    Destination,
    ImageFolder,
    InPlace,
    UsbLane,
    opened_folder,
    refuse_missing_lane,
    taken,
)
from .device_watch import DeviceWatch
from .order import Order
from .plan import Plan

T = TypeVar("T")


@contextlib.contextmanager
def destinations_for(
    order: Order,
    settings: Settings,
    plan: Plan,
    hook: pluggy.HookRelay,
    watcher: Watcher,
    *,
    stopped: Callable[[], bool],
) -> Iterator[list[Destination]]:
    """Build the base if needed, and yield the destinations.

    Args:
        order: what is asked for; with ``scans``, the number of devices is unknown.
        settings: of the site, with the sandbox's parts if they are used.
        plan: which devices.
        hook: the plug-ins.
        watcher: told how the base is built.
        stopped: tells whether to begin nothing new.

    Raises:
        OperatorError: they cannot be prepared; no account was touched.
    """
    needs = _Needs(
        order=order, settings=settings, plan=plan, hook=hook, watcher=watcher, stopped=stopped
    )
    flashes = order.out is None and order.base is None
    with _lanes(needs) if flashes else _copies(needs) as places:
        yield places


class _Needs(Struct, frozen=True, kw_only=True):
    """What the functions of this module need."""

    order: Order
    settings: Settings
    plan: Plan
    hook: pluggy.HookRelay
    watcher: Watcher
    stopped: Callable[[], bool]

    @property
    def jobs(self) -> int:
        """Return how many devices are made at a time."""
        order = self.order
        return order.jobs if order.scans else min(order.jobs, len(self.plan.todo))


@contextlib.contextmanager
def _copies(needs: _Needs) -> Iterator[list[Destination]]:
    """Lock the folder of the images; yield a destination for each job.

    A given base without a folder is for a site's own plug-in that flashes.
    """
    order, settings = needs.order, needs.settings
    if order.out is None and all(
        impl.plugin_name == "flash" for impl in needs.hook.flash.get_hookimpls()
    ):
        raise UsageError(
            "no plug-in flashes an image that was built before",
            hint="give --out DIR, or leave --image out",
        )
    work = order.out or order.work or state_dir_of(settings) / "lanes"
    with opened_folder(work, settings.build.lock_wait):
        if order.base is not None:
            own = taken(work, _digested(stamps.base_at(order.base, settings), needs.watcher))
        else:
            build = base_build(settings, sandbox=needs.plan.sandbox)
            own = _of_base(build, needs, lambda blank: taken(work, blank))
        common: dict[str, Any] = {"settings": settings, "sandbox": needs.plan.sandbox}
        numbers = range(1, needs.jobs + 1)
        if order.out is not None:
            yield [
                ImageFolder(name=f"job {number}", dir=order.out, blank=own, **common)
                for number in numbers
            ]
        else:
            yield [
                InPlace(name=name, blank=taken(work, own, name), **common)
                for name in (f"lane {number}" for number in numbers)
            ]


@contextlib.contextmanager
def _lanes(needs: _Needs) -> Iterator[list[Destination]]:
    """Open a lane for each USB instance."""
    sandbox = needs.plan.sandbox
    instances = _instances(needs)
    build = base_build(needs.settings, sandbox=sandbox, lanes=len(instances))
    blank, before = _of_base(build, needs, lambda blank: (blank, fingerprints(blank.image)))
    watch = DeviceWatch(virtual=sandbox)
    with opened_lanes(build, blank.image, instances) as lanes:
        if fingerprints(blank.image) != before:
            raise PreflightError(
                f"{blank.image.path} was changed by another program",
                hint="let nothing else work in this BSP tree, then run the same command again",
            )
        yield [
            UsbLane(
                lane=lane,
                blank=structs.replace(blank, image=lane.image),
                settings=needs.settings,
                sandbox=sandbox,
                watch=watch,
                stopped=needs.stopped,
            )
            for lane in lanes
        ]


def _digested(blank: Blank, watcher: Watcher) -> Blank:
    """Return a given base with its digest; show the reading as a step."""
    began = time.monotonic()
    watcher(events.started("digest_image"))
    digest = image_digest(blank.image.path)
    watcher(events.ended("digest_image", time.monotonic() - began, digest[:16]))
    return structs.replace(blank, image=structs.replace(blank.image, base_sha256=digest))


def _instances(needs: _Needs) -> tuple[str, ...]:
    """Return the USB instances to flash at: the named ones, or all in recovery mode.

    Raises:
        PreflightError: no device is there, more than ten are, or the list names another.
    """
    if needs.order.lanes:
        instances = checked_instances(needs.order.lanes)
    elif needs.plan.sandbox:
        instances = checked_instances(the_sandbox(needs.settings).usb_instances(needs.jobs))
    else:
        found = devices_to_flash(needs.settings.bsp.sysfs_usb)
        instances = tuple(each.instance for each in found)
    for each in needs.plan.todo:
        refuse_missing_lane(each, instances, each.where)
    return instances


def _of_base(build: Build, needs: _Needs, take: Callable[[Blank], T]) -> T:
    """Return the result of ``take`` for the BSP's base, called while the BSP is locked.

    Raises:
        OperatorError: there is no base, and none can be built.
    """
    found: list[T] = []
    record = use_base(build, needs.hook, needs.watcher, lambda blank: found.append(take(blank)))
    if record.error is not None:
        raise record.error
    return found[0]
