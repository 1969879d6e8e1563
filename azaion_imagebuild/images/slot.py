"""Adding a placeholder to an image that has none, without mounting it.

Raw ext4: with debugfs (e2fsprogs). Its exit code means nothing, so our reader reads the result back
and e2fsck checks it. Tar: by appending a member, because the last one of a name counts. Before
that, the data of the old file (or of every earlier member) is overwritten with zeros: removing a
file would leave its password in free blocks. debugfs sees no secret: the identity comes later.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import VerificationError
from ..identity.placeholder import placeholder
from ..model import DEVICE_CONF, DEVICE_CONF_MODE, FileEntry
from ..settings import PLACEHOLDER_SIZE
from .e2fsprogs import damaged, debugfs
from .formats import image_format, open_filesystem
from .locate import Location, Range
from .stream import CorruptImage
from .tar import BLOCK, Member, Tar
from .tar_index import locate_conf

_BASE = "build one with a placeholder: azaion-imagebuild base"


def ensure_slot(
    path: Path,
    descriptor: int,
    owner: tuple[int, int],
    size: int = PLACEHOLDER_SIZE,
    check: Callable[[bytes], object] = lambda old: None,
) -> bytes | None:
    """Make sure that the image holds a device.conf of sufficient size for a stamp.

    Args:
        path: the image, open for writing as ``descriptor`` and locked.
        owner: (uid, gid) that a new device.conf belongs to.
        size: sufficient bytes.
        check: called with an old device.conf that is too short, before anything is changed.

    Returns:
        the content of an old device.conf that a placeholder has replaced.

    Raises:
        VerificationError: it cannot be made; ``descriptor``'s image is then unchanged, except that
            the data of an old device.conf is zeros.
    """
    try:
        with io.FileIO(descriptor, "r", closefd=False) as stream:
            container = image_format(stream)
            found = _found(path, descriptor)
            if found is not None and found.size >= size:
                return None
            old = _old(stream, container)
            if old is not None and container != "sparse":
                check(old.data)
        if container == "ext4":
            there = old is not None
            _place_in_ext4(path, descriptor, found, there=there, owner=owner, size=size)
        elif container == "tar":
            _place_in_tar(descriptor, owner, size)
        else:
            raise VerificationError(
                f"{path} has no device.conf that can be stamped, and a {container} image cannot be"
                " given one",
                hint=f"{_BASE}; or stamp the raw image and convert it again with mksparse",
            )
    except CorruptImage as error:
        raise VerificationError(
            f"{path} cannot be stamped: {error}", hint=error.hint or _BASE
        ) from None
    return old.data if old else None


def _found(path: Path, descriptor: int) -> Location | None:
    try:
        return locate_conf(path, descriptor)
    except CorruptImage:
        return None  # such as a hole: it is replaced as a whole


def _old(stream: io.FileIO, container: str) -> FileEntry | None:
    """Return the image's device.conf.

    Raises:
        CorruptImage: it cannot be read, in a raw image; in a tar a new member comes after it.
    """
    if container == "ext4":
        return open_filesystem(stream).read_file(DEVICE_CONF, 1 << 20)
    with contextlib.suppress(CorruptImage):
        return open_filesystem(stream).read_file(DEVICE_CONF, 1 << 20)
    return None


def _place_in_ext4(
    path: Path,
    descriptor: int,
    found: Location | None,
    *,
    there: bool,
    owner: tuple[int, int],
    size: int,
) -> None:
    if found is not None:
        _blank(descriptor, found.ranges)
    with tempfile.NamedTemporaryFile() as source:
        source.write(placeholder(size))
        source.flush()
        folder = DEVICE_CONF.rpartition("/")[0]
        commands = [
            *([f"rm /{DEVICE_CONF}"] if there else []),
            *_new_folders(path, folder),
            f"write {source.name} /{DEVICE_CONF}",
            f"sif /{DEVICE_CONF} mode 0{stat.S_IFREG | DEVICE_CONF_MODE:o}",
            f"sif /{DEVICE_CONF} uid {owner[0]}",
            f"sif /{DEVICE_CONF} gid {owner[1]}",
        ]
        for command in commands:
            debugfs(path, command)
    os.fsync(descriptor)
    with io.FileIO(descriptor, "r", closefd=False) as stream:
        entry = open_filesystem(stream).read_file(DEVICE_CONF, 1 << 20)
    wanted = (placeholder(size), DEVICE_CONF_MODE, *owner)
    if entry is None or (entry.data, entry.mode, entry.uid, entry.gid) != wanted:
        raise VerificationError(f"debugfs did not put a placeholder into {path}", hint=_BASE)
    for finding in damaged(path):
        raise VerificationError(finding.message, hint=_BASE)


def _new_folders(path: Path, folder: str) -> list[str]:
    """Return debugfs's commands that create the missing folders (0755, root)."""
    commands = []
    with path.open("rb") as stream:
        there = {each.path for each in open_filesystem(stream).entries()}
    parts = folder.split("/")
    for count in range(1, len(parts) + 1):
        name = "/".join(parts[:count])
        if name not in there:
            commands += [f"mkdir /{name}", f"sif /{name} mode 0{stat.S_IFDIR | 0o755:o}"]
    return commands


def _place_in_tar(descriptor: int, owner: tuple[int, int], size: int) -> None:
    folder = DEVICE_CONF.rpartition("/")[0]
    folders = set()
    end = 0
    with io.FileIO(descriptor, "r", closefd=False) as stream:
        archive = Tar(stream)
        for member in archive.members():
            end = archive.after(member)
            if member.name == DEVICE_CONF:
                _blank(descriptor, (Range(offset=member.offset, length=member.size),))
            elif folder.startswith(member.name):
                folders.add(member.name)
    added = b"" if folder in folders else _header(f"./{folder}/", 0, b"5", 0o755, (0, 0))
    added += _header(f"./{DEVICE_CONF}", size, b"0", DEVICE_CONF_MODE, owner)
    added += placeholder(size) + bytes(-size % BLOCK)
    os.pwrite(descriptor, _ended(added, end), end)
    os.fsync(descriptor)


def put_last(path: Path) -> None:
    """Make device.conf the last member of a tar that holds a placeholder; others stay as they are.

    The member is repeated at the end, with its headers, and its old data overwritten with zeros:
    the last member of a name counts. A stamp then changes nothing but the end of the archive.

    Raises:
        OSError: the archive cannot be written.
        CorruptImage: it is damaged.
    """
    with path.open("r+b", buffering=0) as stream:
        archive = Tar(stream)
        walk = archive.walk((DEVICE_CONF,))
        member = walk.found[DEVICE_CONF]
        if not isinstance(member, Member) or archive.after(member) == walk.end:
            return  # or the proof says what is wrong with it
        repeated = os.pread(stream.fileno(), archive.after(member) - member.start, member.start)
        os.pwrite(stream.fileno(), _ended(repeated, walk.end), walk.end)
        os.fdatasync(stream.fileno())
        _blank(stream.fileno(), (Range(offset=member.offset, length=member.size),))


def _ended(members: bytes, start: int) -> bytes:
    """Return the last members of an archive with its end: zeros up to a whole record of tar."""
    end = start + len(members) + 2 * BLOCK
    return members + bytes(2 * BLOCK + -end % (20 * BLOCK))


def _blank(descriptor: int, ranges: tuple[Range, ...]) -> None:
    for part in ranges:
        os.pwrite(descriptor, bytes(part.length), part.offset)
    os.fdatasync(descriptor)


def _header(name: str, size: int, kind: bytes, mode: int, owner: tuple[int, int]) -> bytes:
    """Return a ustar header; large owner numbers are in GNU's base-256."""
    fields = [
        name.encode().ljust(100, b"\0"),
        f"{mode:07o}\0".encode(),
        _number(owner[0]),
        _number(owner[1]),
        f"{size:011o}\0".encode(),
        f"{0:011o}\0".encode(),
        b" " * 8,
        kind,
        bytes(100),
        b"ustar\00000",
    ]
    header = b"".join(fields).ljust(BLOCK, b"\0")
    return header[:148] + f"{sum(header):06o}\0 ".encode() + header[156:]


def _number(value: int) -> bytes:
    if value < 0o10000000:
        return f"{value:07o}\0".encode()
    return (value | 1 << 63).to_bytes(8, "big")
