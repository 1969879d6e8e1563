"""One thing in an image's tree: what lstat(2) would tell of it."""

from __future__ import annotations

from msgspec import Struct


class Entry(Struct, frozen=True, kw_only=True):
    """A file, folder, link, device or pipe in a root filesystem."""

    path: str
    """Without a leading slash."""
    mode: int
    """Type and permission bits, as in st_mode."""
    uid: int
    gid: int
    size: int | None
    """In bytes; only a regular file's means something. None: not known (a sparse tar member)."""
    mtime: int
    """Whole seconds since 1970: tar in its GNU format keeps no more."""
    target: str | None = None
    """Where a symbolic link leads."""
    device: int = 0
    """A device's number, as st_rdev."""
    linked_to: str | None = None
    """In a tar, the earlier member that this name is a hard link to: all else is that one's."""
