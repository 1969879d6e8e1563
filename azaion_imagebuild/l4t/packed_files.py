"""What is in a compressed file, whatever packed it: a search must not stop at its surface."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ..images.stream import CorruptImage
from ..images.zstd import LARGEST, MAGIC, Unpacked

_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AT_ONCE = 1 << 20
_LONGEST_MAGIC = 6
_OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    MAGIC: Unpacked,
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""By magic number. NVIDIA's scripts pack by zstd, gzip (massflash) and bzip2 (NFS packages)."""


def unpacked(path: Path) -> Iterator[bytes]:
    """Yield what a compressed file unpacks to, up to where it is damaged; of any other, nothing.

    Memory is bounded, and so is what is unpacked (256 GiB).
    """
    try:
        with os.fdopen(os.open(path, _PLAIN), "rb") as file:
            opener = _opener(file.read(_LONGEST_MAGIC))
            if opener is not None:
                file.seek(0)
                yield from _blocks(opener(file))
    except (OSError, EOFError, zlib.error, lzma.LZMAError, CorruptImage):
        return


def _opener(head: bytes) -> Callable[[IO[bytes]], Any] | None:
    return next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)


def _blocks(stream: Any) -> Iterator[bytes]:
    left = LARGEST
    while left > 0 and (block := stream.read(_AT_ONCE)):
        left -= len(block)
        yield block
