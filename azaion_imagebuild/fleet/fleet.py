"""A fleet from its list to its end: plan, run, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from ..config.state_dir import state_dir_of
from ..errors import OperatorError, UsageError
from ..identity.serial_list import Listed, read_lists, scanned
from ..ledger import Entry, Ledger, Standing
from ..operations.parts import (
    ledger_to_read,
    the_ledger,
    the_sandbox,
)
from ..pipeline.events import Watcher, problem, said
from ..pipeline.hookspecs import REQUIRED
from ..pipeline.new import unique_name
from ..pipeline.plugins import load_plugins
from ..report import check_folder, write_report
from ..settings import Settings
from . import events
from .destinations import device_is_done, image_is_done
from .order import Order, is_for_sandbox, parts_for, refuse_fuses
from .page_socket import page_socket, works_off_a_list
from .plan import Plan, make_plan, space_on
from .preparation import destinations_for
from .run import Feed, Run
from .scan_feed import ScanFeed
from .scans import Answer
from .summary import summary_of


def plan_fleet(order: Order, settings: Settings) -> Plan:
    """Return what would be done; change nothing.

    Raises:
        OperatorError: the list or the settings are wrong, or the ledger cannot be read.
    """
    refuse_fuses(settings)
    listed = read_lists(order.sources, settings.serial.pattern)
    sandbox = is_for_sandbox(order, settings)
    if sandbox:
        bsp = structs.replace(settings.bsp, dir=the_sandbox(settings).bsp)
        settings = structs.replace(settings, bsp=bsp)
    with ledger_to_read(settings) as ledger:
        plan = _planned(order, settings, listed.devices, ledger, sandbox=sandbox)
    return structs.replace(plan, doubles=listed.doubles)


def run_fleet(
    order: Order, settings: Settings, watcher: Watcher, typed: Iterator[str] | None = None
) -> dict[str, Any]:
    """Provision a list of devices; return the JSON object with the result.

    Args:
        order: what is asked for.
        settings: of the site.
        watcher: told of the base build and of the devices.
        typed: the lines that are scanned; None: they come from stdin.

    Raises:
        OperatorError: the fleet could not begin; no account was touched.
    """
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    listed: Sequence[Listed] = ()
    if not order.scans:
        listed = read_lists(order.sources, settings.serial.pattern).devices
    began = time.time()
    folder = order.report or state_dir_of(settings) / "fleet" / unique_name()
    with (
        parts_for(order, settings) as (used, sandbox),
        the_ledger(settings) as ledger,
        page_socket(settings, ledger, watcher, sandbox=sandbox, run="fleet") as watcher,
    ):

        def planned(listed: Sequence[Listed]) -> Plan:
            return _planned(order, used, listed, ledger, sandbox=sandbox, estimates=not order.scans)

        plan = planned(listed)
        for event in events.planned(plan) if plan.total else ():
            watcher(event)
        plan.refuse_errors()
        if plan.done_before and order.out is not None:
            watcher(said(_NOT_CHECKED.format(len(plan.done_before))))
        check_folder(folder)
        scan_feed = _scan_feed(order, used, planned, watcher) if order.scans else None
        watcher.scan = scan_feed.scans.scan if scan_feed else works_off_a_list
        run = Run(
            feed=scan_feed or Feed.of(plan.todo, pinned=order.out is None),
            hook=hook,
            ledger=ledger,
            watcher=watcher,
            max_failures=order.max_failures,
        )
        if plan.todo or scan_feed:
            with _told_whatever_comes(run):
                _run(order, used, plan, run, typed)
        refused: list[Answer] = []
        if scan_feed:
            _refuse_nothing(scan_feed)
            plan = Plan.of_all(scan_feed.plans.values(), sandbox=sandbox)
            refused = scan_feed.scans.refused
        fleet = summary_of(
            plan, run, began, used, refused, scanned=order.scans, attended=order.attended
        )
    return {**fleet, "report": _reported(folder, fleet, watcher)}


_NOT_CHECKED = (
    "{} images are there already and carry their identity; their filesystems were not checked"
    " again: azaion-imagebuild verify does"
)


@contextlib.contextmanager
def _told_whatever_comes(run: Run) -> Iterator[None]:
    """Let nothing that happens while the places are closed hide what was done."""
    try:
        yield
    except KeyboardInterrupt:
        if not run.records:
            raise
        run.interrupted = True
    except OperatorError as error:
        if not run.records:
            raise
        for message, hint in error.problems:
            run.watcher(problem("warning", message, hint))


def _reported(folder: Path, fleet: dict[str, Any], watcher: Watcher) -> str | None:
    """Write the report; a full disk must not hide what was done."""
    try:
        return str(write_report(folder, fleet))
    except UsageError as error:
        watcher(problem("error", error.message, error.hint))
        return None


def _scan_feed(
    order: Order, settings: Settings, planned: Callable[[Sequence[Listed]], Plan], watcher: Watcher
) -> ScanFeed:
    return ScanFeed(
        planned=planned,
        watcher=watcher,
        pattern=settings.serial.pattern,
        attended=order.attended,
    )


def _refuse_nothing(feed: ScanFeed) -> None:
    """Refuse a pipe that ended without a line, as an empty list is refused."""
    if not (feed.attended or feed.scans.count or feed.closed):
        raise UsageError("stdin lists no serials", hint="one serial a line, e.g. AZJN-0042")


def _run(
    order: Order, settings: Settings, plan: Plan, run: Run, typed: Iterator[str] | None
) -> None:
    """Prepare the destinations and make every device."""
    with destinations_for(
        order, settings, plan, run.hook, run.watcher, stopped=lambda: run.feed.closed
    ) as places:
        if isinstance(run.feed, ScanFeed):
            if order.out is None:
                run.feed.lanes = frozenset(place.name for place in places)
            if order.attended:
                run.watcher(said("ready: scan a label; end with Ctrl-D"))
            run.feed.start(scanned(typed), len(places))
        run.to_the_end(places)


def _planned(
    order: Order,
    settings: Settings,
    listed: Sequence[Listed],
    ledger: Ledger,
    *,
    sandbox: bool,
    estimates: bool = True,
) -> Plan:
    def is_done(each: Listed, standing: Standing) -> Entry | None:
        if order.out is not None:
            return image_is_done(order.out, each, standing, settings.device_conf)
        return device_is_done(each, standing)

    plan = make_plan(
        listed,
        ledger,
        settings.ledger,
        sandbox=sandbox,
        is_done=is_done,
        again=order.again,
        jobs=order.jobs,
        estimates=estimates,
    )
    if order.out is None or not estimates:
        return plan
    each = _size_of_one(order, settings)
    return structs.replace(plan, space_needed=each * len(plan.todo), space_free=space_on(order.out))


def _size_of_one(order: Order, settings: Settings) -> int:
    """Return the bytes that one image takes on disk; 0: it is not built yet."""
    from ..l4t.base_image import base_files

    files = [order.base] if order.base else base_files(settings.bsp.dir)
    return files[0].stat().st_blocks * 512 if files and files[0].is_file() else 0
