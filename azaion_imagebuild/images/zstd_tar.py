"""Reading files from a tar archive packed by zstd, in one pass from start to end.

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
"""The files that a proof and a stamp need."""

_KEPT = 1 << 20  # bytes of one file


class ZstdTar(Tar):
    """A packed archive in a seekable stream, always unpacked to its last byte, to find all damage.

    One pass finds all files that are often read; any other file takes a pass of its own.
    """

    def __init__(self, stream: Readable, largest: int = LARGEST) -> None:
        self.unpacked = Unpacked(stream, largest)
        self._found: Walk | None = None
        self._passed: dict[str, tuple[int, bytes]] = {}  # path → offset and data of the last one
        super().__init__(self.unpacked, end=1 << 63)

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
        self.unpacked.drain()

    def data_of(self, member: Member) -> bytes:
        offset, data = self._passed.get(member.name, (None, b""))
        return data if offset == member.offset else super().data_of(member)
