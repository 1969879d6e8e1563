"""Where the identities of a fleet go: a folder of images, an image in place, or devices on USB."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pluggy
from msgspec import Struct, structs

from .. import images
from ..config.state_dir import state_dir_of
from ..errors import (
    ImageBuildError,
    OperatorError,
    PreflightError,
    UsageError,
    VerificationError,
    raise_for,
)
from ..identity import device_conf
from ..identity.placeholder import placeholder
from ..identity.serial_list import Listed
from ..images.copy import copy_image
from ..images.digest import fingerprints, image_digest
from ..l4t.base_image import stamp_base
from ..l4t.usb import board_findings, checked_instances, devices_to_flash
from ..lanes.lane import Lane, opened_lanes
from ..ledger import Entry, Standing
from ..model import DEVICE_CONF, Build, Image
from ..operations import stamp as stamps
from ..operations.existing import refuse_other_device
from ..operations.parts import the_sandbox
from ..pipeline import events
from ..pipeline.events import Watcher
from ..pipeline.new import base_build, device_build, stamping_build
from ..pipeline.recipes import use_base
from ..pipeline.target import Blank
from ..settings import Settings
from ..system.files import distrust
from ..system.locks import locked
from .device_watch import DeviceWatch
from .order import Order
from .plan import Plan

T = TypeVar("T")
_WORK = ".azaion-fleet"
_logger = logging.getLogger(__name__)


class Destination(Protocol):
    """A place where one device at a time gets its identity."""

    @property
    def name(self) -> str:
        """Its name for the operator."""
        ...

    def has_device(self) -> bool:
        """Tell whether there is a device that needs an identity; :meth:`ready` waits for one."""
        ...

    def ready(self, each: Listed) -> contextlib.AbstractContextManager[tuple[Build, Blank]]:
        """Prepare an image with a placeholder for a device; clean up at the end."""
        ...


class ImageFolder(Struct, frozen=True, kw_only=True):
    """Writes ``DIR/SERIAL.img`` for each device: a copy of the base, stamped and proven."""

    dir: Path
    blank: Blank
    settings: Settings
    sandbox: bool
    name: str = "images"

    def has_device(self) -> bool:
        """Tell whether there is something to give an identity to."""
        return True

    @contextlib.contextmanager
    def ready(self, each: Listed) -> Iterator[tuple[Build, Blank]]:
        """Copy the base to a temporary name; the proven image gets the final one.

        An older image is removed first: its identity is stale once the account is touched.
        """
        new = self.dir / _WORK / f"{each.serial}.new"
        final = image_of(self.dir, each)

        def publish() -> Image:
            os.rename(new, final)  # noqa: PTH104 - both are ours
            return structs.replace(self.blank.image, path=final, also=())

        image = structs.replace(self.blank.image, path=new, also=())
        build = stamping_build(each.serial, self.settings, sandbox=self.sandbox)
        build = structs.replace(build, flash=False)  # the order is for an image
        try:
            _refuse_other_device(final, build)
            copy_image(self.blank.image.path, new)
            _remove(final)
            yield build, structs.replace(self.blank, image=image, publish=publish)
        finally:
            new.unlink(missing_ok=True)


class InPlace(Struct, frozen=True, kw_only=True):
    """Stamps one device after the other into the same image, which a site's own plug-in flashes."""

    name: str
    blank: Blank
    settings: Settings
    sandbox: bool = False

    def has_device(self) -> bool:
        """Tell whether there is something to give an identity to."""
        return True

    @contextlib.contextmanager
    def ready(self, each: Listed) -> Iterator[tuple[Build, Blank]]:
        """Hand the image out, and restore its placeholder afterwards."""
        build = stamping_build(each.serial, self.settings, sandbox=self.sandbox)
        try:
            yield build, self.blank
        finally:
            self._clear(build)

    def _clear(self, build: Build) -> None:
        try:
            stamp_base(build, self.blank.image, placeholder(self.blank.size))
        except OperatorError as error:
            _logger.warning("%s still holds an identity: %s", self.blank.image.path, error.message)


class UsbLane(Struct, frozen=True, kw_only=True):
    """Flashes one device after the other at one USB instance, from a lane's own tree."""

    lane: Lane
    blank: Blank
    settings: Settings
    sandbox: bool
    watch: DeviceWatch
    stopped: Callable[[], bool]
    """Tells whether to begin nothing new, and to stop waiting for a device."""

    @property
    def name(self) -> str:
        """The USB instance, e.g. ``1-3``."""
        return self.lane.usb_instance

    def has_device(self) -> bool:
        """Tell whether a device that has not had its turn is in recovery mode."""
        return self.watch.is_there(self.settings.bsp.sysfs_usb, self.name)

    @contextlib.contextmanager
    def ready(self, each: Listed) -> Iterator[tuple[Build, Blank]]:
        """Wait for a device that has not had its turn."""
        settings = self.settings
        device = self.watch.next_device(
            settings.bsp.sysfs_usb, self.name, settings.bsp.device_wait, self.stopped
        )
        build = device_build(each.serial, settings, sandbox=self.sandbox)
        if wrong := list(board_findings(build, device)):
            self.watch.had_its_turn(self.name, device)  # the next serial waits for another one
            raise_for(wrong, PreflightError)
        yield self.lane.build(build), self.blank
        self.watch.had_its_turn(self.name, device)


def _refuse_other_device(image: Path, build: Build) -> None:
    """Refuse to replace an image with another device's identity: it is here by mistake."""
    entry = None
    with contextlib.suppress(VerificationError):  # missing, or not an image
        entry = images.read_file(image, DEVICE_CONF, device_conf.LONGEST)
    if entry is not None:
        refuse_other_device(entry.data, image, build, hint=f"move it away: mv {image} …")


def _remove(image: Path) -> None:
    try:
        image.unlink(missing_ok=True)
    except OSError as error:
        raise ImageBuildError(
            f"cannot replace {image}: {error.strerror}", hint="move away whatever is there"
        ) from None


def image_of(folder: Path, each: Listed) -> Path:
    """Return the path of a device's image."""
    return folder / f"{each.serial}.img"


@contextlib.contextmanager
def opened_folder(folder: Path, wait: float) -> Iterator[None]:
    """Lock the folder of the images for one fleet; remove what a killed one left.

    Raises:
        UsageError: it cannot be created or written.
        PreflightError: another fleet writes into it for longer than ``wait`` seconds.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if wrong := distrust(folder):  # its owner could swap a proven image
            raise UsageError(
                f"cannot write into {folder}: {wrong[0]}",
                hint=f"{wrong[1]}; or give another folder by --out",
            )
        with locked([folder], wait):
            work = folder / _WORK
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(mode=0o700)
            try:
                yield
            finally:
                shutil.rmtree(work)
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder}: {error.strerror}", hint="give another folder by --out"
        ) from None


def taken(folder: Path, blank: Blank, name: str = "base") -> Blank:
    """Copy the base into the work folder, so that nobody changes it while the fleet runs.

    Raises:
        ImageBuildError: it cannot be copied.
    """
    own = folder / _WORK / f"{name}.img"
    copy_image(blank.image.path, own)
    return structs.replace(blank, image=structs.replace(blank.image, path=own, also=()))


def image_is_done(folder: Path, each: Listed, standing: Standing) -> Entry | None:
    """Return the row of a device whose image exists and holds the row's credential."""
    row = standing.last
    if row is None or row.outcome != "done" or row.image != str(image_of(folder, each)):
        return None
    with contextlib.suppress(OperatorError, device_conf.MalformedDeviceConf):
        entry = images.read_file(image_of(folder, each), DEVICE_CONF, device_conf.LONGEST)
        if entry is not None:
            conf = device_conf.parse(entry.data)
            if conf.email == each.email and conf.password.fingerprint() == row.credential:
                return row
    return None


def device_is_done(each: Listed, standing: Standing) -> Entry | None:
    """Return the row of a device that was flashed and finished.

    Only the last attempt counts: a later one may have changed the password, however it ended.
    """
    row = standing.last
    return row if row is not None and row.flashed and row.outcome == "done" else None


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
    jobs = order.jobs if order.scans else min(order.jobs, len(plan.todo))
    if order.out is None and order.base is None:
        made = _lanes(order, settings, plan, hook, watcher, stopped, jobs)
    else:
        made = _copies(order, settings, plan, hook, watcher, jobs)
    with made as places:
        yield places


@contextlib.contextmanager
def _copies(
    order: Order,
    settings: Settings,
    plan: Plan,
    hook: pluggy.HookRelay,
    watcher: Watcher,
    jobs: int,
) -> Iterator[list[Destination]]:
    """Lock the folder of the images; yield a destination for each job.

    A given base without a folder is for a site's own plug-in that flashes.
    """
    if order.out is None and all(
        impl.plugin_name == "flash" for impl in hook.flash.get_hookimpls()
    ):
        raise UsageError(
            "no plug-in flashes an image that was built before",
            hint="give --out DIR, or leave --image out",
        )
    work = order.out or order.work or state_dir_of(settings) / "lanes"
    with opened_folder(work, settings.build.lock_wait):
        if order.base is not None:
            own = taken(work, _digested(stamps.base_at(order.base, settings), watcher))
        else:
            build = base_build(settings, sandbox=plan.sandbox)
            own = _of_base(build, hook, watcher, lambda blank: taken(work, blank))
        common: dict[str, Any] = {"settings": settings, "sandbox": plan.sandbox}
        numbers = range(1, jobs + 1)
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
def _lanes(
    order: Order,
    settings: Settings,
    plan: Plan,
    hook: pluggy.HookRelay,
    watcher: Watcher,
    stopped: Callable[[], bool],
    jobs: int,
) -> Iterator[list[Destination]]:
    """Open a lane for each USB instance."""
    instances = _instances(order, settings, plan, jobs)
    build = base_build(settings, sandbox=plan.sandbox, lanes=len(instances))
    blank, before = _of_base(build, hook, watcher, lambda blank: (blank, fingerprints(blank.image)))
    watch = DeviceWatch(virtual=plan.sandbox)
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
                settings=settings,
                sandbox=plan.sandbox,
                watch=watch,
                stopped=stopped,
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


def _instances(order: Order, settings: Settings, plan: Plan, jobs: int) -> tuple[str, ...]:
    """Return the USB instances to flash at: the named ones, or all in recovery mode.

    Raises:
        PreflightError: there is none, there are more than ten, or the list names another.
    """
    if order.lanes:
        instances = checked_instances(order.lanes)
    elif plan.sandbox:
        instances = checked_instances(the_sandbox(settings).usb_instances(jobs))
    else:
        found = devices_to_flash(settings.bsp.sysfs_usb)
        instances = tuple(each.instance for each in found)
    for each in plan.todo:
        if each.usb_instance is not None and each.usb_instance not in instances:
            raise PreflightError(
                f"{each.serial} ({each.where}) is for the USB instance {each.usb_instance!a}, where"
                " no lane is",
                hint=f"the lanes are: {', '.join(instances)}; name others by --lane",
            )
    return instances


def _of_base(
    build: Build, hook: pluggy.HookRelay, watcher: Watcher, take: Callable[[Blank], T]
) -> T:
    """Return the result of ``take`` for the BSP's base, called while the BSP is locked.

    Raises:
        OperatorError: there is no base, and none can be built.
    """
    found: list[T] = []
    record = use_base(build, hook, watcher, lambda blank: found.append(take(blank)))
    if record.error is not None:
        raise record.error
    return found[0]
