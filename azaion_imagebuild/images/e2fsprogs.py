"""All calls of e2fsprogs: e2fsck checks a raw ext4 image, debugfs changes one."""

from __future__ import annotations

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
    checked = run([e2fsck, "-fn", _short(raw)], cwd=raw.parent, timeout=1800)
    if checked.returncode != 0:
        message = f"e2fsck finds {named or raw} damaged: {checked.last_words()}"
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
    run([program, "-w", "-R", command, _short(raw)], cwd=raw.parent, timeout=600)


def _short(raw: Path) -> str:
    # e2fsprogs reads options after a "?": the folder's name must not reach it
    return f"./{raw.name}"
