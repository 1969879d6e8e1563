"""The formats of image files, by their magic numbers; a file with several is refused.

A file can have two formats: ext4 leaves its first 1024 bytes free, and a tar header fits there. We
could read one, and the device the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..model import LUKS
from . import ext4, tar
from .sparse import MAGIC as SPARSE_MAGIC
from .stream import CorruptImage, Readable
from .zstd import MAGIC as ZSTD_MAGIC

SPARSE, EXT4, TAR, ZSTD = "sparse", "ext4", "tar", "zstd"

_AT_THE_START = {
    struct.pack("<I", SPARSE_MAGIC): SPARSE,
    b"LUKS\xba\xbe": LUKS,
    b"\x1f\x8b": "gzip",
    ZSTD_MAGIC: ZSTD,
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"QFI\xfb": "qcow2",
}
_UNPACKED_BY = {
    "gzip": "gunzip --keep",
    "xz": "unxz --keep",
    "bzip2": "bunzip2 --keep",
    "lz4": "lz4 -d",
    "zip": "unzip",
    "7z": "7z x",
}
_GPT = b"EFI PART"
_GPT_OFFSETS = (512, 4096)  # the second sector
_MBR_TABLE, _MBR_MAGIC = 446, b"\x55\xaa"
_BOOT_BLOCK = 1024  # bytes in front of ext4's superblock; mke2fs empties them
_HEAD = 8192  # bytes that hold every magic number
_KNOWN = "a raw ext4, an Android sparse or a tar image"
_LARGEST_BLOCK_LOG = 6  # 64 KiB, as 1024 << 6
_DISK = "give the image of its APP partition; sfdisk --list IMAGE shows where that begins"


def format_by_magic(stream: Readable) -> str | None:
    """Return the format: ``sparse ext4 tar luks zstd``; None: it has no magic number of these.

    Raises:
        CorruptImage: it has several formats, another compression, or is a whole disk.
    """
    stream.seek(0)
    head = _read_up_to(stream, _HEAD)
    found = list(_formats(head))
    if len(found) > 1:
        raise CorruptImage(
            f"it has the magic numbers of {len(found)} formats ({', '.join(found)}): what the"
            " device would read is not certain",
            hint=f"do not flash it; build {_KNOWN}",
        )
    if not found:
        if _has_mbr(head):
            raise CorruptImage("it is a disk image with a partition table (MBR)", hint=_DISK)
        return None
    if found[0] == "GPT":
        raise CorruptImage("it is a disk image with a partition table (GPT)", hint=_DISK)
    if found[0] == "qcow2":
        raise CorruptImage("it is a virtual disk (qcow2)", hint=f"qemu-img convert -O raw; {_DISK}")
    if found[0] in _UNPACKED_BY:
        raise CorruptImage(
            f"it is compressed ({found[0]})",
            hint=f"unpack it first: {_UNPACKED_BY[found[0]]}; then give the image that was in it",
        )
    if found[0] == EXT4 and any(head[:_BOOT_BLOCK]):
        raise CorruptImage(
            "its first 1024 bytes, which ext4 leaves free, are not empty: other programs may take"
            " it for another format",
            hint="do not flash it; build it again, or, if you know what they hold, empty them:"
            " dd if=/dev/zero of=IMAGE bs=1024 count=1 conv=notrunc",
        )
    return found[0]


def _formats(head: bytes) -> Iterator[str]:
    for magic, name in _AT_THE_START.items():
        if head.startswith(magic):
            yield name
    if head[tar.MAGIC_OFFSET :].startswith(tar.MAGIC):
        yield TAR
    if any(head[offset:].startswith(_GPT) for offset in _GPT_OFFSETS):
        yield "GPT"
    if _has_ext4(head):
        yield EXT4


def _has_ext4(head: bytes) -> bool:
    """Tell by the magic number, the counts and the block size.

    The magic number alone may be a coincidence: a count of free inodes in a sparse file, any two
    bytes in a compressed one.
    """
    if len(head) < 2048 or struct.unpack_from("<H", head, ext4.MAGIC_OFFSET)[0] != ext4.MAGIC:
        return False
    inodes, blocks = struct.unpack_from("<II", head, 1024)
    block_log = struct.unpack_from("<I", head, 1024 + 24)[0]
    return bool(inodes and blocks and block_log <= _LARGEST_BLOCK_LOG)


def _has_mbr(head: bytes) -> bool:
    if len(head) < 512 or head[510:512] != _MBR_MAGIC:
        return False
    entries = [head[at : at + 16] for at in range(_MBR_TABLE, 510, 16)]
    return any(entry[0] in (0, 0x80) and entry[4] for entry in entries)


def _read_up_to(stream: Readable, size: int) -> bytes:
    parts = []
    while size and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
