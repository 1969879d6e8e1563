"""Digests of image files, and their stat(2) fields that change with every write."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from ..errors import VerificationError
from ..model import Image
from ..system.holes import next_data

_BLOCK = 4096
_GROUP = 128 * _BLOCK
"""Bytes of data whose hashes fill one block."""

_DESCRIPTOR = struct.Struct("<BBBBIQ64s32s144s")
_VERSION, _SHA256, _LOG_OF_BLOCK = 1, 1, 12

_ZEROS = bytes(_BLOCK)
_ZERO_HASH = hashlib.sha256(_ZEROS).digest()
_ZERO_NODE = hashlib.sha256(_ZERO_HASH * 128).digest()


def image_digest(path: Path) -> str:
    """Return the fs-verity digest of an image file (SHA-256, blocks of 4 KiB), in hexadecimal.

    ``fsverity digest FILE`` prints the same. It depends only on the file's bytes. Holes are not
    read, because their hashes are known. Memory: 32 bytes for each 512 KiB. Source: the
    kernel's Documentation/filesystems/fsverity.rst, "Merkle tree" and "fs-verity descriptor".

    Raises:
        VerificationError: the file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            root = _root_hash(b"".join(_nodes(stream, size)))
    except OSError as error:
        raise VerificationError(
            f"cannot read the image {path}: {error.strerror}", hint="check the disk it lies on"
        ) from None
    described = _DESCRIPTOR.pack(_VERSION, _SHA256, _LOG_OF_BLOCK, 0, 0, size, root, b"", b"")
    return hashlib.sha256(described).hexdigest()


def _nodes(stream: io.FileIO, size: int) -> Iterator[bytes]:
    """Yield the hash of each block of hashes; for a single block of data, its own hash."""
    data_from = 0
    for start in range(0, size, _GROUP):
        if data_from <= start:
            found = next_data(stream.fileno(), start)
            data_from = size if found is None else found
        if data_from >= start + _GROUP <= size:
            yield _ZERO_NODE
            continue
        stream.seek(start)
        hashes = b"".join(_hashes(stream.read(min(_GROUP, size - start))))
        yield hashes if size <= _BLOCK else hashlib.sha256(hashes.ljust(_BLOCK, b"\0")).digest()


def _hashes(group: bytes) -> Iterator[bytes]:
    for at in range(0, len(group), _BLOCK):
        block = group[at : at + _BLOCK].ljust(_BLOCK, b"\0")
        yield _ZERO_HASH if block == _ZEROS else hashlib.sha256(block).digest()


def _root_hash(level: bytes) -> bytes:
    while len(level) > hashlib.sha256().digest_size:
        blocks = (level[at : at + _BLOCK] for at in range(0, len(level), _BLOCK))
        level = b"".join(hashlib.sha256(each.ljust(_BLOCK, b"\0")).digest() for each in blocks)
    return level


def fingerprints(image: Image) -> list[tuple[int, ...]]:
    """Return device, inode, size and mtime of each of an image's files (stat(2)).

    They change with every write, and are found without reading the file.
    """
    found: list[tuple[int, ...]] = []
    for path in image.files:
        with contextlib.suppress(OSError):  # the proof reports a missing file
            at = path.stat()
            found.append((at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns))
    return found
