"""What a person reads on stderr: the story of a build, and its end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TextIO, TypeGuard, cast

from .errors import OperatorError
from .model import Build, BuildRecord, Finding
from .progress import Lasting, Live, Quiet
from .secret import redact
from .visible import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .displays import Lines, Plain
    from .fleet.plan import Plan
    from .smoke import SmokeReport
    from .stamps import StampRecord
    from .stations.submission import Submission
    from .verification import Report


class Console:
    """Writes lines to one stream; every line is redacted."""

    def __init__(self, stream: TextIO | None) -> None:
        # None: closed by the caller (2>&-)
        stream = None if stream is None else cast("TextIO", Lasting(stream))
        self._stream = stream
        self.debug = False
        """Show the output of scripts whole."""
        self._progress = Live(stream) if _is_terminal(stream) else Quiet(self.say)
        logger = logging.getLogger("azaion_imagebuild")
        logger.handlers = [_Handler(self)]
        logger.propagate = False
        logger.setLevel(logging.DEBUG)

    def say(self, line: str) -> None:
        """Write one line, or the several of a traceback; nothing in it commands the terminal."""
        if self._stream is not None:
            lines = redact(line).expandtabs().split("\n")
            print("\n".join(map(visible, lines)), file=self._stream, flush=True)

    def began(self, build: Build) -> None:
        """A build begins."""
        where = "SANDBOX  " if build.sandbox else ""
        self.say(f"{where}{build.serial}  {build.email}  attempt {build.attempt}")

    def started(self, step: str) -> None:
        """A step begins; it is shown when it has ended."""
        self._progress.started(step)

    def printed(self, line: str) -> None:
        """A script has printed a line."""
        if self.debug:
            self.say(f"    | {line}")
        else:
            self._progress.line(line)

    def ended(self, step: str, seconds: float, note: str) -> None:
        """A step has ended well."""
        self._progress.ended()
        self.say(f"  {step:20} {seconds:7.2f} s  {note}".rstrip())

    def warned(self, finding: Finding) -> None:
        """A check saw something that does not stop the build."""
        self.say(f"warning: {finding.message}")
        self.say(f"hint: {finding.hint}")

    def stopped(self) -> None:
        """What was going on has stopped, perhaps by an interrupt: the live line goes."""
        self._progress.ended()

    def failed(self, error: OperatorError) -> None:
        """Something that the operator can mend: an error line and a hint line for each problem."""
        self._progress.ended()
        for message, hint in error.problems:
            self.say(f"error: {message}")
            self.say(f"hint: {hint}")

    def summary(self, record: BuildRecord) -> None:
        """A build has ended: what a person checks at a glance."""
        if record.error is not None:
            self.failed(record.error)
            self.say(
                f"FAILED {record.build.serial} at {record.step}"
                f" (exit {record.exit_code}) after {record.seconds:.1f} s"
            )
            return
        facts = _facts(record)
        width = max(len(name) for name, _ in facts)
        for name, text in facts:
            self.say(f"  {name:{width}}  {text}")
        done = "DONE in the SANDBOX" if record.build.sandbox else "DONE"
        self.say(f"{done}: {record.build.serial} in {record.seconds:.1f} s")

    def fleet(self, *, scans: bool) -> Plain:
        """Return what shows a fleet; while labels are scanned the terminal echoes them: no bars."""
        from .displays import Bars, Plain

        if _is_terminal(self._stream) and not scans:
            return Bars(self.say, self._stream)
        return Plain(self.say)

    def station(self) -> Lines:
        """Return what shows a station."""
        from .displays import Lines

        return Lines(self.say)

    def submitted(self, submission: Submission) -> None:
        """A list has been queued."""
        for line in submission.lines():
            self.say(line)

    def planned(self, plan: Plan) -> None:
        """A fleet has been planned."""
        from .displays import lines_of

        for line in lines_of(plan):
            self.say(line)

    def fleet_ended(self, fleet: Mapping[str, Any]) -> None:
        """A fleet has ended: what is done, and what is not."""
        from .report import summary_lines

        *lines, last = summary_lines(fleet)
        report = [f"report: {fleet['report']}"] if fleet["report"] else []
        for line in (*lines, *report, last):
            self.say(line)

    def examined(self, findings: list[Finding]) -> None:
        """A host has been looked at."""
        for finding in findings:
            self.say(f"{finding.severity}: {finding.message}")
            self.say(f"hint: {finding.hint}")
        if not any(finding.severity == "error" for finding in findings):
            self.say("OK: ready to build")

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
            self.failed(record.error)

    def rotation_planned(self, plan: Mapping[str, Any]) -> None:
        """It is known whose credentials are old."""
        for each in plan["devices"]:
            self.say(f"  {each['serial']}  since {each['since'][:19]}Z")
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
        for finding in report.findings:
            self.say(f"error: {finding.message}")
            self.say(f"hint: {finding.hint}")
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
            device = record.flashed.device if record.flashed else "no (FLASH=0)"
            facts.append(("flashed", device))
    facts += [
        (name, str(value)) for name, value in record.extra.items() if not isinstance(value, list)
    ]
    return facts


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.DEBUG:
            self._console.printed(record.getMessage())
            return
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        self._console.say(prefix + self.format(record))
