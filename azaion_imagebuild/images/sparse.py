"""Android sparse images: a seekable stream of the raw image in one.

Format: AOSP system/core/libsparse/sparse_format.h, version 1.0; NVIDIA's mksparse writes RAW and
DONT_CARE chunks only, Debian's img2simg FILL chunks too.
"""

from __future__ import annotations

import io
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .stream import CorruptImage, Readable, read_exactly

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC = 0xED26FF3A
_HEADER = struct.Struct("<IHHHHIIII")
_CHUNK = struct.Struct("<HHII")
_RAW, _FILL, _DONT_CARE, _CRC32 = 0xCAC1, 0xCAC2, 0xCAC3, 0xCAC4
_MOST_CHUNKS = 2_000_000  # 16 bytes of index each; a full 64 GB image has about 100,000
_IS_FILL = 1 << 63


class SparseReader(io.RawIOBase):
    """The raw image in a sparse one, read-only; what no chunk contains reads as zeros.

    Memory grows with the number of chunks (16 bytes each), not with the image.

    Raises:
        CorruptImage: the headers lie or the file is cut short.
    """

    def __init__(self, stream: Readable) -> None:
        super().__init__()
        self._stream = stream
        self._position = 0
        self._end = stream.seek(0, 2)
        header = read_exactly(stream, 0, _HEADER.size, "sparse header")
        magic, major, _, size, chunk_size, block, blocks, chunks, _ = _HEADER.unpack(header)
        if magic != MAGIC or major != 1 or size < _HEADER.size or chunk_size < _CHUNK.size:
            raise CorruptImage("it has no header of an Android sparse image 1.x")
        if block == 0 or block % 4:
            raise CorruptImage(f"its sparse header says blocks of {block} bytes")
        if chunks > _MOST_CHUNKS or chunks * chunk_size > self._end:
            raise CorruptImage(f"its sparse header counts {chunks} chunks, more than there can be")
        self.block_size: int = block
        self.size: int = blocks * block
        # Three columns, a row per RAW or FILL chunk, by position: first block, blocks, file offset.
        self._starts: array[int] = array("I")
        self._lengths: array[int] = array("I")
        self._offsets: array[int] = array("Q")
        self._index(size, chunk_size, chunks, blocks)

    def _index(self, offset: int, header_size: int, chunks: int, blocks: int) -> None:
        reached = 0
        for number in range(chunks):
            header = read_exactly(self._stream, offset, _CHUNK.size, f"chunk {number}")
            kind, _, length, total = _CHUNK.unpack(header)
            data = offset + header_size
            expected = self._data_size(kind, length, number)
            if total != header_size + expected or offset + total > self._end:
                raise CorruptImage(f"chunk {number} is cut short or has a size it cannot have")
            if length == 0 and kind != _CRC32:  # readers disagree about its meaning
                raise CorruptImage(f"chunk {number} is empty")
            if kind in (_RAW, _FILL):
                self._starts.append(reached)
                self._lengths.append(length)
                self._offsets.append(data | (_IS_FILL if kind == _FILL else 0))
            if kind != _CRC32:
                reached += length
            if reached > blocks:
                raise CorruptImage(f"chunk {number} reaches beyond the image")
            offset += total
        if reached != blocks:
            raise CorruptImage(f"its chunks hold {reached} of {blocks} blocks")

    def _data_size(self, kind: int, length: int, number: int) -> int:
        if kind == _RAW:
            return length * self.block_size
        if kind in (_FILL, _CRC32):
            return 4
        if kind == _DONT_CARE:
            return 0
        raise CorruptImage(f"chunk {number} is of the unknown kind {kind:#06x}")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}
        if whence not in starts:
            raise ValueError(f"invalid whence ({whence})")
        self._position = max(0, starts[whence] + offset)
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """Fill ``buffer`` from the position on, and in part only at the end of the image."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._position < self.size:
            filled += self._read_run(view[filled:])
        return filled

    def _read_run(self, view: memoryview) -> int:
        """Fill ``view`` up to the end of the chunk or hole at the position."""
        data, available = self._at(self._position)
        size = min(len(view), available)
        if data is None:
            view[:size] = bytes(size)
        elif data & _IS_FILL:
            pattern = read_exactly(self._stream, data & ~_IS_FILL, 4, "fill value")
            skip = self._position % 4
            view[:size] = (pattern * (size // 4 + 2))[skip : skip + size]
        else:
            view[:size] = read_exactly(self._stream, data, size, "chunk data")
        self._position += size
        return size

    def next_data(self, position: int) -> int:
        """Return the next position that is in a chunk; without one, the size.

        What is between reads as zeros.
        """
        data, available = self._at(position)
        return position + (available if data is None else 0)

    def stored_ranges(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (offset in the sparse file, bytes) for bytes of the raw image.

        Raises:
            CorruptImage: some are not stored: they are in a FILL chunk or in none.
        """
        while length:
            data, available = self._at(offset)
            if data is None or data & _IS_FILL or not available:
                raise CorruptImage(f"byte {offset} of the raw image is in no RAW chunk")
            size = min(length, available)
            yield data, size
            offset += size
            length -= size

    def _at(self, position: int) -> tuple[int | None, int]:
        """Return (offset in the file or None for zeros, bytes up to the end of that run)."""
        row = bisect_right(self._starts, position // self.block_size) - 1
        if row >= 0:
            start = self._starts[row] * self.block_size
            length = self._lengths[row] * self.block_size
            if position < start + length:
                into = position - start
                offset = self._offsets[row]
                return offset if offset & _IS_FILL else offset + into, length - into
        if row + 1 < len(self._starts):
            return None, self._starts[row + 1] * self.block_size - position
        return None, max(0, self.size - position)
