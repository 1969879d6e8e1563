"""Whose files this process believes: its own, root's, and those of the user who called sudo."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def is_own(path: Path) -> bool:
    """Tell whether ``path`` belongs to a user for whom this process acts, and not all may write it.

    Root must not run what any local user can write; that user's own process may.
    """
    link, found = path.lstat(), path.stat()
    return link.st_uid in _owners() and is_ours(found)


def is_ours(found: os.stat_result) -> bool:
    """Tell the same of what :func:`os.stat` found."""
    return found.st_uid in _owners() and not found.st_mode & stat.S_IWOTH


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for this user only, whatever the umask.

    ``Path.mkdir`` makes the missing ones as the umask says: where it is 000, for everybody.

    Raises:
        OSError: it cannot be made, or is there and no folder.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        if path.parent == path or path.is_symlink():
            raise
        make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _owners() -> set[int]:
    owners = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        owners.add(int(os.environ["SUDO_UID"]))
    return owners
