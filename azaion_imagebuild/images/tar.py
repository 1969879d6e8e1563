"""Reading a file, its mode and owner out of a tar archive in a stream.

NVIDIA's initrd flash packs the root filesystem as a tar (``images/{internal,external}/system.img``)
and the device unpacks it with ``tar -xpf``: the last member of a name counts. Formats: POSIX ustar
and pax (IEEE 1003.1), GNU long names. Headers are read one by one; memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..model import FileEntry
from .stream import CorruptImage, Readable, read_exactly

MAGIC = b"ustar"
MAGIC_OFFSET = 257

_BLOCK = 512
_LONGEST_EXTRA = 1024 * 1024  # a pax header or a long name; NVIDIA's have some hundred bytes
_REGULAR, _LINK, _SYMLINK, _DIRECTORY = b"0", b"1", b"2", b"5"
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of the archive."""

    name: str
    """Normal form: no leading ``./`` or ``/``, no trailing ``/``."""
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    offset: int
    """Where its data begins in the archive, in bytes."""


class Tar:
    """An archive in a seekable stream; nothing is unpacked."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._end = stream.seek(0, 2)
        if read_exactly(stream, MAGIC_OFFSET, 5, "tar magic") != MAGIC:
            raise CorruptImage("no tar header at byte 0")

    def read_file(self, path: str, limit: int) -> FileEntry | None:
        """Return the regular file that unpacking leaves at ``path``; None: there is none.

        Raises:
            CorruptImage: it is no regular file, or a link stands in the way to it; it is longer
                than ``limit``; a header is damaged.
        """
        member = self.find(path)
        if member is None:
            return None
        if member.kind != _REGULAR:
            raise CorruptImage(f"/{path} is not a regular file in the archive")
        if member.size > limit:
            raise CorruptImage(f"/{path} is {member.size} bytes long, more than {limit}")
        return FileEntry(
            data=read_exactly(self._stream, member.offset, member.size, "member"),
            mode=member.mode,
            uid=member.uid,
            gid=member.gid,
        )

    def find(self, path: str) -> Member | None:
        """Return the last member of a name; the folders on the way to it must be folders."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        folders = {"/".join(parts[:count]) for count in range(1, len(parts))}
        wanted = "/".join(parts)
        found = None
        for member in self.members():
            if member.name == wanted:
                found = member
            elif member.name in folders and member.kind != _DIRECTORY:
                raise CorruptImage(f"/{member.name} is not a directory in the archive")
        return found

    def paths(self) -> Iterator[str]:
        """Yield the path of every member."""
        for member in self.members():
            if member.name:
                yield member.name

    def members(self) -> Iterator[Member]:
        """Yield the members in their order.

        Raises:
            CorruptImage: a damaged header, or an archive that is cut short.
        """
        offset = 0
        extra = _Extra()
        while True:
            header = read_exactly(self._stream, offset, _BLOCK, "tar header")
            if not header.strip(b"\0"):
                return
            _check_sum(header, offset)
            kind, size = header[156:157], _number(header[124:136], "size")
            data = offset + _BLOCK
            if kind in (_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK):
                offset = self._after(data, size)
                extra.read(kind, self._extra(data, size))
                continue
            if extra.number("size") is not None:
                size = extra.number("size") or 0
            if kind in (_LINK, _SYMLINK, _DIRECTORY):
                size = 0
            offset = self._after(data, size)
            yield _member(header, kind, size, data, extra)
            extra = extra.following()

    def _extra(self, offset: int, size: int) -> bytes:
        if size > _LONGEST_EXTRA:
            raise CorruptImage(f"an extended tar header of {size} bytes")
        return read_exactly(self._stream, offset, size, "extended tar header")

    def _after(self, data: int, size: int) -> int:
        end = data + -(-size // _BLOCK) * _BLOCK
        if end > self._end:
            raise CorruptImage(f"it is cut short: a member of {size} bytes at byte {data}")
        return end


@dataclass(slots=True)
class _Extra:
    """What extended headers say of the next member, over what its own header says."""

    once: dict[str, str] = field(default_factory=dict)
    always: dict[str, str] = field(default_factory=dict)

    def read(self, kind: bytes, data: bytes) -> None:
        if kind in (_GNU_NAME, _GNU_LINK):
            key = "path" if kind == _GNU_NAME else "linkpath"
            self.once[key] = _text(data.rstrip(b"\0"))
        else:
            (self.once if kind == _PAX else self.always).update(_pax_records(data))

    def following(self) -> _Extra:
        return _Extra(always=self.always)

    def text(self, key: str) -> str | None:
        return self.once.get(key, self.always.get(key))

    def number(self, key: str) -> int | None:
        text = self.text(key)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise CorruptImage(f"an extended tar header says {key}={ascii(text)[:40]}")
        return int(text)


def _pax_records(data: bytes) -> dict[str, str]:
    """Parse ``LENGTH KEY=VALUE\\n`` records; a key may come again, the last one counts."""
    records = {}
    position = 0
    while position < len(data) and data[position]:
        digits, space, _ = data[position : position + 12].partition(b" ")
        if not space or not digits.isdigit():
            raise CorruptImage("an extended tar header is damaged")
        end = position + int(digits)
        record = data[position + len(digits) + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(data) or not equals or not value.endswith(b"\n"):
            raise CorruptImage("an extended tar header is damaged")
        if key.startswith((b"GNU.sparse", b"SCHILY.xattr", b"LIBARCHIVE")):
            key = b"" if not key.startswith(b"GNU.sparse") else b"sparse"
        records[_text(key)] = _text(value[:-1])
        position = end
    records.pop("", None)
    return records


def _member(header: bytes, kind: bytes, size: int, data: int, extra: _Extra) -> Member:
    name = extra.text("path")
    if name is None:
        name = _text(header[:100].partition(b"\0")[0])
        prefix = header[345:500].partition(b"\0")[0]
        if prefix and header[257:263] == b"ustar\0":  # GNU's old format keeps times there
            name = f"{_text(prefix)}/{name}"
    if kind in (b"\0", b"7"):
        kind = _REGULAR
    if extra.text("sparse") is not None:
        kind = b"S"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise CorruptImage(f"the member {ascii(name)[:80]} leads out of the archive")
    uid, gid = extra.number("uid"), extra.number("gid")
    return Member(
        name="/".join(parts),
        kind=kind,
        mode=_number(header[100:108], "mode") & 0o7777,
        uid=_number(header[108:116], "uid") if uid is None else uid,
        gid=_number(header[116:124], "gid") if gid is None else gid,
        size=size,
        offset=data,
    )


def _number(field_: bytes, what: str) -> int:
    """Read an octal number, or GNU's base-256 for those that do not fit."""
    if field_[0] & 0x80:
        number = int.from_bytes(field_, "big") & ~(0x80 << 8 * (len(field_) - 1))
        if field_[0] & 0x40:
            raise CorruptImage(f"a tar header has a negative {what}")
        return number
    digits = field_.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if not all(digit in b"01234567" for digit in digits):
        raise CorruptImage(f"a tar header has a {what} that is no number")
    return int(digits, 8)


def _check_sum(header: bytes, offset: int) -> None:
    said = _number(header[148:156], "checksum")
    if said != sum(header) - sum(header[148:156]) + 8 * 32:
        raise CorruptImage(f"the tar header at byte {offset} is damaged")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
