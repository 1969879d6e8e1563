"""The stream that this package's readers take, and the error that they raise."""

from __future__ import annotations

from typing import Protocol


class Readable(Protocol):
    """A seekable stream of bytes: a file, a BytesIO, another reader of this package."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a position and return it."""
        ...

    def read(self, size: int = -1, /) -> bytes | None:
        """Return up to ``size`` bytes from the position on."""
        ...


class CorruptImage(Exception):
    """An image that cannot be read reliably; the message says why.

    Args:
        message: what is wrong with it, beginning with "it".
        hint: what to do; None: build it again.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def read_exactly(stream: Readable, offset: int, size: int, what: str) -> bytes:
    """Return ``size`` bytes at ``offset``.

    Raises:
        CorruptImage: the stream ends early; ``what`` names what was read.
    """
    stream.seek(offset)
    parts = []
    missing = size
    while missing:
        part = stream.read(missing)
        if not part:
            raise CorruptImage(f"it is cut short: no {what} at byte {offset}")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
