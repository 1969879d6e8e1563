"""An index of a tar image, saved beside it: a tar itself has none, only headers to walk.

``.IMAGE.azaion-place.json`` holds the offsets and SHA-256 of the headers of device.conf, passwd,
group and nv_tegra_release, the end of the members, and the version of the image: its inode, size
and times (mtime can be set back, ctime cannot). It holds no secret, and may be removed at any time.

It is used only if it belongs to this user or root, nobody else may write it, the image has that
version, no member was added, and the headers at these offsets, parsed again, have that digest and
that name. Otherwise the whole archive is walked, and a new index is written. It cannot detect a
program that changes other headers within the same clock tick as our own write (4 ms; not with Linux
6.13 and newer), or that sets the clock back to do so. ``verify`` and the proof of a whole build do
not use it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import msgspec.json
from msgspec import Struct, structs

from .. import __version__
from ..system.files import replace_file
from .stream import CorruptImage, read_exactly
from .tar import BLOCK, Member, Tar, Walk
from .version import Version
from .zstd_tar import OFTEN_READ

NOTES = ".*.azaion-place.json*"
"""The pattern of the names of index files."""

_LONGEST_INDEX = 1 << 18  # bytes; ours have about 800, those of packed archives some thousand
_LONGEST_HEADERS = 65536  # of one member; NVIDIA's have about a hundred bytes


def update(image: Path, before: Version, after: Version) -> None:
    """Update the index after members' data, and nothing else, was overwritten.

    If the process is killed before this, the index is outdated, and the image is walked again. An
    index of another version than ``before`` was wrong already, and stays wrong.
    """
    note = read_index(image)
    if note is not None and note.image == before:
        write_index(image, structs.replace(note, image=after))


@contextlib.contextmanager
def copied_with(source: Path, copy: Path) -> Iterator[None]:
    """Give the index of an image to the copy that is made of it meanwhile."""
    index = read_index(source)
    yield
    with contextlib.suppress(OSError):
        if index is not None and index.image == Version.of(source):  # it did not change meanwhile
            write_index(copy, structs.replace(index, image=Version.of(copy)))


def forget(image: Path) -> None:
    """Remove the index of an image that is removed."""
    with contextlib.suppress(OSError):
        _beside(image).unlink(missing_ok=True)


class HeaderOffset(Struct, frozen=True, kw_only=True):
    """The headers of one file."""

    start: int
    sha256: str


class Index(Struct, frozen=True, kw_only=True):
    """The content of an index file."""

    image: Version
    end: int
    files: Mapping[str, HeaderOffset | None]
    """None: the archive does not have the file."""
    version: str = __version__
    """This tool's version: another one may refuse more."""


class KeptFile(Struct, frozen=True, kw_only=True):
    """A file of a packed archive: reading it there again takes a pass over the archive."""

    text: str
    """Its data, each byte a character (Latin-1)."""
    mode: int
    uid: int
    gid: int


class PackedIndex(Struct, frozen=True, kw_only=True):
    """The index of an archive that zstd packed (see :mod:`.zstd_index`)."""

    image: Version
    frame: int
    """Where the last frame begins in the file; it holds device.conf and the archive's end."""
    sha256: str
    """Of what that frame unpacks to before the data of device.conf."""
    kept: Mapping[str, KeptFile | None]
    """Files that a stamp needs; None: the archive has no such file."""
    version: str = __version__


class Stale(Exception):
    """The index does not match the image."""


class IndexedTar(Tar):
    """A tar in which the files that a stamp needs are found with the index beside it."""

    def __init__(self, image: Path, descriptor: int) -> None:
        # Not buffered: the index of a version must have been read from that version.
        super().__init__(io.FileIO(descriptor, "r", closefd=False))
        self._image = image
        self._descriptor = descriptor
        self._note: Index | None = None  # if it cannot be written

    def find(self, path: str) -> Member | None:
        if path not in OFTEN_READ:
            return super().find(path)
        try:
            return self._remembered(path)
        except (CorruptImage, Stale):
            return self._walked(path)

    def _remembered(self, path: str) -> Member | None:
        note = self._note or read_index(self._image)
        if not isinstance(note, Index) or path not in note.files:
            raise Stale
        if note.image != Version.of(self._descriptor):
            raise Stale
        if self.member_at(note.end) is not None:
            raise Stale
        place = note.files[path]
        if place is None:
            return None
        member = self.member_at(place.start)
        if member is None or member.name != path or self._place(member) != place:
            raise Stale
        return member

    def _walked(self, path: str) -> Member | None:
        before = Version.of(self._descriptor)
        walk = self.walk(OFTEN_READ)
        if before == Version.of(self._descriptor):
            self._remember(before, walk)
        found = walk.found[path]
        if isinstance(found, CorruptImage):
            raise found
        return found

    def _remember(self, version: Version, walk: Walk) -> None:
        files: dict[str, HeaderOffset | None] = {}
        for path, found in walk.found.items():
            if not isinstance(found, CorruptImage):
                with contextlib.suppress(Stale):
                    files[path] = self._place(found) if found else None
        if files:  # otherwise the walk ended early
            self._note = Index(image=version, end=walk.end, files=files)
            write_index(self._image, self._note)

    def _place(self, member: Member) -> HeaderOffset:
        length = member.offset - member.start
        if length > _LONGEST_HEADERS:
            raise Stale
        headers = read_exactly(self._stream, member.start, length, "tar header")
        return HeaderOffset(start=member.start, sha256=hashlib.sha256(headers).hexdigest())


def _beside(image: Path) -> Path:
    image = image.resolve()
    return image.with_name(f".{image.name}.azaion-place.json")


def read_index(image: Path) -> Index | PackedIndex | None:
    """Return the index beside an image; None if no index there can be trusted."""
    try:
        return _parsed(json.loads(_read_own(_beside(image))))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _read_own(path: Path) -> bytes:
    """Read a small file that only this user or root can have written.

    Raises:
        OSError: it cannot be opened, or is a link.
        ValueError: it is of another kind, or somebody else's.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as stream:
        found = os.fstat(stream.fileno())
        others = stat.S_IWGRP | stat.S_IWOTH
        if not stat.S_ISREG(found.st_mode) or found.st_mode & others:
            raise ValueError("not a private file")
        if found.st_uid not in (0, os.geteuid()):
            raise ValueError("not ours")
        return stream.read(_LONGEST_INDEX)


def _parsed(fields: Any) -> Index | PackedIndex:
    """Parse an index; a wrong field raises one of the errors that read_index() catches."""
    if fields["version"] != __version__:
        raise ValueError("of another version of this tool")
    if "frame" in fields:
        return msgspec.convert(fields, PackedIndex)
    return Index(
        image=Version(**fields["image"]),
        end=_offset(fields["end"]),
        files={
            path: None
            if place is None
            else HeaderOffset(**place | {"start": _offset(place["start"])})
            for path, place in fields["files"].items()
        },
    )


def _offset(value: Any) -> int:
    if type(value) is not int or value % BLOCK or not 0 <= value < 1 << 62:
        raise ValueError("not an offset of a header")
    return value


def write_index(image: Path, index: Index | PackedIndex) -> None:
    """Write the index beside an image, whole or not at all; ignore a read-only folder."""
    with contextlib.suppress(OSError):
        replace_file(_beside(image), msgspec.json.encode(index), mode=0o644, durable=False)
