"""Skipping the holes of a sparse file (lseek(2), SEEK_DATA)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def next_data(descriptor: int, position: int) -> int | None:
    """Return where data begins, at ``position`` or after it; None: only a hole is left."""
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        # other errors: this filesystem cannot report holes
        return None if error.errno == errno.ENXIO else position


def data_ranges(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part of a file that holds data."""
    position = next_data(descriptor, 0)
    while position is not None:
        end = os.lseek(descriptor, position, os.SEEK_HOLE)
        yield position, end
        position = next_data(descriptor, end)
