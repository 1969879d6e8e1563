"""The version of an image file: what changes with every write to it."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct


class Version(Struct, frozen=True, kw_only=True):
    """One state of an image file; every write to it makes another."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: int | Path) -> Version:
        """Return the version that a file is in, open or by its path."""
        found = os.stat(file)  # noqa: PTH116 - a descriptor, mostly
        return cls(
            inode=found.st_ino,
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
        )
