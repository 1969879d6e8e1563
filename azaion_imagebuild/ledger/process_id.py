"""Which process, host and user wrote a row, and whether that process still runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import pwd
from functools import cache
from pathlib import Path

_UNKNOWN = "?"


@cache
def user() -> str:
    """Return the user who runs this process; under sudo, the user who called it."""
    caller = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    try:
        return caller or pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


@cache
def this_host() -> str:
    """Return the name of this machine."""
    return platform.node() or _UNKNOWN


def this_process() -> str:
    """Return ``BOOT PID START SPACE MACHINE``, which is unique to this process.

    START is field 22 of /proc/PID/stat, SPACE the namespace in which PID counts (a container's).
    """
    return _describe(os.getpid())


@cache
def _describe(pid: int) -> str:  # cached by PID: a fork gets its own
    return f"{_boot()} {pid} {_started(pid)} {_namespace()} {_machine()}"


def is_alive(host: str | None, process: str | None) -> bool:
    """Tell whether the process of a row may still run; True if that cannot be seen from here."""
    if process is None:
        return True
    running = is_running(process)
    if running is not None:
        return running
    boot, _, _, _, machine = _words(process)
    restarted = host == this_host() and machine in (_UNKNOWN, _machine()) and boot != _boot()
    return not restarted


def is_running(process: str) -> bool | None:
    """Tell whether a process runs.

    None: it belongs to another machine, container or boot, or this user cannot see it.
    """
    boot, pid, started, namespace, _ = _words(process)
    if boot != _boot() or namespace not in (_UNKNOWN, _namespace()):
        return None
    now = _started(int(pid)) if pid.isdigit() else "gone"
    return None if now != "gone" and _UNKNOWN in (now, started) else now == started


def _words(process: str) -> list[str]:
    return [*process.split(" "), *[_UNKNOWN] * 5][:5]


@cache
def _namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    return _UNKNOWN


@cache
def _machine() -> str:
    """Return a digest of the machine's id, which should stay private (machine-id(5))."""
    with contextlib.suppress(OSError):
        found = Path("/etc/machine-id").read_bytes().strip()
        if found:
            return hashlib.sha256(b"azaion-imagebuild machine\0" + found).hexdigest()[:16]
    return _UNKNOWN


@cache
def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return _UNKNOWN


def _started(pid: int) -> str:
    try:
        # The program's name, in parentheses, may contain spaces and parentheses.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _UNKNOWN if _is_hidden(pid) else "gone"
    return "gone" if words[0] in ("Z", "X") else words[19]


def _is_hidden(pid: int) -> bool:
    """Tell whether a process runs that procfs does not show (hidepid=2, or it is not mounted)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
