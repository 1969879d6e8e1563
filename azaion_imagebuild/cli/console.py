"""What is said on stderr: the story of a build, and its end, for a person or for a program."""

from __future__ import annotations

import logging
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO, TypeGuard, cast

from ..errors import OperatorError
from ..model import Build, BuildRecord, Finding
from ..pipeline import attempt_log, events
from ..pipeline.events import Event
from ..secret import redact
from ..text import to_the_second, visible
from .live_line import Lasting, Live, Quiet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..fleet.plan import Plan
    from ..operations.smoke import SmokeReport
    from ..operations.stamp import StampRecord
    from ..operations.verify import Report
    from ..stations.submit import Submission
    from .fleet_display import Plain


class Console:
    """Writes lines to one stream, redacted: text, or with ``is_json`` a JSON object for each."""

    def __init__(self, stream: TextIO | None, *, is_json: bool = False) -> None:
        # None: closed by the caller (2>&-)
        stream = None if stream is None else cast("TextIO", Lasting(stream))
        self._stream = stream
        self.debug = False
        """Show the output of scripts whole."""
        self._whose: dict[str, str] = {}
        """The build that goes on: a program finds its events by these fields."""
        self.speak(is_json=is_json)
        for name in events.LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers = [_Handler(self)]
            logger.propagate = False
            logger.setLevel(logging.DEBUG)

    def speak(self, *, is_json: bool) -> None:
        """Choose between text and JSON for all that follows."""
        self.is_json = is_json
        self._progress: Live | Quiet = Quiet(self._progressed)
        if not is_json and _is_terminal(self._stream):
            self._progress = Live(self._stream)

    def tell(self, event: Event, *text: str) -> None:
        """Say what happened: the event to a program, the lines of ``text`` to a person."""
        if not self.is_json:
            for line in text:
                self._write("\n".join(map(visible, redact(line).expandtabs().split("\n"))))
        else:
            self._write(event.as_json(time.time()))

    def say(self, line: str) -> None:
        """Say one line, or the several of a traceback; nothing in it commands the terminal."""
        self.tell(events.said(line), line)

    def _write(self, line: str) -> None:
        if self._stream is not None:
            print(line, file=self._stream, flush=True)

    def began(self, build: Build) -> None:
        """A build begins."""
        event = events.began(build)
        self._whose = events.whose(build)
        self.tell(event, event.message)

    def started(self, step: str) -> None:
        """A step begins; a person sees it when it has ended."""
        self._progress.started(step)
        self.tell(events.started(step).with_fields(self._whose))

    def printed(self, line: str) -> None:
        """A script has printed a line."""
        if self.debug:
            self.tell(Event(name="printed", message=line, level="debug"), f"    | {line}")
        else:
            self._progress.line(line)

    def _progressed(self, line: str) -> None:
        self.tell(Event(name="progress", message=line.strip()), line)

    def ended(self, step: str, seconds: float, note: str) -> None:
        """A step has ended well."""
        self._progress.ended()
        event = events.ended(step, seconds, note).with_fields(self._whose)
        self.tell(event, f"  {event.message}")

    def warned(self, finding: Finding) -> None:
        """A check saw something that does not stop the build."""
        self._problem(events.warned(finding).with_fields(self._whose))

    def stopped(self) -> None:
        """What was going on has stopped, perhaps by an interrupt: the live line goes."""
        self._progress.ended()

    def failed(self, error: OperatorError, whose: Mapping[str, str] = MappingProxyType({})) -> None:
        """Something that the operator can mend: an error line and a hint line for each problem."""
        self._progress.ended()
        for event in events.failed(error):
            self._problem(event.with_fields(whose))

    def _problem(self, event: Event) -> None:
        self.tell(event, f"{event.level}: {event.message}", f"hint: {event.fields['hint']}")

    def summary(self, record: BuildRecord) -> None:
        """A build has ended: what a person checks at a glance."""
        event = events.finished(record)
        if record.error is not None:
            self.failed(record.error, events.whose(record.build))
            log = [f"log: {record.log}"] if record.log else []
            self.tell(event, *log, event.message)
            return
        facts = _facts(record)
        width = max(len(name) for name, _ in facts)
        self.tell(event, *(f"  {name:{width}}  {text}" for name, text in facts), event.message)

    def exited(self, exit_code: int, seconds: float) -> None:
        """The command ends; only a program needs to be told."""
        fields = {"exit_code": exit_code, "seconds": round(seconds, 3)}
        self.tell(Event(name="exit", message=f"exit {exit_code}", fields=fields))

    def fleet(self, *, scans: bool) -> Plain:
        """Return what shows a fleet; while labels are scanned the terminal echoes them: no bars."""
        from .fleet_display import Bars, Events, Plain

        if self.is_json:
            return Events(self.tell)
        if _is_terminal(self._stream) and not scans:
            return Bars(self.say, self._stream)
        return Plain(self.say)

    def station(self) -> Plain:
        """Return what shows a station."""
        from .fleet_display import Events, Lines

        return Events(self.tell) if self.is_json else Lines(self.say)

    def submitted(self, submission: Submission) -> None:
        """A list has been queued."""
        for line in submission.lines():
            self.say(line)

    def planned(self, plan: Plan) -> None:
        """A fleet has been planned."""
        from .fleet_display import lines_of

        for line in lines_of(plan):
            self.say(line)

    def fleet_ended(self, fleet: Mapping[str, Any]) -> None:
        """A fleet has ended: what is done, and what is not."""
        from ..report import summary_lines

        *lines, last = summary_lines(fleet)
        report = [f"report: {fleet['report']}"] if fleet["report"] else []
        for line in (*lines, *report, last):
            self.say(line)

    def examined(self, findings: list[Finding], parts: str) -> None:
        """A host has been looked at; ``parts`` says what a build works with."""
        for each in findings:
            self._problem(events.problem(each.severity, each.message, each.hint))
        if not any(finding.severity == "error" for finding in findings):
            self.say(f"OK: ready to build with {parts}")

    def stamped(self, record: StampRecord) -> None:
        """An image has been stamped with given credentials, or cleared."""
        what = f"carries {record.email}" if record.serial else "holds a placeholder again"
        for path in record.images:
            self.say(f"DONE: {path} {what} ({record.seconds * 1000:.0f} ms)")

    def rotated(self, number: int, total: int, record: BuildRecord) -> None:
        """One of many devices has a new credential, or has not."""
        end = f"→ {record.extra['written'][0]}" if record.error is None else "FAILED"
        self.say(f"  {number:>{len(str(total))}}/{total}  {record.build.serial}  {end}")
        if record.error is not None:
            self.failed(record.error, events.whose(record.build))

    def rotation_planned(self, plan: Mapping[str, Any]) -> None:
        """It is known whose credentials are old."""
        for each in plan["devices"]:
            self.say(f"  {each['serial']}  since {to_the_second(each['since'])}")
        where = "SANDBOX: " if plan["sandbox"] else ""
        self.say(f"{where}{plan['total']} devices would get a new credential; nothing was changed")

    def rotation_ended(self, result: Mapping[str, Any]) -> None:
        """Many devices have new credentials, or have not."""
        where = " in the SANDBOX" if result["sandbox"] else ""
        end = "DONE" if result["outcome"] == "done" else "NOT DONE"
        said = f"{result['done']} of {result['total']} devices have a new device.conf"
        self.say(f"{end}{where}: {said} in {result['out']}")
        if result["outcome"] != "done":
            self.say("hint: the same command again does those that are left")

    def tested(self, report: SmokeReport) -> None:
        """A smoke test has ended."""
        if report.error is not None:
            self.failed(report.error)
        else:
            self.say(f"OK: {report.email} logs in at {report.url} ({report.seconds:.1f} s)")

    def verified(self, report: Report) -> None:
        """A verification has ended."""
        for each in report.findings:
            self._problem(events.problem("error", each.message, each.hint))
        if not report.findings:
            self.say(f"OK: {report.target} ({report.format}) carries {report.email}")


def _is_terminal(stream: TextIO | None) -> TypeGuard[TextIO]:
    return stream is not None and not stream.closed and stream.isatty()


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
        facts.append(("image", f"{record.image.path} ({record.image.format})"))
        if record.image_sha256 is not None:
            facts.append(("sha256", record.image_sha256))
        if record.enrolled is not None and record.build.bsp_dir is not None:  # a base never is
            device = f"yes ({record.flashed.device})" if record.flashed else "no (FLASH=0)"
            facts.append(("flashed", device))
    facts += [
        (name, str(value)) for name, value in record.extra.items() if not isinstance(value, list)
    ]
    return facts


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.DEBUG:
            self._console.printed(events.text_of(record))
            return
        event = events.logged(record).with_fields(attempt_log.whose())
        prefix = "warning: " if event.level == "warning" else ""
        trace = [event.fields["traceback"].rstrip()] if "traceback" in event.fields else []
        self._console.tell(event, prefix + "\n".join([event.message, *trace]))
