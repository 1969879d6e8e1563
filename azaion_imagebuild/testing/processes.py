"""Processes, as the kernel shows them in /proc: which are ours, and which have ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_SOON = 3.0  # seconds for a killed process to end


def children() -> set[str]:
    """Return this process's children, including zombies."""
    mine = str(os.getpid())
    stats = {path.name: _stat(path.name) for path in Path("/proc").glob("[0-9]*")}
    return {f"{pid} ({at[0]})" for pid, at in stats.items() if at and at[2] == mine}


def ended_soon(pids: Iterable[int]) -> bool:
    """Tell whether all of the processes have ended."""
    deadline = time.monotonic() + _SOON
    waited_for = list(pids)
    while any(_goes_on(pid) for pid in waited_for):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def end(pids: Iterable[int]) -> None:
    """Kill those of the processes that are still running."""
    for pid in filter(_goes_on, pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def pids_in(path: Path) -> list[int]:
    """Return the process numbers that a script wrote into a file, one a line; none: no file."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _goes_on(pid: int) -> bool:
    found = _stat(str(pid))
    return found is not None and found[1] not in "ZX"


def _stat(pid: str) -> tuple[str, str, str] | None:
    """Return (name, state, parent) of a process; None: it is gone (proc_pid_stat(5))."""
    try:
        text = Path("/proc", pid, "stat").read_text()
    except OSError:
        return None
    name, _, rest = text.partition(" (")[2].rpartition(") ")
    state, parent = rest.split()[:2]
    return name, state, parent
