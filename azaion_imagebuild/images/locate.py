"""Where a file's data is in an image of any format: the byte ranges to overwrite."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from msgspec import Struct

from ..model import DEVICE_CONF
from .ext4 import Ext4
from .formats import EXT4_ZST, TAR_ZST, image_format, raw_of_sparse
from .inode import Inode
from .stream import CorruptImage, Readable
from .tar import REGULAR, Member, Tar
from .zstd import Frame, stored_at
from .zstd_tar import ZstdTar

_PACKED_RAW = "it is a raw image that zstd packed, and device.conf is compressed in it"
_PACK_TAR = 'build it without --sparse, or set [image] inject = "rootfs"'
_HEAD = 32  # bytes of a frame: its header and that of its first block


class Range(Struct, frozen=True, kw_only=True):
    """A range of bytes in the image file."""

    offset: int
    length: int


class Location(Struct, frozen=True, kw_only=True):
    """A file in an image: its length, mode, owner, and the ranges of its bytes, in order."""

    format: str
    size: int
    mode: int
    uid: int
    gid: int
    ranges: tuple[Range, ...]


def locate(stream: Readable, path: str) -> Location | None:
    """Find the data of the regular file at ``path``; None: it is not there.

    In a raw or sparse image this takes a few reads; a tar is searched to its end. In an archive
    that zstd packed, only device.conf can be found.

    Raises:
        CorruptImage: it is not a regular file, its data is not stored whole (a hole, a FILL chunk,
            inline data), or the image is damaged.
    """
    found = image_format(stream)
    if found == "tar":
        return in_tar(Tar(stream), path)
    if found == TAR_ZST:
        return in_zstd(ZstdTar(stream), stream)
    if found == EXT4_ZST:
        raise CorruptImage(_PACKED_RAW, hint=_PACK_TAR)
    sparse = raw_of_sparse(stream) if found == "sparse" else None
    filesystem = Ext4(sparse or stream)
    inode = filesystem.find(path)
    if inode is None:
        return None
    if not stat.S_ISREG(inode.mode):
        raise CorruptImage(f"/{path} is not a regular file")
    raw = _merged(_in_ext4(filesystem, inode, path))
    if sparse is not None:
        stored = (each for part in raw for each in sparse.stored_ranges(part.offset, part.length))
        raw = _merged(Range(offset=offset, length=length) for offset, length in stored)
    return Location(
        format=found,
        size=inode.size,
        mode=stat.S_IMODE(inode.mode),
        uid=inode.uid,
        gid=inode.gid,
        ranges=tuple(raw),
    )


def in_tar(archive: Tar, path: str) -> Location | None:
    """Find the data of the regular file at ``path`` in an archive; None: it is not there.

    Raises:
        CorruptImage: it is not a regular file, or the archive is damaged.
    """
    member = archive.find(path)
    if member is None:
        return None
    if member.kind != REGULAR:
        raise CorruptImage(f"/{path} is not a regular file in the archive")
    return Location(
        format="tar",
        size=member.size,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        ranges=(Range(offset=member.offset, length=member.size),),
    )


def in_zstd(archive: ZstdTar, stream: Readable) -> Location | None:
    """Find the data of device.conf in a packed archive, where it is not compressed.

    Args:
        archive: the archive.
        stream: the file that it is in.

    Raises:
        CorruptImage: it is not a regular file, or compressed, or the archive is damaged.
    """
    member = archive.find(DEVICE_CONF)
    if member is None:
        return None
    if member.kind != REGULAR:
        raise CorruptImage(f"/{DEVICE_CONF} is not a regular file in the archive")
    before = [each for each in archive.unpacked.frames if each.start <= member.start]
    return stored_location(stream, before[-1], member)


def stored_location(stream: Readable, frame: Frame, member: Member) -> Location:
    """Return where the data of a member lies in the file.

    Args:
        stream: the file.
        frame: the frame that the member is in.
        member: with its offset in what that frame is a part of.

    Raises:
        CorruptImage: it is compressed.
    """
    stream.seek(frame.offset)
    head = stream.read(_HEAD) or b""
    at = stored_at(head, member.offset - frame.start, member.size)
    if at is None:
        raise CorruptImage("its device.conf is compressed")
    return Location(
        format=TAR_ZST,
        size=member.size,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        ranges=(Range(offset=frame.offset + at, length=member.size),),
    )


def _in_ext4(filesystem: Ext4, inode: Inode, path: str) -> Iterator[Range]:
    block, size = filesystem.block_size, inode.size
    reached = 0
    for extent in filesystem.extents(inode):
        if extent.logical * block != reached or not extent.written:
            break
        length = min(extent.length * block, size - reached)
        yield Range(offset=extent.physical * block, length=length)
        reached += length
    if reached != size:
        raise CorruptImage(f"/{path} has a hole: not all of its bytes are in the image")


def _merged(ranges: Iterator[Range]) -> list[Range]:
    """Join ranges that touch."""
    joined: list[Range] = []
    for each in ranges:
        if joined and joined[-1].offset + joined[-1].length == each.offset:
            length = joined.pop().length + each.length
            each = Range(offset=each.offset + each.length - length, length=length)
        joined.append(each)
    return joined
