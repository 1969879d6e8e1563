"""Reading files out of a tar archive that is packed by zstd, in one pass from start to end.

R36.4 and newer pack ``images/{internal,external}/system.img`` by ``tar -I 'zstd -T0'``, and the
device unpacks it by ``tar -x -I 'zstd -T0' -pf`` (l4t_flash_from_kernel.sh).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..model import DEVICE_CONF, GROUP, PASSWD, RELEASE_FILE
from .stream import CorruptImage, Readable
from .tar import REGULAR, Member, Tar, Walk
from .zstd import LARGEST, Unpacked

OFTEN_READ = (DEVICE_CONF, PASSWD, GROUP, RELEASE_FILE)
"""What a proof and a stamp need of an archive."""

_KEPT = 1 << 20  # bytes of one file


class ZstdTar(Tar):
    """A packed archive in a seekable stream. Its last byte is unpacked, too: any may be damaged.

    The files that are often read cost one pass together, any other one pass each.
    """

    def __init__(self, stream: Readable, largest: int = LARGEST) -> None:
        self._unpacked = Unpacked(stream, largest)
        self._found: Walk | None = None
        self._passed: dict[str, tuple[int, bytes]] = {}  # by path, the last one's offset and data
        super().__init__(self._unpacked, end=1 << 63)

    def find(self, path: str) -> Member | None:
        if path not in OFTEN_READ:
            return super().find(path)
        self._found = self._found or self.walk(OFTEN_READ)
        found = self._found.found[path]
        if isinstance(found, CorruptImage):
            raise found
        return found

    def members(self) -> Iterator[Member]:
        for member in super().members():
            if member.name in OFTEN_READ and member.kind == REGULAR and member.size <= _KEPT:
                self._passed[member.name] = member.offset, super().data_of(member)
            yield member
        self._unpacked.drain()

    def data_of(self, member: Member) -> bytes:
        offset, data = self._passed.get(member.name, (None, b""))
        return data if offset == member.offset else super().data_of(member)
