"""What each command shows at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..identity.serial import EMAIL_PREFIX
from ..pipeline import events
from ..text import counted, to_the_second
from .console import Console

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

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
    columns = _COLUMNS if record.image is not None else 10_000  # where provision wrote stays whole
    lines = [_fact(name, text, width, columns) for name, text in facts]
    console.tell(event, *lines, event.message)


def _fact(name: str, text: str, width: int, columns: int) -> str:
    """Return a fact on a line of so many columns; a command to type stays whole."""
    room = columns - width - 4
    if len(text) > room and name not in _TO_TYPE:
        text = f"…{text[1 - room :]}"  # a path's end says more
    return f"  {name:{width}}  {text}"


_COLUMNS = 80
_MOST = 5  # facts: the sixth line is the last one
_TO_TYPE = ("flash_command",)


def _facts(record: BuildRecord) -> list[tuple[str, str]]:
    """Return what a person checks at a glance; the record has everything."""
    facts = []
    if record.enrolled is not None:
        facts.append(("account", f"{record.build.email} ({record.enrolled})"))
    if record.staged is not None and record.image is None:
        owner = f"{record.staged.ownership.uid}:{record.staged.ownership.gid}"
        path = f"/{record.staged.path}"
        if record.build.bsp_dir is None and record.image is None:
            path = str(record.build.rootfs_dir / record.staged.path)
        facts.append(("identity", f"{path} {record.staged.mode:04o} {owner}"))
    if record.image is not None:
        facts += _facts_of_image(record)
    more = [
        (name, str(value)) for name, value in record.extra.items() if not isinstance(value, list)
    ]
    more.sort(key=lambda fact: fact[0] not in _TO_TYPE)
    if len(facts) + len(more) > _MOST:
        facts = [fact for fact in facts if fact[0] != "digest"]
    room = _MOST - len(facts)
    if len(more) > room:
        rest = ", ".join(f"{name}: {value}" for name, value in more[room - 1 :])
        more = [*more[: room - 1], ("more", rest)]
    return facts + more


def _facts_of_image(record: BuildRecord) -> list[tuple[str, str]]:
    assert record.image is not None  # noqa: S101 - our caller has looked
    facts = [("image", f"{record.image.path} ({record.image.format})")]
    if record.image_sha256 is not None:
        facts.append(("digest", f"{record.image_sha256[:32]}… (fs-verity)"))
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


def fleet_ended(fleet: Mapping[str, Any], out: Path | None, console: Console) -> None:
    """Show what a fleet has done, and what is left; ``out``: the folder of its images."""
    from ..report import summary_lines

    *lines, last = summary_lines(fleet)
    images = [f"images: {out}"] if out is not None else []
    report = [f"report: {fleet['report']}"] if fleet["report"] else []
    say_all([*lines, *images, *report, last], console)


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
    console.say(
        f"{where}{counted(plan['total'], 'device')} would get a new credential; nothing was changed"
    )


def rotation_ended(result: Mapping[str, Any], console: Console) -> None:
    """Show how many devices got a new credential."""
    where = " in the SANDBOX" if result["sandbox"] else ""
    end = "DONE" if result["outcome"] == "done" else "NOT DONE"
    verb = "has" if result["total"] == 1 else "have"
    count = f"{result['done']} of {counted(result['total'], 'device')} {verb} a new device.conf"
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
        whose = f"OK: {report.target} ({report.format}) carries {report.email}"
        if report.serial is None and report.email.startswith(EMAIL_PREFIX):
            suffix = report.email.partition("@")[0].removeprefix(EMAIL_PREFIX)
            whose += f", a serial that ends in -{suffix.upper()}"
        console.say(whose)
