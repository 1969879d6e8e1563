"""Adding a placeholder to an image that has none, without mounting it.

Raw ext4: with debugfs (e2fsprogs). Its exit code means nothing, so our reader reads the result back
and e2fsck checks it. Tar: by appending a member, because the last one of a name counts. Before
that, the data of the old file (or of every earlier member) is overwritten with zeros: removing a
file would leave its password in free blocks. A zstd archive is packed again without the
old members (:mod:`.reframe`). debugfs sees no secret: the identity comes later.
"""

from __future__ import annotations

import contextlib
import fcntl
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
from .formats import EXT4_ZST, TAR_ZST, image_format, open_filesystem
from .indexed import locate_conf
from .locate import Location, Range, locate
from .reframe import reframe
from .stream import CorruptImage
from .tar import Member, Tar
from .tar_members import FOLDER, conf_member, ended, folder_member

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
            if container == TAR_ZST:
                data = reframe(path, stream, owner, size, check)
                _take_over(path, descriptor)
                return data
            if container == EXT4_ZST:
                locate(stream, DEVICE_CONF)  # which refuses it with what to do
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


def ensure_packed_slot(
    path: Path, descriptor: int, owner: tuple[int, int], size: int = PLACEHOLDER_SIZE
) -> bytes | None:
    """Do as :func:`ensure_slot` for an archive that zstd packed; leave any other image alone."""
    with io.FileIO(descriptor, "r", closefd=False) as stream:
        try:
            packed = image_format(stream) == TAR_ZST
        except CorruptImage:
            return None  # whoever opens it says it in its own words
    return ensure_slot(path, descriptor, owner, size) if packed else None


def _take_over(path: Path, descriptor: int) -> None:
    """Let ``descriptor`` be that of the file that is at ``path`` now, and lock it."""
    new = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(new, fcntl.LOCK_EX)
        os.dup2(new, descriptor, inheritable=False)
    finally:
        os.close(new)


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
    folders = set()
    end = 0
    with io.FileIO(descriptor, "r", closefd=False) as stream:
        archive = Tar(stream)
        for member in archive.members():
            end = archive.after(member)
            if member.name == DEVICE_CONF:
                _blank(descriptor, (Range(offset=member.offset, length=member.size),))
            elif FOLDER.startswith(member.name):
                folders.add(member.name)
    added = b"" if FOLDER in folders else folder_member()
    added += conf_member(owner, size)
    os.pwrite(descriptor, ended(added, end), end)
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
        os.pwrite(stream.fileno(), ended(repeated, walk.end), walk.end)
        os.fdatasync(stream.fileno())
        _blank(stream.fileno(), (Range(offset=member.offset, length=member.size),))


def _blank(descriptor: int, ranges: tuple[Range, ...]) -> None:
    for part in ranges:
        os.pwrite(descriptor, bytes(part.length), part.offset)
    os.fdatasync(descriptor)
