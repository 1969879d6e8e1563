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


def _owners() -> set[int]:
    owners = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        owners.add(int(os.environ["SUDO_UID"]))
    return owners
