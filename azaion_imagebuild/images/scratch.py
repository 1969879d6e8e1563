"""A file on disk without a name, for random access; it is gone if the process is killed."""

from __future__ import annotations

import io
import os
import tempfile
import weakref
from pathlib import Path

from ..errors import VerificationError
from .stream import Readable

_AT_ONCE = 1 << 16


class Scratch(io.FileIO):
    """A nameless file that is closed when nobody uses it any more."""

    def __init__(self, folder: Path | None) -> None:
        with _nameless(folder) as file:
            descriptor = os.dup(file.fileno())
        super().__init__(descriptor, "r+", closefd=False)
        weakref.finalize(self, os.close, descriptor)

    @property
    def path(self) -> Path:
        """Its path for other programs, as long as it is open."""
        return Path(f"/proc/{os.getpid()}/fd/{self.fileno()}")


def copy_of(stream: Readable, folder: Path | None) -> Scratch:
    """Return a copy of a stream, from its start on; zeros become holes.

    Args:
        stream: what to copy.
        folder: where to put it; None: the host's temporary folder.

    Raises:
        CorruptImage: the stream is damaged.
        VerificationError: there is no room.
    """
    stream.seek(0)
    try:
        scratch = Scratch(folder)
        position = 0
        while block := stream.read(_AT_ONCE):
            if block.strip(b"\0"):
                scratch.seek(position)
                write_all(scratch, block)
            position += len(block)
        scratch.truncate(position)
    except OSError as error:
        raise VerificationError(
            f"cannot unpack the image to check it: {error.strerror}", hint="make room beside it"
        ) from None
    return scratch


def write_all(scratch: Scratch, block: bytes) -> None:
    """Write a whole block: one write may accept only part of it."""
    view = memoryview(block)
    while view:
        view = view[scratch.write(view) :]


def _nameless(folder: Path | None) -> io.IOBase:
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError:
        return tempfile.TemporaryFile()
