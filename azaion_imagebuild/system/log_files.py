"""Log files: private, and once open, never a reason for a build to fail."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import StagingError
from ..model import Build, Finding
from .files import distrust, make_folder

_HINT = "set AZAION_IMAGEBUILD_STATE_DIR to a folder of your own"


def make_log_dir(build: Build) -> None:
    """Make the folder of this attempt's logs, for this user only.

    Raises:
        StagingError: it cannot be made.
    """
    try:
        make_folder(build.log_dir)
        if wrong := distrust(build.log_dir.parent):
            raise StagingError(
                f"cannot make the log folder {build.log_dir}: {wrong[0]}",
                hint=f"{wrong[1]}; or {_HINT}",
            )
    except OSError as error:
        raise StagingError(
            f"cannot make the log folder {build.log_dir}: {error.strerror}",
            hint=_HINT,
        ) from None


def findings(build: Build) -> list[Finding]:
    """Return what would keep NVIDIA's scripts from having a log; change nothing."""
    there = next(each for each in (build.log_dir, *build.log_dir.parents) if os.path.lexists(each))
    of_serial = build.log_dir.parent
    if of_serial.exists() and (wrong := distrust(of_serial)):
        message = f"logs cannot be written into {of_serial}: {wrong[0]}"
        return [Finding(message=message, hint=f"{wrong[1]}; or {_HINT}")]
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        message = f"logs cannot be written into {there}"
        return [Finding(message=message, hint=_HINT)]
    return []


@contextlib.contextmanager
def appending(log: Path | None) -> Iterator[Callable[[str], None]]:
    """Open a log (0600; no link is followed); yield a thread-safe function that adds a line.

    If the disk fills up later, lines are lost (a partial one gets a line of its own), but the
    program goes on.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(log or os.devnull, flags, 0o600)

    torn = b""

    def note(line: str) -> None:
        nonlocal torn
        data = torn + f"{line}\n".encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            torn = b"\n" if os.write(descriptor, data) < len(data) else b""

    try:
        yield note
    finally:
        os.close(descriptor)
