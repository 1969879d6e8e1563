"""What each command shows at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..pipeline import events
from ..text import to_the_second
from .console import Console

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..model import BuildRecord, Finding
    from ..operations.dry_run import ImagePlan
    from ..operations.smoke import SmokeReport
    from ..operations.stamp import StampRecord
    from ..operations.verify import Report


def build_ended(record: BuildRecord, console: Console) -> None:
    """Show how a build ended."""
    event = events.finished(record)
    if record.error is not None:
        console.failed(record.error, events.whose(record.build))
        log = [f"log: {record.log}"] if record.log else []
        console.tell(event, *log, event.message)
        return
    facts = _facts(record)
    width = max(len(name) for name, _ in facts)
    console.tell(event, *(f"  {name:{width}}  {text}" for name, text in facts), event.message)


def _facts(record: BuildRecord) -> list[tuple[str, str]]:
    facts = []
    if record.enrolled is not None:
        facts.append(("account", f"{record.build.email} ({record.enrolled})"))
    if record.staged is not None:
        owner = f"{record.staged.ownership.uid}:{record.staged.ownership.gid}"
        path = f"/{record.staged.path}"
        if record.build.bsp_dir is None and record.image is None:
            path = str(record.build.rootfs_dir / record.staged.path)
        facts.append(("identity", f"{path} {record.staged.mode:04o} {owner}"))
    if record.image is not None:
        facts += _facts_of_image(record)
    facts += [
        (name, str(value)) for name, value in record.extra.items() if not isinstance(value, list)
    ]
    return facts


def _facts_of_image(record: BuildRecord) -> list[tuple[str, str]]:
    assert record.image is not None  # noqa: S101 - our caller has looked
    facts = [("image", f"{record.image.path} ({record.image.format})")]
    if record.image_sha256 is not None:
        facts.append(("digest", f"{record.image_sha256} (fs-verity)"))
    if record.enrolled is not None and record.build.bsp_dir is not None:  # a base is never flashed
        device = f"yes ({record.flashed.device})" if record.flashed else "no (FLASH=0)"
        facts.append(("flashed", device))
    return facts


def image_planned(plan: ImagePlan, console: Console) -> None:
    """Show what a build would do, and what speaks against it."""
    where = "SANDBOX  " if plan.sandbox else ""
    console.say(f"{where}{plan.serial}  {plan.email}  dry run: nothing is changed")
    for number, step in enumerate(plan.steps, 1):
        console.say(f"  {number}. {step}")
    for each in plan.findings:
        console(events.problem(each.severity, each.message, each.hint))
    if not plan.exit_code:
        console.say("OK: the build could start")


def say_all(lines: Iterable[str], console: Console) -> None:
    """Show several lines."""
    for line in lines:
        console.say(line)


def fleet_ended(fleet: Mapping[str, Any], console: Console) -> None:
    """Show the result of a fleet, and what is left."""
    from ..report import summary_lines

    *lines, last = summary_lines(fleet)
    report = [f"report: {fleet['report']}"] if fleet["report"] else []
    say_all([*lines, *report, last], console)


def station_ended(station: Mapping[str, Any], console: Console) -> None:
    """Show how many devices a station has made."""
    counts = (
        f"{station['done']} done, {station['failed']} failed, {station['unknown']} unknown,"
        f" {station['given_back']} requeued"
    )
    console.say(f"station {station['station']} {station['outcome']}: {counts}")


def host_examined(findings: list[Finding], parts: str, console: Console) -> None:
    """Show whether this host is ready; ``parts`` says what a build works with."""
    for each in findings:
        console(events.problem(each.severity, each.message, each.hint))
    if not any(finding.severity == "error" for finding in findings):
        console.say(f"OK: ready to build with {parts}")


def image_stamped(record: StampRecord, console: Console) -> None:
    """Show which images got given credentials or a placeholder."""
    what = f"carries {record.email}" if record.serial else "holds a placeholder again"
    for path in record.images:
        console.say(f"DONE: {path} {what} ({record.seconds * 1000:.0f} ms)")


def device_rotated(console: Console, number: int, total: int, record: BuildRecord) -> None:
    """Show whether one of many devices got a new credential."""
    end = f"→ {record.extra['written'][0]}" if record.error is None else "FAILED"
    console.say(f"  {number:>{len(str(total))}}/{total}  {record.build.serial}  {end}")
    if record.error is not None:
        console.failed(record.error, events.whose(record.build))


def rotation_planned(plan: Mapping[str, Any], console: Console) -> None:
    """Show which credentials are old."""
    for each in plan["devices"]:
        console.say(f"  {each['serial']}  since {to_the_second(each['since'])}")
    where = "SANDBOX: " if plan["sandbox"] else ""
    console.say(f"{where}{plan['total']} devices would get a new credential; nothing was changed")


def rotation_ended(result: Mapping[str, Any], console: Console) -> None:
    """Show how many devices got a new credential."""
    where = " in the SANDBOX" if result["sandbox"] else ""
    end = "DONE" if result["outcome"] == "done" else "NOT DONE"
    count = f"{result['done']} of {result['total']} devices have a new device.conf"
    console.say(f"{end}{where}: {count} in {result['out']}")
    if result["outcome"] != "done":
        console.say("hint: run the same command again to do the rest")


def smoke_tested(report: SmokeReport, console: Console) -> None:
    """Show whether a device can log in."""
    if report.error is not None:
        console.failed(report.error)
    else:
        console.say(f"OK: {report.email} logs in at {report.url} ({report.seconds:.1f} s)")


def target_verified(report: Report, console: Console) -> None:
    """Show whether a target holds the right identity."""
    for each in report.findings:
        console(events.problem("error", each.message, each.hint))
    if not report.findings:
        console.say(f"OK: {report.target} ({report.format}) carries {report.email}")
