"""NVIDIA's scripts: run one, and decide whether it succeeded."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import OperatorError
from ..model import Build
from ..system.log_files import make_log_dir
from ..system.process import TIMED_OUT, Finished, run, search_path
from . import image_files
from .usb import RECOVERY_HINT

# What the scripts print (l4t-facts: ran and seen on R35.3.1, or read there).
_FAILURES = ("Error:", "ERROR:", "Flash failure", "Timeout", "WITH FAILURES", "No devices to flash")
_NO_DEVICE = ("probing the target board failed", "No devices to flash")
_MEANINGS = {
    "chip_info": "chip_info often means a USB time-out: another cable or port, and recovery again",
    "APPSIZE might be too small": "the rootfs does not fit: set [bsp] size",
    "requires root privilege": "run the same command with sudo",
}
"""What a line of a script usually means."""

_CLOCK = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} - ")
"""Newer releases put the time before the words (as read: log() in l4t_network_flash.func)."""


def run_script(
    tree: Path,
    build: Build,
    argv: Sequence[str],
    error: type[OperatorError],
    environ: Mapping[str, str] | None = None,
) -> Finished:
    """Run a script of the BSP in its tree, hidden from other users.

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
        environ["USER"] = "root"  # the scripts look at the variable, not at the uid
    return environ


def check_result(
    finished: Finished,
    build: Build,
    success: tuple[str, ...],
    error: type[OperatorError],
    logged: str = "",
) -> None:
    """Raise an error unless a script succeeded.

    Args:
        finished: the script.
        build: whose log the hint names.
        success: words of which one must be there.
        error: what is raised otherwise.
        logged: what it wrote into a log of its own.

    Raises:
        OperatorError: of the class ``error``.
    """
    what = failure_reason(finished, success, logged)
    if what is not None:
        lines = [*finished.tail, *logged.splitlines()]
        raise error(what, hint=_meaning(lines, finished, build))


def failure_reason(
    finished: Finished,
    success: tuple[str, ...],
    logged: str = "",
    *,
    limit: str = "[build] script_timeout",
) -> str | None:
    """Return why a script failed; None if it succeeded.

    It succeeded only if its exit code, its errors and its own success line agree.
    """
    name = Path(finished.argv[0]).name
    lines = [*finished.tail, *logged.splitlines()]
    bare = [_CLOCK.sub("", line.strip()) for line in lines]
    failures = [line for line in bare if line.startswith(_FAILURES)]
    if finished.returncode == TIMED_OUT:
        return f"{name} was stopped at its time limit ({limit})"
    if finished.returncode != 0:
        return f"{name} failed (exit {finished.returncode}): {finished.last_words()}"
    if failures:
        return f"{name} ended with 0, but said: {failures[-1]}"
    if not any(words in line for line in lines for words in success):
        return f"{name} ended with 0, but never said “{success[0]}”; last: {finished.last_words()}"
    return None


def _meaning(lines: list[str], finished: Finished, build: Build) -> str:
    if any(words in line for line in lines for words in _NO_DEVICE):
        return RECOVERY_HINT
    for words, meaning in _MEANINGS.items():
        if any(words in line for line in lines):
            return meaning
    return f"{log_hint(build)}; to repeat it: {finished.command_line}"


def log_hint(build: Build) -> str:
    """Return the hint that names the log."""
    return f"see its log {shlex.quote(str(_log(build)))}"


def _log(build: Build) -> Path:
    return build.log_dir / "flash.log"
