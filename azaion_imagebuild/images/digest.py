"""Digests of image files, and what changes with every write to one."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import VerificationError
from ..model import Image

if TYPE_CHECKING:
    from hashlib import _Hash

_READ_AT_ONCE = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of an image file, in hexadecimal.

    Raises:
        VerificationError: the file cannot be read.
    """
    try:
        return _digested(path, hashlib.sha256())
    except OSError as error:
        raise VerificationError(
            f"cannot read the image {path}: {error.strerror}", hint="check the disk it lies on"
        ) from None


def fingerprints(image: Image) -> list[tuple[int, ...]]:
    """Return device, inode, size and mtime of each of an image's files (stat(2)).

    They change with every write, and cost no reading.
    """
    found: list[tuple[int, ...]] = []
    for path in image.files:
        with contextlib.suppress(OSError):  # the proof reports a missing file
            at = path.stat()
            found.append((at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns))
    return found


def renew_sha1(image: Path) -> bool:
    """Rewrite ``IMAGE.sha1sum`` to match the image; return False if there is no such file.

    NVIDIA's initrd flash writes it beside the tar, and some releases may compare it. Reads the
    whole image, because a SHA-1 cannot be updated in part.
    """
    beside = image.with_name(image.name + ".sha1sum")
    if not beside.is_file():
        return False
    digest = _digested(image, hashlib.sha1(usedforsecurity=False))
    rest = beside.read_text().partition(" ")[2]
    beside.write_text(f"{digest}{f' {rest}' if rest else chr(10)}")
    return True


def _digested(path: Path, digest: _Hash) -> str:
    with path.open("rb") as stream:
        while block := stream.read(_READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()
