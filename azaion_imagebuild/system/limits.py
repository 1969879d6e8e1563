"""What the host must grant this process before anything begins."""

from __future__ import annotations

import resource
from pathlib import Path

from ..errors import PreflightError

_FILES = 256
_MEMORY = 2 << 30  # bytes of address space: each thread reserves some 70 MiB
_MOUNTINFO = Path("/proc/self/mountinfo")


def check() -> None:
    """Check that files can be opened, memory be had and /proc be read.

    Raises:
        PreflightError: one problem for each that is missing.
    """
    if problems := [*_few_files(), *_little_memory(), *_no_proc()]:
        raise PreflightError.of_problems(problems)


def _few_files() -> list[tuple[str, str]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES:
        return []
    if hard == resource.RLIM_INFINITY or hard >= _FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, hard))
        return []
    message = f"this process may open only {hard} files; it needs {_FILES}"
    return [(message, "raise the limit: ulimit -n 1024, then run the same command again")]


def _little_memory() -> list[tuple[str, str]]:
    granted, _ = resource.getrlimit(resource.RLIMIT_AS)
    if granted == resource.RLIM_INFINITY or granted >= _MEMORY:
        return []
    message = f"this process may use only {granted >> 20} MiB of memory; it needs {_MEMORY >> 20}"
    return [(message, "raise the limit: ulimit -v unlimited, then run the same command again")]


def _no_proc() -> list[tuple[str, str]]:
    if _MOUNTINFO.is_file():
        return []
    message = f"{_MOUNTINFO} is missing: mounts and running processes cannot be seen"
    return [(message, "mount it: mount -t proc proc /proc; a container needs its own /proc")]
