"""Images for the tests: made with e2fsprogs, seen through debugfs, packed as Android sparse."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import shake_128
from pathlib import Path
from tempfile import TemporaryDirectory

from azaion_imagebuild.images.stream import Readable
from azaion_imagebuild.model import FileEntry

SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def call(tool: str, *argv: object, stdin: str = "", fine: Iterable[int] = (0,)) -> str:
    """Run one of the system's tools and return its output; an ordinary user's PATH has no sbin."""
    done = subprocess.run(
        [shutil.which(tool, path=SEARCHED) or tool, *map(str, argv)],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    assert done.returncode in fine, f"{tool}: {done.stdout}"
    return done.stdout


def mke2fs(image: Path, options: str, size: str, tree: Path | None = None) -> Path:
    """Make a filesystem in the file ``image`` with what is in ``tree``."""
    content = ["-d", tree] if tree else []
    call("mke2fs", "-q", "-F", *options.split(), *content, image, size)
    return image


def debugfs(image: Path, *commands: str, writable: bool = False) -> str:
    """Have debugfs do ``commands`` with ``image`` and return all that it said."""
    options = ["-w"] if writable else []
    return call("debugfs", *options, "-f", "-", image, stdin="\n".join(commands) + "\n")


def change(image: Path, *commands: str) -> None:
    """Have debugfs change ``image``; it says nothing where all went well, whatever it returns."""
    said = debugfs(image, *commands, writable=True)
    wrong = [
        line for line in said.splitlines() if line and not line.startswith(("debugfs", "Allocated"))
    ]
    assert not wrong, said


def seen_by_debugfs(image: Path, paths: Sequence[str]) -> dict[str, FileEntry]:
    """Return the files at ``paths`` as debugfs reads them."""
    with TemporaryDirectory() as folder:
        copies = [Path(folder, str(number)) for number in range(len(paths))]
        commands = [f"dump /{path} {copy}" for path, copy in zip(paths, copies, strict=True)]
        said = debugfs(image, *commands, *(f"stat /{path}" for path in paths))
        contents = [copy.read_bytes() for copy in copies]
    rows = re.findall(r"Mode: +(\d+) .*?\nUser: *(-?\d+) +Group: *(-?\d+) ", said, re.DOTALL)
    return {
        path: FileEntry(
            data=content,
            mode=int(mode, 8),
            uid=int(uid) & 0xFFFFFFFF,  # it shows them signed
            gid=int(gid) & 0xFFFFFFFF,
        )
        for path, content, (mode, uid, gid) in zip(paths, contents, rows, strict=True)
    }


def blocks_by_debugfs(image: Path, path: str, logicals: Sequence[int]) -> list[int]:
    """Return where debugfs finds blocks of a file; a hole is 0."""
    said = debugfs(image, *(f"bmap /{path} {logical}" for logical in logicals))
    found = [int(line.split()[0]) for line in said.splitlines() if re.match(r"\d", line)]
    assert len(found) == len(logicals), said
    return found


def inode_offsets(image: Path, paths: Sequence[str]) -> list[int]:
    """Return at which bytes of ``image`` the inodes of ``paths`` begin."""
    said = debugfs(image, "stats -h", *(f"imap /{path}" for path in paths))
    size = int(re.findall(r"Block size: +(\d+)", said)[0])
    places = re.findall(r"located at block (\d+), offset 0x([0-9a-f]+)", said)
    assert len(places) == len(paths), said
    return [int(block) * size + int(offset, 16) for block, offset in places]


def noise(seed: object, size: int) -> bytes:
    """Return bytes that look random, the same at every run and without a zero block."""
    return shake_128(repr(seed).encode()).digest(size)


def with_holes(path: Path, size: int, pieces: Iterable[tuple[int, int]]) -> None:
    """Write a file of ``size`` bytes with noise only in ``pieces``: (offset, length)."""
    with path.open("wb") as stream:
        stream.truncate(size)
        for offset, length in pieces:
            stream.seek(offset)
            stream.write(noise((path.name, offset), length))


def changed(image: bytes, *changes: tuple[int, str, int]) -> bytes:
    """Return ``image`` with numbers put in: (offset, struct format without its order, number)."""
    data = bytearray(image)
    for offset, kind, number in changes:
        struct.pack_into("<" + kind, data, offset, number)
    return bytes(data)


@dataclass
class Counted:
    """A stream that keeps account of what is read from it."""

    stream: Readable
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """(offset, bytes that came), in turn."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self.stream.seek(offset, whence)

    def read(self, size: int = -1, /) -> bytes | None:
        offset = self.stream.seek(0, os.SEEK_CUR)
        data = self.stream.read(size)
        self.ranges.append((offset, len(data or b"")))
        return data

    @property
    def reads(self) -> int:
        return len(self.ranges)

    @property
    def bytes_read(self) -> int:
        return sum(size for _, size in self.ranges)


RAW, FILL, DONT_CARE, CRC32 = 0xCAC1, 0xCAC2, 0xCAC3, 0xCAC4


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a sparse image: its kind, how many blocks it stands for, what it carries."""

    kind: int
    blocks: int
    payload: bytes = b""

    def expanded(self, block: int) -> bytes:
        """Return the bytes of the raw image that it stands for."""
        size = self.blocks * block
        if self.kind == FILL:
            return self.payload * (size // 4)
        return self.payload if self.kind == RAW else bytes(size)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseLayout:
    """A sparse image chunk by chunk."""

    block: int
    chunks: tuple[Chunk, ...]
    header: int = 28
    chunk_header: int = 12

    def packed(self) -> bytes:
        """Return the image; longer headers than the format's are filled with 0xEE."""
        blocks = sum(chunk.blocks for chunk in self.chunks)
        numbers = (self.header, self.chunk_header, self.block, blocks, len(self.chunks), 0)
        parts = [struct.pack("<IHHHHIIII", 0xED26FF3A, 1, 0, *numbers).ljust(self.header, b"\xee")]
        for chunk in self.chunks:
            total = self.chunk_header + len(chunk.payload)
            header = struct.pack("<HHII", chunk.kind, 0, chunk.blocks, total)
            parts += [header.ljust(self.chunk_header, b"\xee"), chunk.payload]
        return b"".join(parts)

    def expanded(self) -> bytes:
        """Return the raw image that it stands for."""
        return b"".join(chunk.expanded(self.block) for chunk in self.chunks)


def sparse(raw: bytes, block: int = 4096) -> bytes:
    """Pack a raw image, a chunk for every block: data, one repeated word, or nothing."""
    chunks = []
    for start in range(0, len(raw), block):
        data = raw[start : start + block]
        if not data.strip(b"\0"):
            chunks.append(Chunk(DONT_CARE, 1))
        elif data == data[:4] * (block // 4):
            chunks.append(Chunk(FILL, 1, data[:4]))
        else:
            chunks.append(Chunk(RAW, 1, data))
    return SparseLayout(block=block, chunks=tuple(chunks)).packed()
