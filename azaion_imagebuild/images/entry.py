"""An entry of an image's tree, with what lstat(2) would return for it."""

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
    """In bytes, for regular files only. None: not known (a sparse tar member)."""
    mtime: int
    """Whole seconds since 1970: GNU tar's format has no fractions."""
    target: str | None = None
    """The target of a symbolic link."""
    device: int = 0
    """A device's number, as st_rdev."""
    linked_to: str | None = None
    """In a tar, the earlier member that this name is a hard link to; it has all other fields."""
