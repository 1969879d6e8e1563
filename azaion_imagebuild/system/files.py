"""A new file that takes a name at once: whole, or what stood there before stays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

NEW_SUFFIX = ".azaion-new"
"""Of a file that is not whole yet. It is fixed, so that the next run finds what a kill has left."""

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def new_file(folder: int, name: str, new: str) -> Iterator[BinaryIO]:
    """Yield a new file (0600) in an opened folder; at the end it takes the place of ``name``.

    Until then it is named ``new``: one that a killed run has left goes. Where it cannot be written,
    or the caller fails, it goes too, and ``name`` stays as it was.

    Raises:
        OSError: it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder)
    try:
        with open(os.open(new, _FLAGS, 0o600, dir_fd=folder), "wb") as stream:
            os.chmod(stream.fileno(), 0o600)  # whatever the umask is
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise
    os.fsync(folder)
