"""An ext4 inode, parsed from a row of an inode table.

Format: the kernel's Documentation/filesystems/ext4/inodes.rst.
"""

from __future__ import annotations

import os
import stat
import struct

from msgspec import Struct

from .stream import CorruptImage

_WITH_MTIME_EXTRA = 12  # with this i_extra_isize or more, there is an i_mtime_extra


class Inode(Struct, frozen=True, kw_only=True):
    """An inode: type, owner, size, and map of blocks."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    flags: int
    sectors: int
    """Sectors of 512 bytes that its data takes, without its xattrs."""
    block: bytes
    """The 60 bytes of i_block: extents, block numbers, or a short link's target."""
    mtime: int
    """Whole seconds since 1970."""


def parsed(number: int, raw: bytes, inode_size: int, block_size: int) -> Inode:
    """Parse one row of an inode table.

    Raises:
        CorruptImage: the inode is in use and deleted at once, or has more fields than room.
    """
    mode, uid, size = struct.unpack_from("<HHI", raw, 0)
    gid, links = struct.unpack_from("<HH", raw, 24)
    if links == 0:
        raise CorruptImage(f"inode {number} is in use and deleted at once")
    if inode_size > 128:
        (extra,) = struct.unpack_from("<H", raw, 128)
        if extra % 4 or 128 + extra > inode_size:
            raise CorruptImage(f"inode {number} has more fields than it has room for")
    sectors, flags = struct.unpack_from("<II", raw, 28)
    xattr_block, size_high = struct.unpack_from("<II", raw, 104)
    uid_high, gid_high = struct.unpack_from("<HH", raw, 120)
    return Inode(
        number=number,
        mode=mode,
        uid=uid | uid_high << 16,
        gid=gid | gid_high << 16,
        size=size | size_high << 32,
        flags=flags,
        sectors=sectors - (block_size // 512 if xattr_block else 0),
        block=raw[40:100],
        mtime=_mtime(raw, inode_size),
    )


def _mtime(raw: bytes, inode_size: int) -> int:
    seconds: int
    (seconds,) = struct.unpack_from("<i", raw, 16)
    if inode_size > 128 and struct.unpack_from("<H", raw, 128)[0] >= _WITH_MTIME_EXTRA:
        seconds += (raw[136] & 3) << 32  # epoch bits, for times after 2038
    return seconds


def device(inode: Inode) -> int:
    """Return a device's number as os.makedev() does; 0: it is not a device."""
    if not (stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)):
        return 0
    old, new = struct.unpack_from("<II", inode.block, 0)
    if old:
        return os.makedev(old >> 8 & 0xFF, old & 0xFF)
    return os.makedev(new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)
