"""What a build would do: the checks before its start, and its steps in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from ..errors import ExitCode
from ..identity.serial import parse_serial
from ..ledger import Standing
from ..model import Build, Finding
from ..pipeline.answers import flatten
from ..pipeline.hookspecs import REQUIRED
from ..pipeline.new import device_build
from ..pipeline.plugins import load_plugins
from ..settings import Settings
from .parts import ledger_to_read, parts


class ImagePlan(Struct, frozen=True, kw_only=True):
    """What a build of one device would do; nothing of it is done."""

    serial: str
    email: str
    sandbox: bool
    steps: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """Return what a process that only plans ends with."""
        stops = any(each.severity == "error" for each in self.findings)
        return int(ExitCode.PREFLIGHT if stops else ExitCode.DONE)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as one JSON object."""
        return {
            "outcome": "failed" if self.exit_code else "planned",
            "serial": self.serial,
            "email": self.email,
            "sandbox": self.sandbox,
            "steps": list(self.steps),
            "findings": [
                {"severity": each.severity, "error": each.message, "hint": each.hint}
                for each in self.findings
            ],
            "exit_code": self.exit_code,
        }


def plan_image(serial: str, settings: Settings) -> ImagePlan:
    """Return what ``image`` would do; no account is touched, and nothing is written.

    The sandbox is the exception: its own parts are created, to have something to check.

    Raises:
        UsageError: the serial or the settings are wrong.
        LedgerError: the ledger cannot be read.
    """
    serial = parse_serial(serial, settings.serial.pattern)
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    with parts(settings) as (used, sandbox), ledger_to_read(settings) as ledger:
        build = device_build(serial, used, sandbox=sandbox)
        found = ledger.standings({serial: build.email}, sandbox=sandbox)[serial]
        findings = [*flatten(hook.preflight(build=build) + hook.pre_provision(build=build))]
        policy = settings.ledger
        findings += found.findings(policy.reprovision, confirmed=policy.confirmed)
        findings += found.findings_of_fuses(asked=build.fuse)
        return ImagePlan(
            serial=serial,
            email=build.email,
            sandbox=sandbox,
            steps=tuple(_steps(build, found)),
            findings=tuple(dict.fromkeys(findings)),
        )


def _steps(build: Build, standing: Standing) -> Iterator[str]:
    """Yield the steps of a build in words, in their order."""
    settings = build.settings
    if build.fuse and standing.fused is None:
        yield "burn the device's fuses: this cannot be undone"
    if any(row.account is not None for row in standing.rows):
        yield f"give the account {build.email} a new password"
    else:
        yield f"create the account {build.email}, or give it a new password if it exists"
    where = "the base image" if build.stamps else str(build.rootfs_dir)
    verb = "stamp" if build.stamps else "write"
    yield f"{verb} /etc/azaion/device.conf into {where}"
    if not build.stamps:
        yield f"build the image in {build.bsp_dir} for {settings.bsp.board}"
    yield "read the finished image back, and stop at any difference"
    if not build.flash:
        yield "keep the image; do not flash it (FLASH=0)"
    elif build.usb_instance:
        yield f"flash the device at USB {build.usb_instance}"
    else:
        yield "flash the device in recovery mode"
