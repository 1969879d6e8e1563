"""A packed archive with a slot: device.conf and the archive's end are a last frame of their own.

That frame is stored, not compressed (:func:`.zstd.stored_frame`), so a stamp overwrites the bytes
of device.conf in place, as in any other image, in a time that does not depend on the archive.
Finding the slot, and the files by which its owner is looked up, takes one pass over the archive,
whose result is noted beside it (:mod:`.tar_index`, with the same doubts).

What is read back is unpacked by the library, from the last frame on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..model import DEVICE_CONF, FileEntry
from .locate import Location, in_zstd, stored_location
from .stream import CorruptImage
from .tar import REGULAR, Member, Tar, Walk
from .tar_index import KeptFile, PackedIndex, Stale, read_index, write_index
from .version import Version
from .zstd import LARGEST, Frame, Unpacked
from .zstd_tar import OFTEN_READ, ZstdTar

_LARGEST_END = 1 << 18  # bytes of a last frame: one block of 128 KiB
_LARGEST_KEPT = 1 << 15  # bytes of one file in a note


class IndexedZstd(ZstdTar):
    """A packed archive in which the files that a stamp needs are found by the note beside it."""

    def __init__(self, image: Path, descriptor: int, largest: int = LARGEST) -> None:
        # Not buffered: what is noted of a version must have been read from that version.
        self._file = io.FileIO(descriptor, "r", closefd=False)
        super().__init__(self._file, largest)
        self._image = image
        self._descriptor = descriptor
        self._passed_in: Version | None = None
        """The version of the file in which it was walked."""

    def read_file(self, path: str, limit: int) -> FileEntry | None:
        try:
            return self._remembered(path, limit)
        except (CorruptImage, Stale):
            entry = super().read_file(path, limit)
        self._remember()
        return entry

    def slot(self) -> Location | None:
        """Return where the data of device.conf can be overwritten; None if it has no such file.

        Raises:
            CorruptImage: the archive is damaged, or device.conf is compressed.
        """
        try:
            return self._noted_slot(self._valid_note())
        except (CorruptImage, Stale):
            found = in_zstd(self, self._file)
        self._remember()
        return found

    def _valid_note(self) -> PackedIndex:
        note = read_index(self._image)
        if not isinstance(note, PackedIndex) or note.image != Version.of(self._descriptor):
            raise Stale
        return note

    def _remembered(self, path: str, limit: int) -> FileEntry | None:
        note = self._valid_note()
        if path == DEVICE_CONF:
            return self._end_of(note).read_file(path, limit)
        if path not in note.kept:
            raise Stale
        kept = note.kept[path]
        if kept is not None and len(kept.text) > limit:
            raise Stale  # the walk says it in its own words
        return None if kept is None else _entry(kept)

    def _end_of(self, note: PackedIndex) -> Tar:
        """Return the archive's end, unpacked, if it is what the note says."""
        content = self._unpacked_from(note.frame)
        archive = Tar(io.BytesIO(content))
        member = archive.member_at(0)
        if member is None or member.name != DEVICE_CONF:
            raise Stale
        if _digest(content[: member.offset]) != note.sha256:
            raise Stale
        if archive.member_at(archive.after(member)) is not None:
            raise Stale
        return archive

    def _unpacked_from(self, frame: int) -> bytes:
        """Unpack the last frame of the file."""
        size = os.fstat(self._descriptor).st_size - frame
        if not 0 < size <= _LARGEST_END:
            raise Stale
        stream = Unpacked(io.BytesIO(os.pread(self._descriptor, size, frame)), _LARGEST_END)
        parts = []
        while part := stream.read():
            parts.append(part)
        if len(stream.frames) != 1:
            raise Stale
        return b"".join(parts)

    def _noted_slot(self, note: PackedIndex) -> Location:
        member = self._end_of(note).find(DEVICE_CONF)
        if member is None or member.kind != REGULAR:
            raise Stale
        return stored_location(self._file, Frame(note.frame, 0), member)

    def _remember(self) -> None:
        """Note what the pass over the archive has found, if it has a slot."""
        found = self._found.found[DEVICE_CONF] if self._found else None
        frame = self.unpacked.frames[-1]
        if not isinstance(found, Member) or found.start != frame.start or self._passed_in is None:
            return
        try:
            headers = self._unpacked_from(frame.offset)[: found.offset - found.start]
        except (CorruptImage, Stale):
            return
        kept = dict(self._to_be_kept())
        note = PackedIndex(
            image=self._passed_in, frame=frame.offset, sha256=_digest(headers), kept=kept
        )
        write_index(self._image, note)

    def _to_be_kept(self) -> Iterator[tuple[str, KeptFile | None]]:
        for path in OFTEN_READ:
            if path == DEVICE_CONF:
                continue
            with contextlib.suppress(CorruptImage):
                entry = super().read_file(path, _LARGEST_KEPT)
                yield path, None if entry is None else _kept(entry)

    def walk(self, paths: Iterable[str]) -> Walk:
        before = Version.of(self._descriptor)
        found = super().walk(paths)
        self._passed_in = before if before == Version.of(self._descriptor) else None
        return found


def _kept(entry: FileEntry) -> KeptFile:
    text = entry.data.decode("latin-1")
    return KeptFile(text=text, mode=entry.mode, uid=entry.uid, gid=entry.gid)


def _entry(kept: KeptFile) -> FileEntry:
    data = kept.text.encode("latin-1")
    return FileEntry(data=data, mode=kept.mode, uid=kept.uid, gid=kept.gid)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
