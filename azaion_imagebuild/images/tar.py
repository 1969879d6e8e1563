"""Reading files, their modes and owners from a tar archive in a stream.

NVIDIA's initrd flash packs the root filesystem as a tar (``images/{internal,external}/system.img``)
and the device unpacks it with GNU ``tar -xpf``: the last member of a name counts. Formats: POSIX
ustar and pax (IEEE 1003.1), GNU long names, sparse members. What GNU tar would unpack differently
is refused. Headers are read one by one; only a hash is kept of each link.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from ..model import FileEntry
from .entry import Entry
from .stream import CorruptImage, Readable, read_exactly

MAGIC = b"ustar"
MAGIC_OFFSET = 257
BLOCK = 512
RECORD = 20 * BLOCK  # GNU tar writes archives of whole records

_LONGEST_EXTRA = 1024 * 1024  # a pax header or a long name; NVIDIA's have about a hundred bytes
_MOST_LINKS = 1_000_000  # a desktop rootfs has about ten thousand
REGULAR = b"0"
"""A regular file's kind, whatever its header says."""

LINK = b"1"
_SYMLINK, _DIRECTORY, _SPARSE = b"2", b"5", b"S"
_LINKS = (LINK, _SYMLINK)
_ALSO_REGULAR = (REGULAR, b"\0", b"7")
_WITHOUT_DATA = (*_LINKS, b"3", b"4", _DIRECTORY, b"6")  # whatever size their headers give
_PAX, _PAX_SOLARIS, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"X", b"g", b"L", b"K"
_EXTENDED = (_PAX, _PAX_SOLARIS, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK)
_PAX_USED = (b"path", b"size", b"uid", b"gid", b"GNU.sparse.name", b"mtime", b"linkpath")
_TYPES = {
    REGULAR: stat.S_IFREG,
    _SPARSE: stat.S_IFREG,
    _SYMLINK: stat.S_IFLNK,
    _DIRECTORY: stat.S_IFDIR,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"6": stat.S_IFIFO,
}
_TIME = re.compile(r"-?[0-9]{1,18}(\.[0-9]*)?", re.ASCII)
_OCTAL = re.compile(rb"\0+| *[0-7]+[ \0]*")


class Member(Struct, frozen=True, kw_only=True):
    """A member of the archive."""

    name: str
    """Normal form: no leading ``./`` or ``/``, no trailing ``/``."""
    kind: bytes
    mode: int
    uid: int
    gid: int
    uname: str
    """The owner's name, which GNU tar prefers to the number; empty with ``--numeric-owner``."""
    gname: str
    size: int
    start: int
    """Offset of its first header in the archive, including extended ones."""
    offset: int
    """Offset of its data."""
    mtime: int = 0
    target: str = ""
    """The target, for a link."""
    device: tuple[int, int] = (0, 0)


class Walk(Struct, frozen=True, kw_only=True):
    """What a walk over all headers found."""

    found: Mapping[str, Member | CorruptImage | None]
    """Path → the last member of that name, why it is refused, or None if it has no such member."""
    end: int
    """Offset of the end: a block of zeros, which the header of an added member would replace."""


class Tar:
    """An archive in a seekable stream, read without unpacking it."""

    def __init__(self, stream: Readable, end: int | None = None) -> None:
        self._stream = stream
        self._end = stream.seek(0, 2) if end is None else end
        if read_exactly(stream, MAGIC_OFFSET, 5, "tar magic") != MAGIC:
            raise CorruptImage("no tar header at byte 0")

    def read_file(self, path: str, limit: int) -> FileEntry | None:
        """Return the regular file that unpacking creates at ``path``; None if it creates none.

        Raises:
            CorruptImage: it is not a regular file, its path leads through a link, it is longer than
                ``limit``, its owner is ambiguous, or a header is damaged.
        """
        member = self.find(path)
        if member is None:
            return None
        if member.kind != REGULAR:
            raise CorruptImage(f"/{path} is not a regular file in the archive")
        if member.size > limit:
            raise CorruptImage(f"/{path} is {member.size} bytes long, more than {limit}")
        for name, number in ((member.uname, member.uid), (member.gname, member.gid)):
            if name == "root" and number:
                raise CorruptImage(f"/{path} is of {name} by name and of {number} by number")
        return FileEntry(
            data=self.data_of(member), mode=member.mode, uid=member.uid, gid=member.gid
        )

    def data_of(self, member: Member) -> bytes:
        """Return a regular file's data."""
        return read_exactly(self._stream, member.offset, member.size, "member")

    def find(self, path: str) -> Member | None:
        """Return the last member of a name.

        Raises:
            CorruptImage: it is refused (see :meth:`walk`), or a header is damaged.
        """
        found = self.walk((path,)).found[path]
        if isinstance(found, CorruptImage):
            raise found
        return found

    def walk(self, paths: Iterable[str]) -> Walk:
        """Find the last member of each name, in one walk over all headers.

        A path is refused if it is or was a link, if one of its folders is not a folder, if it has
        members of its own, or if another member may lead there through a link.

        Raises:
            CorruptImage: a header is damaged.
        """
        found: dict[str, Member | CorruptImage | None] = {}
        searches = [_Search(path) for path in paths]
        links, end = _Links(), 0
        for member in self.members():
            parts = member.name.split("/")
            for search in tuple(searches):
                try:
                    search.see(member, parts, links)
                except CorruptImage as error:
                    found[search.path] = error
                    searches.remove(search)
            if not searches:
                break
            links.note(member)
            end = self.after(member)
        return Walk(found=found | {each.path: each.result() for each in searches}, end=end)

    def entries(self) -> Iterator[Entry]:
        """Yield every member that unpacks; the last one of a name counts."""
        for member in self.members():
            if member.name:
                yield _entry(member)

    def members(self) -> Iterator[Member]:
        """Yield the members in their order.

        Raises:
            CorruptImage: a damaged header, or an archive that is cut short.
        """
        offset = 0
        while (member := self.member_at(offset)) is not None:
            yield member
            offset = self.after(member)

    def member_at(self, start: int) -> Member | None:
        """Return the member whose first header begins at ``start``; None: the archive ends there.

        Raises:
            CorruptImage: a damaged header, or an archive that is cut short.
        """
        offset = start
        extra = _Extra()
        while True:
            header = read_exactly(self._stream, offset, BLOCK, "tar header")
            if not header.strip(b"\0"):
                return None
            _check_sum(header, offset)
            kind, size = header[156:157], _number(header[124:136], "size")
            offset += BLOCK
            if kind in _EXTENDED:
                extra.read(kind, self._extra(offset, size))
                offset = self._after(offset, size)
                continue
            if kind == _SPARSE:
                offset = self._after_sparse_map(header, offset)
            member = _member(header, kind, size, start, offset, extra)
            self.after(member)  # or it is cut short
            return member

    def after(self, member: Member) -> int:
        """Return the offset of the next member.

        Raises:
            CorruptImage: the archive ends early.
        """
        return self._after(member.offset, member.size)

    def _extra(self, offset: int, size: int) -> bytes:
        if size > _LONGEST_EXTRA:
            raise CorruptImage(f"an extended tar header of {size} bytes")
        return read_exactly(self._stream, offset, size, "extended tar header")

    def _after_sparse_map(self, header: bytes, offset: int) -> int:
        goes_on = header[482]
        while goes_on:
            goes_on = read_exactly(self._stream, offset, BLOCK, "sparse map")[504]
            offset += BLOCK
        return offset

    def _after(self, data: int, size: int) -> int:
        end = data + -(-size // BLOCK) * BLOCK
        if end > self._end:
            raise CorruptImage(f"it is cut short: a member of {size} bytes at byte {data}")
        return end


class _Search:
    """The search for the last member of a name, over the members in their order."""

    def __init__(self, path: str) -> None:
        self.path = path
        parts = [part for part in path.split("/") if part not in ("", ".")]
        self._wanted = "/".join(parts)
        self._below = f"{self._wanted}/"
        self._parts, self._folders = frozenset(parts), frozenset(_folders(parts))
        self._found: Member | None = None
        self._has_members = False

    def see(self, member: Member, parts: list[str], links: _Links) -> None:
        """Check the next member, whose name has these parts.

        Raises:
            CorruptImage: the path is refused.
        """
        if not self._parts.isdisjoint(parts) and links.lead_to(parts):
            raise CorruptImage(f"{member.name!a:.80} leads through a link in the archive")
        if member.name == self._wanted:
            if member.kind in _LINKS:
                # GNU tar creates some at the end, over a later file with the same inode.
                reason = f"/{self._wanted} is not a regular file in the archive but a link"
                raise CorruptImage(reason)
            self._found = member
        elif member.name in self._folders and member.kind != _DIRECTORY:
            raise CorruptImage(f"/{member.name} is not a directory in the archive")
        elif member.name.startswith(self._below):
            self._has_members = True

    def result(self) -> Member | CorruptImage | None:
        """Return what was found; None: nothing."""
        if self._has_members and (self._found is None or self._found.kind != _DIRECTORY):
            return CorruptImage(f"/{self._wanted} has members of its own in the archive")
        return self._found


class _Links:
    """The links of an archive so far: with ``x -> etc``, tar would follow ``x/passwd``."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()  # an archive may have many, with long names

    def lead_to(self, parts: list[str]) -> bool:
        """Tell whether a path leads through a link."""
        return bool(self._hashes) and any(hash(each) in self._hashes for each in _folders(parts))

    def note(self, member: Member) -> None:
        """Note a member that is a link.

        Raises:
            CorruptImage: there are too many.
        """
        if member.kind in _LINKS:
            self._hashes.add(hash(member.name))
            if len(self._hashes) > _MOST_LINKS:
                raise CorruptImage(f"more than {_MOST_LINKS} links")


def _folders(parts: list[str]) -> Iterator[str]:
    for count in range(1, len(parts)):
        yield "/".join(parts[:count])


class _Extra:
    """Fields of the next member from extended headers; they override its own header."""

    def __init__(self) -> None:
        self._long_name: str | None = None
        self._long_target: str | None = None
        self._records: dict[str, str] = {}
        self._has_records = False

    def read(self, kind: bytes, data: bytes) -> None:
        if kind == _GNU_NAME:
            self._long_name = _text(data.partition(b"\0")[0])
        elif kind == _GNU_LINK:
            self._long_target = _text(data.partition(b"\0")[0])
        elif kind == _PAX_GLOBAL:
            # Nobody writes them into an image, and readers disagree on their scope.
            if _pax_records(data):
                raise CorruptImage("a global tar header says something of every member")
        elif kind in (_PAX, _PAX_SOLARIS):
            if self._has_records:
                raise CorruptImage("a member with two extended tar headers")
            self._records, self._has_records = _pax_records(data), True

    @property
    def name(self) -> str | None:
        return self._records.get("GNU.sparse.name", self._records.get("path", self._long_name))

    @property
    def target(self) -> str | None:
        return self._records.get("linkpath", self._long_target)

    def seconds(self, key: str, field: bytes) -> int:
        """Return a time in whole seconds, from the records or the header's own field."""
        text = self._records.get(key)
        if text is not None:
            if not _TIME.fullmatch(text):
                raise CorruptImage(f"an extended tar header says {key}={ascii(text)[:40]}")
            whole, _, fraction = text.partition(".")
            return int(whole) - (whole.startswith("-") and bool(fraction.strip("0")))
        if field[0] == 0xFF:  # GNU's base 256: before 1970
            return int.from_bytes(field, "big", signed=True)
        return _number(field, "time")

    @property
    def sparse(self) -> bool:
        return "GNU.sparse" in self._records

    def number(self, key: str, otherwise: int) -> int:
        text = self._records.get(key)
        if text is None:
            return otherwise
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
        if key in _PAX_USED:
            records[_text(key)] = _text(value[:-1])
        if key.startswith(b"GNU.sparse."):
            records["GNU.sparse"] = ""
        position = end
    return records


def _member(
    header: bytes, kind: bytes, size: int, start: int, offset: int, extra: _Extra
) -> Member:
    name = _own_name(header) if extra.name is None else extra.name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise CorruptImage(f"the member {ascii(name)[:80]} leads out of the archive")
    is_file = kind in _ALSO_REGULAR
    if not name or "\0" in name or (is_file and (not parts or name.endswith("/."))):
        raise CorruptImage(f"a member cannot have the name {ascii(name)[:80]}")
    if is_file:  # old BSD tar wrote a folder as a file whose name ends in a slash
        kind = _DIRECTORY if name.endswith("/") else REGULAR
    size = 0 if kind in _WITHOUT_DATA else extra.number("size", size)
    return Member(
        name="/".join(parts),
        kind=_SPARSE if extra.sparse else kind,
        mode=_number(header[100:108], "mode") & 0o7777,
        uid=extra.number("uid", _number(header[108:116], "uid")),
        gid=extra.number("gid", _number(header[116:124], "gid")),
        uname=_text(header[265:297].partition(b"\0")[0]),
        gname=_text(header[297:329].partition(b"\0")[0]),
        size=size,
        start=start,
        offset=offset,
        mtime=extra.seconds("mtime", header[136:148]),
        target=_link_target(header, extra) if kind in _LINKS else "",
        device=(_device_part(header[329:337]), _device_part(header[337:345])),
    )


def _entry(member: Member) -> Entry:
    linked_to = None
    if member.kind == LINK:
        linked_to = "/".join(part for part in member.target.split("/") if part not in ("", "."))
    return Entry(
        path=member.name,
        mode=_TYPES.get(member.kind, 0) | member.mode,
        uid=member.uid,
        gid=member.gid,
        size=None if member.kind == _SPARSE else member.size,
        mtime=member.mtime,
        target=member.target if member.kind == _SYMLINK else None,
        device=os.makedev(*member.device) if member.kind in (b"3", b"4") else 0,
        linked_to=linked_to,
    )


def _link_target(header: bytes, extra: _Extra) -> str:
    return _text(header[157:257].partition(b"\0")[0]) if extra.target is None else extra.target


def _device_part(field: bytes) -> int:
    return _number(field, "device number") & 0xFFFFF if field.strip(b"\0 ") else 0


def _own_name(header: bytes) -> str:
    name = _text(header[:100].partition(b"\0")[0])
    prefix = header[345:500].partition(b"\0")[0]
    if prefix and header[257:263] == b"ustar\0":  # GNU's old format keeps times there
        return f"{_text(prefix)}/{name}"
    return name


def _number(field: bytes, what: str) -> int:
    """Read an octal number, or a large one in GNU's base-256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        raise CorruptImage(f"a tar header has a negative {what}")
    if not _OCTAL.fullmatch(field):
        raise CorruptImage(f"a tar header has a {what} that is not a number")
    return int(field.strip(b" \0") or b"0", 8)


def _check_sum(header: bytes, offset: int) -> None:
    said = _number(header[148:156], "checksum")
    if said != sum(header) - sum(header[148:156]) + 8 * 32:
        raise CorruptImage(f"the tar header at byte {offset} is damaged")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
