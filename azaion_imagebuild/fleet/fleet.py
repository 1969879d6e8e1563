"""A fleet from its list to its end: plan, base, places, run, and what is left to do."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pluggy
from msgspec import Struct, structs

from .. import __version__
from ..config.state_dir import state_dir_of
from ..errors import PreflightError, UsageError
from ..identity.serial import parse_serial
from ..identity.serial_list import Listed, read_list, scanned
from ..images.digest import fingerprints, sha256_of
from ..l4t.usb import checked_instances, devices_to_flash
from ..lanes.lane import opened_lanes
from ..ledger import Entry, Ledger, Standing
from ..ledger.entry import user
from ..model import Build
from ..operations import stamp as stamps
from ..operations.parts import (
    is_sandbox,
    ledger_to_read,
    parts,
    parts_of_api,
    the_ledger,
    the_sandbox,
)
from ..pipeline.events import Watcher
from ..pipeline.hookspecs import REQUIRED
from ..pipeline.new import base_build, unique_name
from ..pipeline.plugins import load_plugins
from ..pipeline.recipes import use_base
from ..pipeline.target import Blank
from ..report import check_folder, write_report
from ..settings import Settings
from ..text import to_the_second, utc
from .destinations import (
    Folder,
    InPlace,
    OnLane,
    Place,
    device_is_done,
    image_is_done,
    opened_folder,
    taken,
)
from .device_watch import DeviceWatch
from .plan import Plan, make_plan, space_on
from .run import Display, Feed, Run, blank_record, exit_code, failed
from .scanner import Scanner

T = TypeVar("T")


class Order(Struct, frozen=True, kw_only=True):
    """What an operator asks for."""

    source: str
    """A list, ``-``, a range or a serial: see :mod:`azaion_imagebuild.identity.serial_list`."""
    scans: bool = False
    """Stdin is a terminal: devices come one by one, from a barcode scanner."""
    jobs: int = 8
    out: Path | None = None
    """Folder of the images; None: devices are flashed."""
    work: Path | None = None
    """Folder for what is needed meanwhile; None: one in the state folder."""
    base: Path | None = None
    """An image with a placeholder; None: the BSP's own base, built when it is out of date."""
    lanes: tuple[str, ...] = ()
    """USB instances to flash at; none: all that are in recovery mode."""
    again: bool = False
    max_failures: int | None = None
    report: Path | None = None
    """Folder of the report; None: a new one in the state folder."""


class FleetDisplay(Display, Protocol):
    """Who is told how a fleet goes on, from its plan to its end."""

    def planned(self, plan: Plan) -> None:
        """The plan is made."""


def plan_fleet(order: Order, settings: Settings) -> Plan:
    """Return what would be done; nothing is changed.

    Raises:
        OperatorError: the list or the settings are wrong, or the ledger cannot be read.
    """
    _refuse_fuses(settings)
    listed = read_list(order.source, settings.serial.pattern)
    sandbox = _is_for_sandbox(order, settings)
    if sandbox:
        bsp = structs.replace(settings.bsp, dir=the_sandbox(settings).bsp)
        settings = structs.replace(settings, bsp=bsp)
    with ledger_to_read(settings) as ledger:
        return _planned(order, settings, listed, ledger, sandbox=sandbox)


def run_fleet(
    order: Order, settings: Settings, watcher: Watcher, display: FleetDisplay
) -> dict[str, Any]:
    """Do a list of devices to its end, and return the one JSON object that says how.

    Args:
        order: what is asked for.
        settings: of the site.
        watcher: who is told how the base is built.
        display: who is told how the devices go on.

    Raises:
        OperatorError: the fleet could not begin; no account was touched.
    """
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    listed = [] if order.scans else read_list(order.source, settings.serial.pattern)
    began = time.time()
    folder = order.report or state_dir_of(settings) / "fleet" / unique_name()
    with parts_for(order, settings) as (used, sandbox), the_ledger(settings) as ledger:

        def planned(listed: Sequence[Listed]) -> Plan:
            return _planned(order, used, listed, ledger, sandbox=sandbox)

        plan = planned(listed)
        display.planned(plan)
        plan.refuse_errors()
        check_folder(folder)
        scanner = _scanner(used, planned, display) if order.scans else None
        run = Run(
            feed=scanner or Feed.of(plan.todo, pinned=order.out is None),
            hook=hook,
            ledger=ledger,
            display=display,
            max_failures=order.max_failures,
        )
        if plan.todo or scanner:
            try:
                _run(order, used, plan, run, watcher)
            except KeyboardInterrupt:  # while the places were closed: what is done is still told
                if not run.records:
                    raise
                run.interrupted = True
        if scanner:
            plan = Plan.of_all(scanner.plans.values(), sandbox=sandbox)
        fleet = _told(plan, run, began, used)
    return {**fleet, "report": _reported(folder, fleet, display)}


def _reported(folder: Path, fleet: dict[str, Any], display: FleetDisplay) -> str | None:
    """Write the report; a disk that is full by now must not hide what was done."""
    try:
        return str(write_report(folder, fleet))
    except UsageError as error:
        display.said(f"error: {error.message}")
        display.said(f"hint: {error.hint}")
        return None


def _refuse_fuses(settings: Settings) -> None:
    """What cannot be undone is done with one device in front of one operator."""
    if settings.build.fuse:
        raise UsageError(
            "a fleet and a station burn no fuses",
            hint="fuse devices one by one: azaion-imagebuild image --fuse --serial …",
        )


def _scanner(
    settings: Settings, planned: Callable[[Sequence[Listed]], Plan], display: FleetDisplay
) -> Scanner:
    def look(where: str, text: str) -> Plan:
        serial = parse_serial(text, settings.serial.pattern)
        return planned([Listed(serial=serial, where=where)])

    return Scanner(lines=scanned(), look=look, say=display.said)


def _run(order: Order, settings: Settings, plan: Plan, run: Run, watcher: Watcher) -> None:
    """Get the places ready and do every device."""
    with places_for(
        order, settings, plan, run.hook, watcher, stopped=lambda: run.feed.closed
    ) as places:
        if isinstance(run.feed, Scanner):
            run.display.said("scan the labels; end with Ctrl-D")
            run.feed.start()
        run.to_the_end(places)


@contextmanager
def places_for(
    order: Order,
    settings: Settings,
    plan: Plan,
    hook: pluggy.HookRelay,
    watcher: Watcher,
    *,
    stopped: Callable[[], bool],
) -> Iterator[list[Place]]:
    """Build the base if need be, and yield the places where devices are made.

    Args:
        order: what is asked for; with ``scans`` nobody knows how many devices there will be.
        settings: of the site, with the sandbox's parts where they are used.
        plan: which devices.
        hook: the plug-ins.
        watcher: who is told how the base is built.
        stopped: whether nothing new shall begin: waiting for a device then ends.

    Raises:
        OperatorError: they cannot be made ready; no account was touched.
    """
    jobs = order.jobs if order.scans else min(order.jobs, len(plan.todo))
    if order.out is None and order.base is None:
        made = _lanes(order, settings, plan, hook, watcher, stopped, jobs)
    else:
        made = _copies(order, settings, plan, hook, watcher, jobs)
    with made as places:
        yield places


@contextmanager
def _copies(
    order: Order,
    settings: Settings,
    plan: Plan,
    hook: pluggy.HookRelay,
    watcher: Watcher,
    jobs: int,
) -> Iterator[list[Place]]:
    """Hold the folder of the images; as many copies are made at a time as there are jobs.

    A given base without a folder is for a site's own plug-in that flashes.
    """
    if order.out is None and all(
        impl.plugin_name == "flash" for impl in hook.flash.get_hookimpls()
    ):
        raise UsageError(
            "an image that was built before is flashed by a site's own plug-in, and there is none",
            hint="give --out DIR, or leave --image out",
        )
    work = order.out or order.work or state_dir_of(settings) / "lanes"
    with opened_folder(work, settings.build.lock_wait):
        if order.base is not None:
            own = taken(work, stamps.base_at(order.base, settings))
        else:
            build = base_build(settings, sandbox=plan.sandbox)
            own = _of_base(build, hook, watcher, lambda blank: taken(work, blank))
        common: dict[str, Any] = {"settings": settings, "sandbox": plan.sandbox}
        numbers = range(1, jobs + 1)
        if order.out is not None:
            yield [
                Folder(name=f"job {number}", dir=order.out, blank=own, **common)
                for number in numbers
            ]
        else:
            yield [
                InPlace(name=name, blank=taken(work, own, name), flash=True, **common)
                for name in (f"lane {number}" for number in numbers)
            ]


@contextmanager
def _lanes(
    order: Order,
    settings: Settings,
    plan: Plan,
    hook: pluggy.HookRelay,
    watcher: Watcher,
    stopped: Callable[[], bool],
    jobs: int,
) -> Iterator[list[Place]]:
    """Open a lane for each USB instance."""
    instances = _instances(order, settings, plan, jobs)
    packed = max(settings.bsp.massflash, len(instances))
    bsp = structs.replace(settings.bsp, massflash=packed)
    settings = structs.replace(settings, bsp=bsp)
    build = base_build(settings, sandbox=plan.sandbox)
    blank, before = _of_base(build, hook, watcher, lambda blank: (blank, fingerprints(blank.image)))
    watch = DeviceWatch(virtual=plan.sandbox)
    with opened_lanes(build, blank.image, instances) as lanes:
        if fingerprints(blank.image) != before:
            raise PreflightError(
                f"{blank.image.path} was changed by another program",
                hint="let nothing else work in this BSP tree, then run the same command again",
            )
        digest = sha256_of(lanes[0].image.path)
        yield [
            OnLane(
                lane=lane,
                blank=structs.replace(blank, image=lane.image, sha256=digest),
                settings=settings,
                sandbox=plan.sandbox,
                watch=watch,
                stopped=stopped,
            )
            for lane in lanes
        ]


def _instances(order: Order, settings: Settings, plan: Plan, jobs: int) -> tuple[str, ...]:
    """Return the USB instances to flash at: the named ones, or all in recovery mode.

    Raises:
        PreflightError: there is none, they are more than ten, or the list names another.
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
    """Return what ``take`` makes of the BSP's base, while the BSP is locked.

    Raises:
        OperatorError: there is no base, and none can be built.
    """
    found: list[T] = []
    record = use_base(build, hook, watcher, lambda blank: found.append(take(blank)))
    if record.error is not None:
        raise record.error
    return found[0]


def _is_for_sandbox(order: Order, settings: Settings) -> bool:
    """Tell whether the devices are the sandbox's: by the given base, or by what is set."""
    if order.base is not None:
        return stamps.wants_sandbox(order.base, settings)
    return is_sandbox(settings)


@contextmanager
def parts_for(order: Order, settings: Settings) -> Iterator[tuple[Settings, bool]]:
    """Yield the settings to work with; a given base needs no BSP.

    Raises:
        UsageError: the settings do not fit together, or ask to burn fuses.
    """
    _refuse_fuses(settings)
    if order.base is None:
        with parts(settings) as (used, sandbox):
            yield used, sandbox
    else:
        sandbox = _is_for_sandbox(order, settings)
        with parts_of_api(settings) as used:
            yield used, sandbox


def _planned(
    order: Order, settings: Settings, listed: Sequence[Listed], ledger: Ledger, *, sandbox: bool
) -> Plan:
    def is_done(each: Listed, standing: Standing) -> Entry | None:
        if order.out is not None:
            return image_is_done(order.out, each, standing)
        return device_is_done(each, standing)

    plan = make_plan(
        listed,
        ledger,
        settings.ledger,
        sandbox=sandbox,
        is_done=is_done,
        again=order.again,
        jobs=order.jobs,
    )
    if order.out is None:
        return plan
    each = _size_of_one(order, settings)
    return structs.replace(plan, space_needed=each * len(plan.todo), space_free=space_on(order.out))


def _size_of_one(order: Order, settings: Settings) -> int:
    """Return the bytes that one image takes on disk; 0: it is not built yet."""
    from ..l4t.base_image import base_files

    files = [order.base] if order.base else base_files(settings.bsp.dir)
    return files[0].stat().st_blocks * 512 if files and files[0].is_file() else 0


def _told(plan: Plan, run: Run, began: float, settings: Settings) -> dict[str, Any]:
    """Return the fleet's JSON object: totals, and a record for each serial."""
    records = [
        *run.records.values(),
        *(failed(each, error) for each, error in plan.refused),
        *(_known(each, row, "done before") for each, row in plan.done_before),
        *(_known(each, row, "unknown") for each, row in plan.unknown),
        *(blank_record(each) for each in plan.todo if each.serial not in run.records),
    ]
    counts = _counted(record["outcome"] for record in records)
    whole = counts["done"] + counts["done before"] == len(records)
    outcome = "done" if whole else "interrupted" if run.interrupted else "incomplete"
    place = {serial: number for number, serial in enumerate(plan.serials)}
    records.sort(key=lambda record: place[record["serial"]])
    return {
        "outcome": outcome,
        "exit_code": int(exit_code(outcome)),
        "sandbox": plan.sandbox,
        "command": "fleet",
        "version": __version__,
        "host": platform.node(),
        "station": settings.ledger.station,
        "operator": settings.ledger.operator or user(),
        "began": utc(began),
        "ended": utc(time.time()),
        "seconds": round(time.time() - began, 3),
        "total": len(records),
        "done": counts["done"],
        "done_before": counts["done before"],
        "failed": counts["failed"],
        "unknown": counts["unknown"],
        "not_started": counts["not started"],
        "records": records,
    }


def _known(each: Listed, row: Entry, outcome: str) -> dict[str, Any]:
    """Return the record of a device that was done, or died, in an earlier run."""
    said = {
        "step": row.step,
        "error": "its last attempt died while flashing: what the device holds is not known",
        "hint": "flash that very device: azaion-imagebuild image --serial"
        f" {each.serial}; or say what is so: azaion-imagebuild ledger resolve {each.serial} …",
    }
    known = blank_record(each)
    fields = {name: getattr(row, name) for name in known if hasattr(row, name)}
    return {
        **known,
        **fields,
        "outcome": outcome,
        "began": to_the_second(row.at),
        **(said if outcome == "unknown" else {}),
    }


def _counted(outcomes: Iterable[str]) -> dict[str, int]:
    counts = dict.fromkeys(("done", "done before", "failed", "unknown", "not started"), 0)
    for outcome in outcomes:
        counts[outcome] += 1
    return counts


def default_out(settings: Settings) -> Path:
    """Return where images go with FLASH=0 and no ``--out``."""
    return state_dir_of(settings) / "images"
