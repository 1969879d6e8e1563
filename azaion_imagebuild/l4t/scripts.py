"""Running NVIDIA's scripts, and deciding whether they succeeded."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import OperatorError
from ..model import Build
from ..system.log_files import make_log_dir
from ..system.process import TIMED_OUT, Finished, run, search_path
from . import image_files
from .releases import Evidence, Step, Watched, evidence_of, no_evidence
from .usb import RECOVERY_HINT

_LOOKS_WRONG = ("Error:", "ERROR:", "Flash failure", "Timeout", "WITH FAILURES", "No devices to")
"""Beginnings of lines that explain a failure; successful runs print some of them, too.

On a disk larger than its layout, parted says ``Error: The backup GPT table is not at the end of the
disk`` in a good flash.
"""
_MEANINGS = {
    "probing the target board failed": RECOVERY_HINT,
    "No devices to flash": RECOVERY_HINT,
    "BootRom is not running": "the device has left recovery mode, or a hub or a virtual machine"
    f" holds its USB: connect it to the host itself, power it off and on, and {RECOVERY_HINT}",
    # Good runs print the file's name, too.
    "Parsing chip_info.bin information failed": "this often means a USB time-out: try another cable"
    f" or port; {RECOVERY_HINT}",
    "cannot mount the NFS server": (
        _NFS := "the device cannot mount this host's NFS export: allow NFS in the firewall, stop"
        " the VPN, and check: exportfs -s"
    ),
    "mount.nfs": _NFS,
    "APPSIZE might be too small": "the rootfs does not fit: set [bsp] size",
    "requires root privilege": "run the same command with sudo",
    "tegrasign_v3_oemkey.yaml": "signing for an SBK needs this file in bootloader/: unpack NVIDIA's"
    " Secure Boot archive of the same release over the BSP",
    "no attribute 'getiterator'": "the signing tools of R35 need Python 3.8 as python3: set"
    " a PATH that begins with it in [bsp] environment",
    "Timeout": "the device did not come back after it had booted for the flash: try another cable"
    f" or port; {RECOVERY_HINT}",
}
"""What a line of a script usually means; the first printed one counts."""

_CLOCK = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} - ")
"""Newer releases print the time before the words (as read: log() in l4t_network_flash.func)."""


def run_script(
    tree: Path,
    build: Build,
    argv: Sequence[str],
    success: Watched,
    error: type[OperatorError],
    environ: Mapping[str, str] | None = None,
    is_done: Callable[[Sequence[str]], bool] = lambda _: False,
) -> Finished:
    """Run a script of the BSP in its tree, hidden from other users; see :func:`.process.run`.

    What is said of its success or failure is kept, however much it prints after that.

    Raises:
        OperatorError: of the class ``error``, when it cannot be started.
    """
    make_log_dir(build)
    try:
        with image_files.hidden_from_others(tree):
            return run(
                argv,
                cwd=tree,
                environ={**environment(build), **(environ or {})},
                log=_log(build),
                timeout=build.settings.build.script_timeout,
                keep_open=build.lock_fds,
                on_progress=lambda: image_files.hide_images(tree),
                is_telling=telling(success.evidence),
                is_done=is_done,
            )
    except OSError as cause:
        raise error(
            f"cannot run {tree / argv[0]}: {cause.strerror} ({cause.filename})",
            hint="check that it is executable, that its first line names a shell, and that"
            f" {build.log_dir} can be written",
        ) from None


def environment(build: Build) -> dict[str, str]:
    """Return the variables that NVIDIA's scripts get."""
    environ = {"PATH": search_path(), **build.settings.bsp.environment}
    if os.geteuid() == 0:
        environ["USER"] = "root"  # the scripts check the variable, not the uid
    return environ


def check_result(
    finished: Finished,
    build: Build,
    success: Watched,
    error: type[OperatorError],
    logged: str = "",
) -> None:
    """Raise an error unless a script succeeded.

    Args:
        finished: the script.
        build: whose log the hint names.
        success: the evidence.
        error: the class to raise.
        logged: the text of its own log.

    Raises:
        OperatorError: of the class ``error``.
    """
    lines = said((*finished.telling, *finished.tail), logged)
    what = failure_reason(finished, success.missing(lines), lines)
    if what is not None:
        raise error(what, hint=_hint(lines, finished, build))


def said(printed: Sequence[str], logged: str = "") -> list[str]:
    """Return the lines that a script printed and logged, without times."""
    return [_CLOCK.sub("", line.strip()) for line in (*printed, *logged.splitlines())]


def telling(evidence: Evidence) -> Callable[[str], bool]:
    """Return the choice of the lines that a verdict and its explanation need."""

    def is_telling(printed: str) -> bool:
        (line,) = said([printed])
        return evidence.is_said_by(line) or _looks_wrong(line) or any(m in line for m in _MEANINGS)

    return is_telling


def wrong_lines(lines: Sequence[str]) -> list[str]:
    """Return the lines that look like errors, which explain a failure but do not prove one."""
    return [line for line in lines if _looks_wrong(line)]


def _looks_wrong(line: str) -> bool:
    return line.startswith(_LOOKS_WRONG) or "WITH FAILURES" in line


def failure_reason(
    finished: Finished,
    missing: str | None,
    lines: Sequence[str],
    *,
    limit: str = "[build] script_timeout",
) -> str | None:
    """Return why a script failed; None if it succeeded.

    It succeeded only if its exit code and the evidence of its success agree.

    Args:
        finished: the script.
        missing: the evidence that is missing, as a verb phrase.
        lines: its output.
        limit: the setting of its time limit.
    """
    name = Path(finished.argv[0]).name
    if finished.returncode == TIMED_OUT:
        return f"{name} was stopped at its time limit ({limit})"
    last, wrong = finished.last_words(), wrong_lines(lines)
    why = f"{wrong[-1]} | {last}" if wrong and wrong[-1] not in last else last
    if finished.returncode != 0:
        return f"{name} failed (exit {finished.returncode}): {why}"
    if missing is not None:
        return f"{name} ended with 0, but {missing}; it said: {why}"
    return None


def _hint(lines: Sequence[str], finished: Finished, build: Build) -> str:
    for words, meaning in _MEANINGS.items():
        if any(words in line for line in lines):
            return f"{meaning}; {log_hint(build)}"
    return f"{log_hint(build)}; to repeat it: {finished.command_line}"


def evidence_for(build: Build, step: Step, error: type[OperatorError]) -> Evidence:
    """Return the evidence by which a script will be judged, before it starts.

    Raises:
        OperatorError: of the class ``error``: no evidence is known, and the site named nothing.
    """
    evidence = evidence_of(build, step)
    if evidence is None:
        finding = no_evidence(build, step)
        raise error(finding.message, hint=finding.hint)
    return evidence


def log_hint(build: Build) -> str:
    """Return the hint that names the log."""
    return f"see its log {shlex.quote(str(_log(build)))}"


def _log(build: Build) -> Path:
    return build.log_dir / "flash.log"
