"""One build at a time per tree: an advisory lock on the folder itself, which leaves no file behind.

A lock for the whole host is a file, which stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import PreflightError
from .process import processes_of
from .signals import check_interrupt

_logger = logging.getLogger(__name__)
_PAUSE = 0.2
_TOOL = re.compile(r"azaion[-_]imagebuild(/__main__\.py)?$")
HOST_FOLDERS = (Path("/run"), Path("/var/lock"))
"""The folder of root's host-wide locks; an ordinary user's are in the temporary folder."""


@contextlib.contextmanager
def locked(folders: Sequence[Path], wait: float) -> Iterator[tuple[int, ...]]:
    """Hold an exclusive lock (flock) on each folder; yield the descriptors that hold it.

    A script that inherits the descriptors keeps the lock: if this process is killed and the script
    goes on, the next build still waits for it. Missing folders are ignored.

    Raises:
        PreflightError: another process holds one for longer than ``wait`` seconds.
    """
    with contextlib.ExitStack() as held:
        descriptors: dict[tuple[int, int], int] = {}
        deadline = time.monotonic() + wait
        for folder in folders:
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue  # preflight reports that
            held.callback(os.close, descriptor)
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) not in descriptors:
                _lock(descriptor, folder, deadline)
                descriptors[found.st_dev, found.st_ino] = descriptor
        try:
            yield tuple(descriptors.values())
        finally:
            for descriptor in descriptors.values():  # a daemon that a script started has them, too
                fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked_file(descriptor: int, path: Path, wait: float) -> Iterator[None]:
    """Hold an exclusive lock (flock) on an open file.

    Raises:
        PreflightError: another process holds it for longer than ``wait`` seconds.
    """
    _lock(descriptor, path, time.monotonic() + wait)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def host_lock(name: str) -> Path:
    """Return the file with which this user's programs lock ``name`` on the whole host."""
    if os.geteuid() == 0:
        for folder in HOST_FOLDERS:
            if folder.is_dir() and os.access(folder, os.W_OK):
                return folder / f"azaion-imagebuild-{name}.lock"
    return Path(tempfile.gettempdir(), f"azaion-imagebuild-{os.geteuid()}-{name}.lock")


@contextlib.contextmanager
def locked_on_host(path: Path, wait: float) -> Iterator[int]:
    """Hold an exclusive lock on a file, which is created if missing; yield its descriptor.

    Raises:
        PreflightError: another process holds it for longer than ``wait`` seconds, or the file is
            not this user's own plain file (somebody may have put a link there).
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise PreflightError(
            f"cannot open the lock {path}: {error.strerror}",
            hint="remove it if it is another user's, or a link",
        ) from None
    try:
        found = os.fstat(descriptor)
        plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if not plain or found.st_uid != os.geteuid():
            raise PreflightError(
                f"the lock {path} is not a plain file of this user",
                hint="check whose it is, then remove it",
            )
        with locked_file(descriptor, path, wait):
            yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, deadline: float) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise PreflightError(
                    f"cannot lock {folder}: {error.strerror}",
                    hint="use a local filesystem for the BSP and the rootfs",
                ) from None
        else:
            return
        if time.monotonic() >= deadline:
            raise PreflightError(
                f"{folder} is in use by {holder(descriptor)}",
                hint="wait for it to end, or stop it; [build] lock_wait sets how long to wait",
            )
        if not told:
            _logger.warning("waiting for %s: it is in use by %s", folder, holder(descriptor))
            told = True
        check_interrupt()
        time.sleep(_PAUSE)


def holder(descriptor: int) -> str:
    """Return the process that holds the lock on an open folder, as far as this user can see.

    Its scripts hold it, too: the one to stop is the tool, or else the oldest of them.
    """
    wanted = os.fstat(descriptor)
    found = [
        each for each in processes_of() if each.pid != os.getpid() and _holds(each.path, wanted)
    ]
    if not found:
        return "another process"
    one = min(found, key=lambda each: (not _is_tool(each.argv), each.pid))
    return f"process {one.pid} ({_command(one.argv)})"


def _holds(process: Path, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found = link.stat()
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return "FLOCK" in (process / "fdinfo" / link.name).read_text()
    return False


def _is_tool(argv: Iterable[str]) -> bool:
    return any(_TOOL.search(word) for word in argv)


def _command(argv: Iterable[str]) -> str:
    names = [word.rpartition("/")[2] if word.startswith("/") else word for word in argv]
    return " ".join(" ".join(names).split())[:120]
