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
    owners = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        owners.add(int(os.environ["SUDO_UID"]))
    return {link.st_uid, found.st_uid} <= owners and not found.st_mode & stat.S_IWOTH
