"""Reading files, their modes and owners from an ext2, ext3 or ext4 filesystem in a stream.

Format: the kernel's Documentation/filesystems/ext4. Every number of the image is checked before it
is used: a lying header raises :class:`CorruptImage`.
"""

from __future__ import annotations

import os
import stat
import struct
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from ..model import FileEntry
from . import ext4_checks
from .entry import Entry
from .inode import Inode, device, parsed
from .stream import CorruptImage, Readable, read_exactly

MAGIC = 0xEF53
MAGIC_OFFSET = 1024 + 56

_ROOT_INODE = 2
_MOST_LINKS = 40
_LONGEST_LINK = 4096
_MOST_SEARCHED = 16 * 1024 * 1024  # bytes of directories on one path
_DEEPEST_TREE = 5  # EXT4_MAX_EXTENT_DEPTH
_KEPT_BLOCKS = 256  # bytes of inode tables, while the tree is listed
_LEAST_RECORD = 12  # a directory's record with a name of one byte

_EXTENT_MAGIC = 0xF30A
_UNWRITTEN = 32768
_END_OF_BLOCKS = 1 << 32  # a file's blocks are counted in 32 bits


class Extent(Struct, frozen=True, kw_only=True):
    """A run of a file's blocks: ``length`` blocks from ``logical`` on lie at ``physical``."""

    logical: int
    physical: int
    length: int
    written: bool = True
    """False: reserved space that reads as zeros."""


class Ext4:
    """A filesystem in a seekable stream; it is neither written nor mounted."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        sb = read_exactly(stream, 1024, 1024, "ext4 superblock")
        self.superblock = sb
        if struct.unpack_from("<H", sb, 56)[0] != MAGIC:
            raise CorruptImage("no ext4 superblock at byte 1024")
        blocks: int
        self._inodes: int
        self._inodes, blocks = struct.unpack_from("<II", sb, 0)
        (self._first_block, log_size) = struct.unpack_from("<II", sb, 20)
        self._blocks_per_group, _, self._inodes_per_group = struct.unpack_from("<III", sb, 32)
        (revision,) = struct.unpack_from("<I", sb, 76)
        self._inode_size = struct.unpack_from("<H", sb, 88)[0] if revision else 128
        # Revision 0 had no features, but the kernel reads these fields anyway.
        self._features, ro_features = struct.unpack_from("<II", sb, 96)
        self._descriptor_size = 32
        if self._features & ext4_checks.BIT64:
            self._descriptor_size = struct.unpack_from("<H", sb, 254)[0]
            blocks |= struct.unpack_from("<I", sb, 336)[0] << 32
        self._blocks = blocks
        ext4_checks.check_features(self._features, ro_features)
        if log_size > 6:
            raise CorruptImage(f"block size 2^{10 + min(log_size, 999)} is out of range")
        self.block_size = 1024 << log_size
        self._check_geometry()
        ext4_checks.check_fields(sb)

    def _check_geometry(self) -> None:
        size = self.block_size
        least = 64 if self._features & ext4_checks.BIT64 else 32
        fits = 128 <= self._inode_size <= size and _is_power_of_two(self._inode_size)
        fits = fits and least <= self._descriptor_size <= 1024
        fits = fits and _is_power_of_two(self._descriptor_size)
        fits = fits and 0 < self._blocks_per_group <= 8 * size
        fits = fits and 0 < self._inodes_per_group <= 8 * size
        fits = fits and self._first_block == (1 if size == 1024 else 0)
        if not fits or self._blocks <= self._first_block or self._inodes < _ROOT_INODE:
            raise CorruptImage("the numbers in its superblock contradict each other")
        groups = -(-(self._blocks - self._first_block) // self._blocks_per_group)
        if self._inodes > groups * self._inodes_per_group:
            raise CorruptImage("its superblock counts more inodes than its groups hold")
        if self._blocks * size > self._stream.seek(0, 2):
            raise CorruptImage("it is cut short: its last blocks are missing")

    def read_file(self, path: str, limit: int) -> FileEntry | None:
        """Return the regular file at ``path``, following links inside; None if it does not exist.

        Raises:
            CorruptImage: it is not a regular file, longer than ``limit``, or damaged.
        """
        inode = self.find(path)
        if inode is None:
            return None
        if not stat.S_ISREG(inode.mode):
            raise CorruptImage(f"/{path} is not a regular file")
        if inode.size > limit:
            raise CorruptImage(f"/{path} is {inode.size} bytes long, more than {limit}")
        return FileEntry(
            data=self._content(inode),
            mode=stat.S_IMODE(inode.mode),
            uid=inode.uid,
            gid=inode.gid,
        )

    def find(self, path: str) -> Inode | None:
        """Return the inode at ``path``, following links as if chrooted in the image.

        Raises:
            CorruptImage: its directories are damaged, or larger than 16 MiB.
        """
        passed = [self._inode(_ROOT_INODE)]
        to_go = deque(_parts(path.encode("utf-8", "surrogateescape")))
        links = searched = 0
        while to_go:
            name = to_go.popleft()
            if not stat.S_ISDIR(passed[-1].mode):
                return None
            if name == b"..":
                if len(passed) > 1:  # the root's parent is the root
                    passed.pop()
                continue
            searched += passed[-1].size
            if searched > _MOST_SEARCHED:
                raise CorruptImage(f"/{path} leads through too many or too large directories")
            number = self._lookup(passed[-1], name)
            if number is None:
                return None
            inode = self._inode(number)
            if not stat.S_ISLNK(inode.mode):
                passed.append(inode)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise CorruptImage(f"the links of /{path} lead in a circle")
            target = self._link_target(inode)
            if target.startswith(b"/"):
                del passed[1:]
            to_go.extendleft(reversed(_parts(target)))
        return passed[-1]

    def entries(self) -> Iterator[Entry]:
        """Yield every entry of the tree, each folder before its content.

        A directory with two names (a damaged image) is listed once.
        """
        inode_at = self._inodes_read_in_blocks()
        entered = {_ROOT_INODE}
        to_list = [("", _ROOT_INODE)]
        unlisted = self._blocks * self.block_size
        while to_list:
            folder, number = to_list.pop()
            directory = inode_at(number)
            unlisted -= directory.size
            if unlisted < 0:
                raise CorruptImage("its directories are larger than the filesystem")
            for raw, child, _ in self._entries(directory):
                if raw in (b".", b".."):
                    continue
                path = folder + raw.decode("utf-8", "surrogateescape")
                inode = inode_at(child)
                yield self._entry(path, inode)
                if child not in entered and stat.S_ISDIR(inode.mode):
                    entered.add(child)
                    to_list.append((f"{path}/", child))

    def _entry(self, path: str, inode: Inode) -> Entry:
        is_link = stat.S_ISLNK(inode.mode)
        return Entry(
            path=path,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            size=inode.size,
            mtime=inode.mtime,
            target=os.fsdecode(self._link_target(inode)) if is_link else None,
            device=device(inode),
        )

    def _inodes_read_in_blocks(self) -> Callable[[int], Inode]:
        """Return a function that reads inodes by whole blocks of a table, for a listing."""
        table_of = lru_cache(maxsize=None)(self._inode_table)
        block = lru_cache(maxsize=_KEPT_BLOCKS)(self._block)

        def inode_at(number: int) -> Inode:
            group, index = self._group_and_index(number)
            blocks, within = divmod(index * self._inode_size, self.block_size)
            return parsed(
                number, block(table_of(group) + blocks)[within:], self._inode_size, self.block_size
            )

        return inode_at

    def extents(self, inode: Inode) -> Iterator[Extent]:
        """Yield the extents of ``inode``, in order, up to its size; without holes.

        Raises:
            CorruptImage: its map of blocks is damaged, or its data is not in blocks.
        """
        ext4_checks.check_flags(inode)
        wanted = -(-inode.size // self.block_size)
        if inode.flags & ext4_checks.INODE_EXTENTS:
            found = self._extent_root(inode)
        else:
            found = self._block_map(inode, wanted)
        reached = 0
        for extent in found:
            if extent.logical >= wanted:
                return
            end = extent.physical + extent.length
            if extent.logical < reached or extent.length == 0:
                raise CorruptImage(f"the extents of inode {inode.number} overlap")
            if extent.physical <= self._first_block or end > self._blocks:
                raise CorruptImage(f"inode {inode.number} has blocks outside the filesystem")
            reached = extent.logical + extent.length
            if reached > wanted:
                extent = replace(extent, length=wanted - extent.logical)
            yield extent

    def _inode(self, number: int) -> Inode:
        group, index = self._group_and_index(number)
        start = self._inode_table(group) * self.block_size + index * self._inode_size
        return parsed(
            number, self._read(start, self._inode_size, "inode"), self._inode_size, self.block_size
        )

    def _group_and_index(self, number: int) -> tuple[int, int]:
        if not 0 < number <= self._inodes:
            raise CorruptImage(f"there is no inode {number}")
        group, index = divmod(number - 1, self._inodes_per_group)
        return group, index

    def _inode_table(self, group: int) -> int:
        """Return the first block of a group's inodes."""
        table = (self._first_block + 1) * self.block_size
        where = table + group * self._descriptor_size
        descriptor = self._read(where, self._descriptor_size, "group descriptor")
        start: int
        (start,) = struct.unpack_from("<I", descriptor, 8)
        if self._descriptor_size >= 64:
            start |= struct.unpack_from("<I", descriptor, 40)[0] << 32
        if not self._first_block < start < self._blocks:
            raise CorruptImage(f"the inode table of group {group} is outside the filesystem")
        return start

    def _lookup(self, directory: Inode, wanted: bytes) -> int | None:
        """Return the inode number of a name; a name that occurs twice is damage."""
        numbers = [number for name, number, _ in self._entries(directory) if name == wanted]
        if len(numbers) > 1:
            raise CorruptImage(f"the name {wanted!r} is twice in its directory")
        return numbers[0] if numbers else None

    def _entries(self, directory: Inode) -> Iterator[tuple[bytes, int, int]]:
        """Yield (name, inode number, kind); a hole is damage, because it could hide names."""
        ext4_checks.check_flags(directory)
        if directory.size % self.block_size or not 0 < directory.size <= _MOST_SEARCHED:
            raise CorruptImage(f"directory inode {directory.number} has a size it cannot have")
        reached = 0
        for extent in self.extents(directory):
            if extent.logical != reached or not extent.written:
                break
            reached += extent.length
            for physical in range(extent.physical, extent.physical + extent.length):
                yield from self._names(self._block(physical))
        if reached * self.block_size != directory.size:
            raise CorruptImage(f"directory inode {directory.number} has a hole")

    def _names(self, block: bytes) -> Iterator[tuple[bytes, int, int]]:
        position = 0
        while position < len(block):
            if position + _LEAST_RECORD > len(block):
                raise CorruptImage("a directory's last record does not fit into its block")
            number, length, name_length = struct.unpack_from("<IHH", block, position)
            if self._features & ext4_checks.FILETYPE:
                name_length &= 0xFF
            if length in (0, 65535) and len(block) == 65536:
                length = 65536
            if length < _LEAST_RECORD or length % 4 or position + length > len(block):
                raise CorruptImage("a directory's records do not fit into its block")
            if number:
                if name_length > length - 8:
                    raise CorruptImage("a directory's name does not fit into its record")
                yield block[position + 8 : position + 8 + name_length], number, block[position + 7]
            position += length

    def _link_target(self, inode: Inode) -> bytes:
        ext4_checks.check_flags(inode)
        if inode.sectors == 0 and inode.size < len(inode.block):  # by the kernel's rule
            target = inode.block[: inode.size]
        elif inode.size <= _LONGEST_LINK:
            target = self._content(inode)
        else:
            raise CorruptImage(f"link inode {inode.number} is {inode.size} bytes long")
        if not target or b"\0" in target:
            raise CorruptImage(f"link inode {inode.number} has a target that cannot be")
        return target

    def _content(self, inode: Inode) -> bytes:
        content = bytearray(inode.size)
        for extent in self.extents(inode):
            if not extent.written:
                continue
            for index in range(extent.length):
                start = (extent.logical + index) * self.block_size
                if start >= inode.size:
                    break
                block = self._block(extent.physical + index)
                content[start : start + self.block_size] = block[: inode.size - start]
        return bytes(content)

    def _extent_root(self, inode: Inode) -> Iterator[Extent]:
        magic, entries, _, depth = struct.unpack_from("<HHHH", inode.block, 0)
        if magic != _EXTENT_MAGIC or depth > _DEEPEST_TREE:
            raise CorruptImage(f"inode {inode.number} has a damaged extent tree")
        if entries or depth:  # a file without blocks has no extent tree
            yield from self._extent_tree(inode.block, depth, 0, _END_OF_BLOCKS)

    def _extent_tree(self, node: bytes, depth: int, first: int, end: int) -> Iterator[Extent]:
        """Yield the extents below a node that covers the blocks from ``first`` to ``end``."""
        magic, entries, _, found = struct.unpack_from("<HHHH", node, 0)
        room = (len(node) - 12) // 12
        if magic != _EXTENT_MAGIC or found != depth or not 0 < entries <= room:
            raise CorruptImage("an extent tree's header is damaged")
        rows = node[12 : 12 + 12 * entries]
        starts = [start for (start,) in struct.iter_unpack("<I8x", rows)]
        if any(one >= other for one, other in pairwise([first - 1, *starts, end])):
            raise CorruptImage("an extent tree is out of order")
        if depth == 0:
            yield from self._leaf(rows)
            return
        children = struct.iter_unpack("<4xIH2x", rows)
        for (low, high), (start, following) in zip(children, pairwise([*starts, end]), strict=True):
            yield from self._extent_tree(self._block(low | high << 32), depth - 1, start, following)

    @staticmethod
    def _leaf(rows: bytes) -> Iterator[Extent]:
        for logical, length, high, low in struct.iter_unpack("<IHHI", rows):
            written = length <= _UNWRITTEN
            yield Extent(
                logical=logical,
                physical=low | high << 32,
                length=length if written else length - _UNWRITTEN,
                written=written,
            )

    def _block_map(self, inode: Inode, wanted: int) -> Iterator[Extent]:
        """Yield the blocks of a file without extents: 12 direct, then up to three levels."""
        pointers = struct.unpack("<15I", inode.block)
        logical = 0
        for physical in pointers[:12]:
            if physical and logical < wanted:
                yield Extent(logical=logical, physical=physical, length=1)
            logical += 1
        per_block = self.block_size // 4
        for level, pointer in enumerate(pointers[12:], start=1):
            if logical >= wanted:
                return
            if pointer:
                yield from self._indirect(pointer, level, logical, wanted)
            logical += per_block**level

    def _indirect(self, pointer: int, level: int, logical: int, wanted: int) -> Iterator[Extent]:
        span = (self.block_size // 4) ** (level - 1)
        for (child,) in struct.iter_unpack("<I", self._block(pointer)):
            if logical >= wanted:
                return
            if child and level == 1:
                yield Extent(logical=logical, physical=child, length=1)
            elif child:
                yield from self._indirect(child, level - 1, logical, wanted)
            logical += span

    def _block(self, number: int) -> bytes:
        if not self._first_block < number < self._blocks:
            raise CorruptImage(f"block {number} is outside the filesystem")
        return self._read(number * self.block_size, self.block_size, "block")

    def _read(self, offset: int, size: int, what: str) -> bytes:
        if offset + size > self._blocks * self.block_size:
            raise CorruptImage(f"a {what} lies outside the filesystem")
        return read_exactly(self._stream, offset, size, what)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]
