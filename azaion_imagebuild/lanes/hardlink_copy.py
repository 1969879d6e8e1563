"""A copy of a tree: own folders, hard links for files that are only read, copies of the others.

A hard link takes an entry in a folder, but no data: 200,000 files take about a second.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from ..errors import PreflightError
from ..images.copy import copy_image


class Share(Enum):
    """How a file (or a whole folder) appears in the copy."""

    LINK = "the same file under a second name"
    COPY = "a file of its own"
    LEAVE = "nothing"


def twin(source: Path, target: Path, share: Callable[[str], Share]) -> None:
    """Copy ``source`` to ``target``, with modes, owners, times and attributes.

    Args:
        source: the tree; all of it on one filesystem.
        target: a folder to create, on the same filesystem.
        share: called with every path in the tree; for folders, only :attr:`Share.LEAVE` counts.

    Raises:
        PreflightError: a part lies on another filesystem, or cannot be linked.
        ImageBuildError: a file cannot be copied.
    """
    try:
        _twin(str(source), str(target), "", share, os.stat(source).st_dev)
    except OSError as error:
        raise PreflightError(
            f"cannot make {target} out of {source}: {error.strerror} ({error.filename})",
            hint="both must lie on one local filesystem with hard links, with nothing mounted"
            " inside; nothing in it may be immutable (lsattr)",
        ) from None


def _twin(source: str, target: str, within: str, share: Callable[[str], Share], dev: int) -> None:
    os.mkdir(target, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            path = f"{within}{entry.name}"
            chosen = share(path)
            if chosen is Share.LEAVE:
                continue
            new = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                _refuse_mount(entry, dev)
                _twin(entry.path, new, f"{path}/", share, dev)
            elif chosen is Share.COPY and entry.is_file(follow_symlinks=False):
                copy_image(Path(entry.path), Path(new))
                dress(entry.path, new)
            else:
                os.link(entry.path, new, follow_symlinks=False)
    dress(source, target)


def _refuse_mount(entry: os.DirEntry[str], dev: int) -> None:
    if entry.stat(follow_symlinks=False).st_dev != dev:
        raise PreflightError(
            f"something is mounted at {entry.path}", hint=f"umount {entry.path}, then run it again"
        )


def dress(source: str, target: str) -> None:
    """Give a file or folder the owner, mode, times and attributes of another one."""
    if os.geteuid() == 0:
        found = os.stat(source)
        os.chown(target, found.st_uid, found.st_gid)
    shutil.copystat(source, target)
