"""A slot in a zstd archive: the archive is packed again, once, with device.conf last.

Everything else becomes one frame, in its order; device.conf and the archive's end become a stored
one (:mod:`.zstd_index`). Both passes stream, in bounded memory. The new file takes the old one's
place whole or not at all, and is the same to ``tar -x -I zstd``, which unpacks all frames in a row.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ImageBuildError
from ..identity.device_conf import LONGEST
from ..model import DEVICE_CONF
from ..system.files import new_file, opened_folder
from .sha1sum import renew_sha1
from .stream import CorruptImage, Readable, read_exactly
from .tar import LINK, Member
from .tar_members import FOLDER, conf_member, ended, folder_member
from .version import Version
from .zstd import Unpacked, library, stored_frame
from .zstd_tar import ZstdTar


class _Plan(ZstdTar):
    """What one pass over the archive finds."""

    def __init__(self, source: Readable) -> None:
        super().__init__(source)
        self.end = 0  # where its members end
        self.left_out: list[tuple[int, int]] = []  # where those of device.conf begin and end
        self.has_folder = False
        self.conf = b""  # the last of these, headers included
        self.last = self.find(DEVICE_CONF)

    def members(self) -> Iterator[Member]:
        for member in super().members():
            self._see(member)
            yield member

    def _see(self, member: Member) -> None:
        self.end = self.after(member)
        self.has_folder |= member.name == FOLDER
        if member.kind == LINK and _is_conf(member.target):
            raise CorruptImage(f"{member.name!a:.80} is a hard link to /{DEVICE_CONF}")
        if member.name == DEVICE_CONF:
            length = self.end - member.start
            if length > 2 * LONGEST:
                raise CorruptImage(f"/{DEVICE_CONF} takes {length} bytes in it")
            self.left_out.append((member.start, self.end))
            self.conf = read_exactly(self.unpacked, member.start, length, "member")


def reframe(
    path: Path,
    source: Readable,
    owner: tuple[int, int],
    size: int,
    check: Callable[[bytes], object] = lambda old: None,
) -> bytes | None:
    """Pack an archive again, with a slot of at least ``size`` bytes.

    A device.conf that is there and long enough keeps its data, owner and mode.

    Args:
        path: the archive, which is replaced; its ``.sha1sum`` is renewed.
        source: the archive, open.
        owner: (uid, gid) of a new device.conf.
        size: bytes.
        check: called with an old device.conf, before anything is changed.

    Returns:
        the content of an old device.conf that a placeholder has replaced.

    Raises:
        CorruptImage: it is damaged, or a link leads to device.conf or through it.
        ImageBuildError: it cannot be written.
    """
    path = path.resolve()
    plan = _Plan(source)
    old = None if plan.last is None else plan.data_of(plan.last)
    if old is not None:
        check(old)
    stays = old is not None and len(old) >= size
    conf = plan.conf if stays else conf_member(owner, size)
    try:
        found = path.stat()
        with opened_folder(path.parent) as folder, new_file(folder, path.name) as new:
            _pack(Unpacked(source), plan, conf, new)
            os.chown(new.fileno(), found.st_uid, found.st_gid)
            os.fchmod(new.fileno(), stat.S_IMODE(found.st_mode))
    except OSError as error:
        raise ImageBuildError(
            f"cannot pack {path} again: {error.strerror}",
            hint="make room beside it, as much as it takes, then run the same command again",
        ) from None
    version = Version.of(path)
    renew_sha1(path, 0, version, version)
    return None if stays else old


def _is_conf(target: str) -> bool:
    return "/".join(part for part in target.split("/") if part not in ("", ".")) == DEVICE_CONF


def _pack(archive: Unpacked, plan: _Plan, conf: bytes, new: BinaryIO) -> None:
    packer = _packer()
    length = 0
    for part in _parts(archive, plan):
        length += len(part)
        new.write(packer.compress(part))
    new.write(packer.flush())
    new.write(stored_frame(ended(conf, length)))


def _parts(archive: Unpacked, plan: _Plan) -> Iterator[bytes]:
    """Yield the members' bytes, without those of device.conf."""
    position = 0
    for start, after in (*plan.left_out, (plan.end, plan.end)):
        archive.seek(position)
        while position < start:
            part = archive.read(start - position)
            if not part:
                raise CorruptImage("it became shorter while it was packed again")
            position += len(part)
            yield part
        position = after
    if not plan.has_folder:
        yield folder_member()


def _packer() -> Any:
    option = library().CompressionParameter
    workers = min(os.cpu_count() or 1, option.nb_workers.bounds()[1])
    return library().ZstdCompressor(options={option.checksum_flag: 1, option.nb_workers: workers})
