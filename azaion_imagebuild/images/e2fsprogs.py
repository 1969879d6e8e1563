"""All calls of e2fsprogs: e2fsck checks a raw ext4 image, debugfs changes one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import VerificationError
from ..model import Finding
from ..system.process import find_program, run
from .expanded import expanded
from .zstd import LARGEST

_LOOK = "look at flash.sh's log, then run the same command again; do not flash this image"


def damaged(raw: Path, named: Path | None = None) -> Iterator[Finding]:
    """Check a raw ext4 image with e2fsck, including checksums; write nothing.

    ``named`` is the file to name in messages, if ``raw`` was made from another one.
    """
    e2fsck = find_program("e2fsck")
    if e2fsck is None:
        return  # preflight has checked that it is installed
    with _safe_name(raw) as (name, keep_open):
        argv = [e2fsck, "-fn", name]
        checked = run(argv, cwd=raw.parent, timeout=1800, keep_open=keep_open)
    if checked.returncode != 0:
        said = checked.last_words().replace(name, raw.name)
        message = f"e2fsck finds {named or raw} damaged: {said}"
        yield Finding(message=message, hint=_LOOK)


def damaged_within(image: Path, largest: int = LARGEST) -> Iterator[Finding]:
    """Check the raw image in an Android sparse or zstd image with e2fsck.

    Raises:
        VerificationError: the image is damaged, or there is no room to expand it.
    """
    if find_program("e2fsck") is not None:
        with expanded(image, largest) as raw:
            yield from damaged(raw, image)


def debugfs(raw: Path, command: str) -> None:
    """Run a writing command of debugfs. Its exit code means nothing: read back what it did.

    Raises:
        VerificationError: debugfs is not installed.
    """
    program = find_program("debugfs")
    if program is None:
        raise VerificationError("debugfs is not installed", hint="sudo apt-get install e2fsprogs")
    with _safe_name(raw) as (name, keep_open):
        argv = [program, "-w", "-R", command, name]
        run(argv, cwd=raw.parent, timeout=600, keep_open=keep_open)


@contextlib.contextmanager
def _safe_name(raw: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield a name for e2fsprogs, which reads options after a "?", and what to keep open for it."""
    if "?" not in raw.name:  # the folder's name does not reach it
        yield f"./{raw.name}", ()
        return
    descriptor = os.open(raw, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)
