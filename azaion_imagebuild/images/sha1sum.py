"""``IMAGE.sha1sum``, which NVIDIA's initrd flash writes beside its archives.

A SHA-1 cannot be updated in part, but what comes before device.conf never changes: the state of the
digest there is kept in this process, so that only the first stamp of an image reads all of it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from ..errors import ImageBuildError
from .version import Version

if TYPE_CHECKING:
    from hashlib import _Hash

_READ_AT_ONCE = 1 << 20


class _Kept(Struct, frozen=True):
    """The digest of an image's first bytes, and the version of the image that begins so."""

    image: Version
    offset: int
    digest: _Hash


_kept: dict[Path, _Kept] = {}


def renew_sha1(image: Path, offset: int, before: Version, after: Version) -> bool:
    """Rewrite ``IMAGE.sha1sum`` to match the image; return False if there is no such file.

    Some releases may compare it.

    Args:
        image: the image.
        offset: where device.conf begins; what comes before it was not written.
        before: the version that was stamped.
        after: the version that the stamp made of it.

    Raises:
        ImageBuildError: the image cannot be read, or the sum cannot be written.
    """
    beside = image.with_name(image.name + ".sha1sum")
    if not beside.is_file():
        return False
    try:
        _rewrite(beside, _digest(image, offset, before, after))
    except OSError as error:
        raise ImageBuildError(
            f"cannot renew {beside}: {error.strerror}",
            hint="make it writable, or remove it if nothing reads it; then run the same command"
            " again",
        ) from None
    return True


def _digest(image: Path, offset: int, before: Version, after: Version) -> str:
    with image.open("rb", buffering=0) as stream:
        undisturbed = Version.of(stream.fileno()) == after
        kept = _kept.get(image.resolve()) if undisturbed else None
        digest = _digest_before(stream, offset, kept, before)
        _keep(image, _Kept(after, offset, digest.copy()))
        stream.seek(offset)
        while block := stream.read(_READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def _rewrite(beside: Path, digest: str) -> None:
    """Write another digest in place of the old one; a name after it stays, whatever its bytes."""
    rest = beside.read_bytes().partition(b" ")[2]
    beside.write_bytes(digest.encode() + (b" " + rest if rest else b"\n"))


def copied(image: Path, copy: Path) -> None:
    """Use what is kept of an image for an unchanged copy of it, too."""
    kept = _kept.get(image.resolve())
    if kept is not None and kept.image == Version.of(image):
        _keep(copy, _Kept(Version.of(copy), kept.offset, kept.digest))


def _keep(image: Path, kept: _Kept) -> None:
    _kept[image.resolve()] = kept


def _digest_before(stream: BinaryIO, offset: int, kept: _Kept | None, before: Version) -> _Hash:
    if kept is not None and (kept.image, kept.offset) == (before, offset):
        return kept.digest.copy()
    digest = hashlib.sha1(usedforsecurity=False)
    left = offset
    while left and (block := stream.read(min(left, _READ_AT_ONCE))):
        digest.update(block)
        left -= len(block)
    return digest
