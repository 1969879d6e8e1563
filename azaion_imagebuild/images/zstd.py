"""Zstandard files: the unpacked content as a stream, in bounded memory.

Format: RFC 8878. A file is a sequence of frames; skippable ones are ignored. What ``zstd -d`` would
refuse on the device is refused (garbage between or after frames, an incomplete frame, a window over
128 MiB, a dictionary), and so is what unpacks to more than any device can store.
"""

from __future__ import annotations

import re
import struct
import sys
from types import ModuleType
from typing import Any

from msgspec import Struct

from .stream import CorruptImage, Readable

MAGIC = b"\x28\xb5\x2f\xfd"
LARGEST = 1 << 38
"""Bytes (256 GiB) that an image may unpack to if no setting gives its size."""

LARGEST_WINDOW = 1 << 27
"""The largest window that ``zstd -d`` accepts without ``--long``; decoding needs it in memory."""

_WINDOW_LOG = LARGEST_WINDOW.bit_length() - 1
_SKIPPABLE = 0x184D2A50  # and the 15 following numbers
_MOST_FRAMES = 65536  # zstd writes one, pzstd one for every few megabytes
_LONGEST_HEADER = 18
_BLOCK_HEADER = 3
_STORED_AND_LAST = 1  # bits of a block header: the last one, of the kind Raw_Block
_LARGEST_BLOCK = 1 << 17
_FED_AT_ONCE = 1 << 16
_DECODED_AT_ONCE = 1 << 17
_KEPT_BEHIND = 1 << 16  # older bytes that are kept, for a reader that steps back a little


_SIZE = re.compile(r"([0-9]{1,15})([KMG]?)(?:iB)?", re.ASCII)


class FrameHeader(Struct, frozen=True, kw_only=True):
    """The header of a frame, including its magic number."""

    length: int
    window: int
    """Bytes that decoding needs to keep."""
    size: int | None
    """Bytes that it unpacks to; None: not given."""
    checksum: bool
    dictionary: int
    """The number of the dictionary that it needs; 0: none."""


class Frame(Struct, frozen=True):
    """The start of a frame."""

    offset: int
    """In the file."""
    start: int
    """In what the file unpacks to."""


class Unpacked:
    """The content of a zstd file, read-only; a step back over 64 KiB starts from the beginning.

    Args:
        stream: the file.
        largest: bytes that it may unpack to.

    Raises:
        CorruptImage: from every method: the file is damaged, cut short or too large.
    """

    def __init__(self, stream: Readable, largest: int = LARGEST) -> None:
        self._stream = stream
        self._largest = largest
        self._end = stream.seek(0, 2)
        self._position = 0
        self._start_again()

    def _start_again(self) -> None:
        self.frames: list[Frame] = []
        """The frames reached so far."""
        self._offset = 0  # of the next read, in the file
        self._reached = 0  # bytes unpacked so far
        self._kept = b""  # the last of them
        self._decoder: Any = None

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 2:
            offset += self.drain()
        self._position = offset + (self._position if whence == 1 else 0)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; with -1, some."""
        if self._position < self._reached - len(self._kept):
            self._start_again()
        while self._position >= self._reached:
            if not self._unpack():
                return b""
        at = self._position - (self._reached - len(self._kept))
        data = self._kept[at:] if size < 0 else self._kept[at : at + size]
        self._position += len(data)
        return data

    def drain(self) -> int:
        """Unpack the rest, and return the total size."""
        while self._unpack():
            continue
        return self._reached

    def _unpack(self) -> bool:
        """Unpack some more bytes; return False at the end."""
        data = b""
        while not data:
            if self._decoder is None and not self._open_frame():
                return False
            data = self._decode()
        self._reached += len(data)
        if self._reached > self._largest:
            raise CorruptImage(
                f"it unpacks to more than {self._largest} bytes",
                hint="build it again; if it is meant to be so large, set [bsp] size to the APP"
                " partition's size",
            )
        self._kept = self._kept[-_KEPT_BEHIND:] + data
        return True

    def _decode(self) -> bytes:
        fed = b""
        if self._decoder.needs_input:
            fed = self._file(self._offset, _FED_AT_ONCE)
            if not fed:
                raise CorruptImage("it is cut short: a zstd frame has no end")
            self._offset += len(fed)
        try:
            data: bytes = self._decoder.decompress(fed, _DECODED_AT_ONCE)
        except library().ZstdError as error:
            raise CorruptImage(
                f"its zstd data is damaged before byte {self._offset}: {_why(error)}"
            ) from None
        if self._decoder.eof:
            self._offset -= len(self._decoder.unused_data)
            self._decoder = None
        return data

    def _open_frame(self) -> bool:
        """Begin with the next frame; return False at the end of the file."""
        while head := self._file(self._offset, _LONGEST_HEADER):
            if len(self.frames) >= _MOST_FRAMES:
                raise CorruptImage(f"it has more than {_MOST_FRAMES} zstd frames")
            self.frames.append(Frame(self._offset, self._reached))
            if _is_skippable(head):
                self._skip(head)
                continue
            _check_header(head, self._offset)
            options = {library().DecompressionParameter.window_log_max: _WINDOW_LOG}
            self._decoder = library().ZstdDecompressor(options=options)
            return True
        return False

    def _skip(self, head: bytes) -> None:
        size = struct.unpack_from("<I", head, 4)[0] if len(head) >= 8 else self._end
        self._offset += 8 + size
        if self._offset > self._end:
            raise CorruptImage("it is cut short: a skippable zstd frame has no end")

    def _file(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        data = self._stream.read(size) or b""
        while len(data) < min(size, _LONGEST_HEADER) and (more := self._stream.read(size)):
            data += more
        return data


def largest_for(size: str | None) -> int:
    """Return how many bytes an image may unpack to, for an APP partition of ``[bsp] size``.

    An archive also has headers. What does not fit the partition cannot be unpacked there.
    """
    found = _SIZE.fullmatch(size or "")
    if found is None:
        return LARGEST
    partition = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]
    return partition + partition // 2 + (1 << 30)


def frame_header(head: bytes) -> FrameHeader:
    """Return the header that a frame begins with (RFC 8878, 3.1.1.1).

    Raises:
        CorruptImage: it is not one, or is cut short.
    """
    if head[:4] != MAGIC or len(head) < 6:
        raise CorruptImage("no header of a zstd frame")
    flags, at, window = head[4], 5, 0
    single = bool(flags & 0x20)
    if not single:
        window = (8 + (head[at] & 7)) << (7 + (head[at] >> 3))
        at += 1
    of_number, of_size = (0, 1, 2, 4)[flags & 3], (int(single), 2, 4, 8)[flags >> 6]
    length = at + of_number + of_size
    if len(head) < length:
        raise CorruptImage("it is cut short: no header of a zstd frame")
    number, said = head[at : at + of_number], head[at + of_number : length]
    size = int.from_bytes(said, "little") + (256 if of_size == 2 else 0)
    return FrameHeader(
        length=length,
        window=size if single else window,
        size=size if of_size else None,
        checksum=bool(flags & 4),
        dictionary=int.from_bytes(number, "little"),
    )


def stored_frame(data: bytes) -> bytes:
    """Return a frame of one block that holds ``data`` as it is, so that it can be overwritten.

    It has no checksum, which a stamp would invalidate.

    Raises:
        ValueError: it is empty, or too long for one block.
    """
    if not 0 < len(data) <= _LARGEST_BLOCK:
        raise ValueError(f"{len(data)} bytes in one zstd block")
    flags = 0x80 | 0x20  # the size in 4 bytes; it is the window, too
    block = len(data) << 3 | _STORED_AND_LAST
    header = struct.pack("<BI", flags, len(data)) + block.to_bytes(_BLOCK_HEADER, "little")
    return MAGIC + header + data


def stored_at(head: bytes, offset: int, size: int) -> int | None:
    """Return the offset at which a frame stores bytes unpacked; None: it does not.

    Args:
        head: the frame's first 32 bytes.
        offset: of the bytes, in the frame's content.
        size: number of the bytes.
    """
    header = frame_header(head)
    block = int.from_bytes(head[header.length : header.length + _BLOCK_HEADER], "little")
    if header.checksum or block & 7 != _STORED_AND_LAST or offset + size > block >> 3:
        return None
    return header.length + _BLOCK_HEADER + offset


def library() -> ModuleType:
    """Return the zstd module of Python 3.14, or its backport; imported late, by few commands."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _is_skippable(head: bytes) -> bool:
    return len(head) >= 4 and struct.unpack_from("<I", head)[0] & ~0xF == _SKIPPABLE


def _check_header(head: bytes, offset: int) -> None:
    if not head.startswith(MAGIC):
        raise CorruptImage(f"what follows at byte {offset} is not a zstd frame")
    header = frame_header(head)
    if header.window > LARGEST_WINDOW:
        raise CorruptImage(
            f"unpacking it takes a window of {header.window} bytes, and zstd -d on the device"
            f" takes {LARGEST_WINDOW}",
            hint="pack it again without --long and --ultra",
        )
    if header.dictionary:
        raise CorruptImage(
            f"unpacking it takes the dictionary {header.dictionary}, which no device has",
            hint="pack it again without a dictionary",
        )


def _why(error: Exception) -> str:
    return str(error).rpartition(": ")[2].lower()
