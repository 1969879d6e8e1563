"""Accepting only ext4 filesystems and inodes with known features, known flags and valid fields.

The kernel would refuse the others, or read them differently from :mod:`.ext4`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from .stream import CorruptImage

if TYPE_CHECKING:
    from .inode import Inode

FILETYPE, _RECOVER, _EXTENTS, BIT64 = 0x2, 0x4, 0x40, 0x80
_FLEX_BG, _MMP, _EA_INODE, _CSUM_SEED, _LARGEDIR = 0x200, 0x100, 0x400, 0x2000, 0x4000
_INLINE_DATA, _ENCRYPT, _CASEFOLD = 0x8000, 0x10000, 0x20000
_READABLE = (
    FILETYPE
    | _EXTENTS
    | BIT64
    | _FLEX_BG
    | _MMP
    | _EA_INODE
    | _CSUM_SEED
    | _LARGEDIR
    | _INLINE_DATA
    | _ENCRYPT
    | _CASEFOLD
)

_WRITABLE = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x400 | 0x2000 | 0x8000
"""Read-only features that the kernel of L4T mounts for writing: sparse_super to project, verity."""

_LINUX = 0
_SHORT_DESCRIPTOR = 32  # bytes
_LAST_HASH = 5  # TEA of unsigned characters
_HAS_JOURNAL = 0x4
_BIGALLOC = 0x200  # the one read-only feature that changes how blocks are counted

_INODE_ENCRYPTED, INODE_EXTENTS, _INODE_INLINE = 0x800, 0x80000, 0x10000000
_PLAIN_FLAGS = (
    0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80  # s u c S i a d A of chattr(1)
    | 0x400 | 0x1000 | 0x4000 | 0x8000 | 0x10000 | 0x20000  # no compression, htree, j t D T
    | 0x40000 | 0x80000 | 0x2000000 | 0x20000000 | 0x40000000  # huge, extents, x P F
)  # fmt: skip


def check_features(incompat: int, ro_compat: int) -> None:
    """Refuse unknown features.

    Raises:
    CorruptImage: there is one, or the journal must be replayed first.
    """
    if incompat & _RECOVER:
        raise CorruptImage(
            "its journal was not replayed: the device lost power, or the image was copied while"
            " mounted",
            hint="boot the device once, or run e2fsck -p on the image; then try again",
        )
    if ro_compat & _BIGALLOC:
        raise CorruptImage("it counts in clusters of blocks (bigalloc): not supported")
    for unknown, kind in (
        (incompat & ~_READABLE, "incompat"),
        (ro_compat & ~_WRITABLE, "ro_compat"),
    ):
        if unknown:
            raise CorruptImage(f"it has features that are not supported ({kind} {unknown:#x})")


def check_fields(sb: bytes) -> None:
    """Check fields that matter for the kernel's mount only.

    Raises:
    CorruptImage: a field of the superblock has a value that the kernel refuses.
    """
    (log_block, log_cluster) = struct.unpack_from("<II", sb, 24)
    if log_cluster != log_block:
        raise CorruptImage("it counts in clusters of blocks without the feature for that")
    if struct.unpack_from("<I", sb, 72)[0] != _LINUX:
        raise CorruptImage("it was created by another system than Linux (s_creator_os)")
    if struct.unpack_from("<I", sb, 92)[0] & _HAS_JOURNAL:
        (inodes,) = struct.unpack_from("<I", sb, 0)
        inode, device = struct.unpack_from("<II", sb, 224)
        if device or not 0 < inode <= inodes:
            raise CorruptImage("its journal is not in the filesystem itself")
    incompat, (descriptor,) = struct.unpack_from("<I", sb, 96)[0], struct.unpack_from("<H", sb, 254)
    if not incompat & BIT64 and descriptor not in (0, _SHORT_DESCRIPTOR):
        raise CorruptImage(
            f"its group descriptors have {descriptor} bytes without the 64-bit feature"
        )
    if sb[252] > _LAST_HASH:
        raise CorruptImage(f"its directories have an unknown hash version ({sb[252]})")
    (revision,) = struct.unpack_from("<I", sb, 76)
    if revision and struct.unpack_from("<I", sb, 84)[0] < 11:
        raise CorruptImage("its first inode for files is one of the reserved inodes")
    inode_size = struct.unpack_from("<H", sb, 88)[0] if revision else 128
    if inode_size > 128:
        least, wanted = struct.unpack_from("<HH", sb, 348)
        if max(least, wanted) > inode_size - 128:
            raise CorruptImage("its inodes are too small for the fields that they shall hold")


def check_flags(inode: Inode) -> None:
    """Refuse an inode whose data the kernel reads differently, or not at all.

    Raises:
        CorruptImage: it has such a flag, or an unknown one.
    """
    if inode.flags & (_INODE_INLINE | _INODE_ENCRYPTED):
        word = "inline in its inode" if inode.flags & _INODE_INLINE else "encrypted"
        raise CorruptImage(f"the data of inode {inode.number} is {word}: not supported")
    unknown = (
        inode.flags & ~_PLAIN_FLAGS
    )  # such as VERITY or EA_INODE: the kernel reads it differently
    if unknown:
        raise CorruptImage(f"inode {inode.number} has flags that are not supported ({unknown:#x})")
