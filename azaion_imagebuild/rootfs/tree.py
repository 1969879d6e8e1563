"""A root filesystem in a folder: reading and writing single files as if chrooted there.

Every path is walked with descriptors (``dir_fd``, ``O_NOFOLLOW``), and this code resolves the links
inside the tree. So no link leads out of it, not even one that is swapped in during the walk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from ..errors import StagingError
from ..model import FileEntry, Ownership, StagedFile
from ..system.files import NEW_SUFFIX, new_file

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40  # as the kernel's MAXSYMLINKS
_ACL_PREFIX = "system.posix_acl_"
T = TypeVar("T")


class Node(Struct, frozen=True, kw_only=True):
    """What is at a path; a link is not followed."""

    mode: int
    uid: int
    gid: int
    links: int

    def may_search(self, uid: int, gid: int) -> bool:
        """Tell whether this user may search the directory; other groups of the user are ignored."""
        if uid == 0:
            return True
        shift = 6 if uid == self.uid else 3 if gid == self.gid else 0
        return bool(self.mode >> shift & 1)

    @property
    def kind(self) -> str:
        """Return what it is, in words."""
        for test, word in _KINDS:
            if test(self.mode):
                return word
        return "special file"


_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISREG, "regular file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISCHR, "character device"),
)


class Rootfs:
    """An open root filesystem; use it as a context manager."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StagingError(
                f"cannot open the rootfs {root}: {error.strerror}",
                hint="check --rootfs-dir (ROOTFS_DIR=) or the BSP's rootfs/ and its permissions",
            ) from None

    def __enter__(self) -> Rootfs:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def look(self, path: str) -> Node | None:
        """Return what is at ``path``, or None. A link at its end is not followed.

        Raises:
            StagingError: its directories are not usable (a loop of links, a file among them).
        """
        with self._telling("look at", path):
            try:
                with self._parent(path) as (folder, name):
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return None
        return Node(mode=found.st_mode, uid=found.st_uid, gid=found.st_gid, links=found.st_nlink)

    def ownership(self, path: str) -> Ownership:
        """Return the owner and extended attributes of the regular file at ``path``.

        POSIX ACLs are omitted: they would let others read a file of mode 0600, and NVIDIA's tar
        turns their mask into group bits.
        """
        with self._telling("read", path), self._parent(path) as (folder, name):
            descriptor = _open_regular(folder, name)
            try:
                found = os.stat(descriptor)
                xattrs = {
                    key: os.getxattr(descriptor, key)
                    for key in _xattr_names(descriptor)
                    if not key.startswith(_ACL_PREFIX)
                }
            finally:
                os.close(descriptor)
        return Ownership(uid=found.st_uid, gid=found.st_gid, xattrs=xattrs)

    def read_file(self, path: str, limit: int) -> FileEntry | None:
        """Return the regular file at ``path``, following links inside the tree, or None.

        Raises:
            StagingError: it is not a regular file, or longer than ``limit`` bytes.
        """
        with self._telling("read", path):
            try:
                with self._parent(path, follow_last=True) as (folder, name):
                    descriptor = _open_regular(folder, name)
            except FileNotFoundError:
                return None
            with open(descriptor, "rb") as stream:
                found = os.stat(stream.fileno())
                data = stream.read(limit + 1)
        if len(data) > limit:
            raise StagingError(
                f"{path} in {self.root} is longer than {limit} bytes",
                hint="look at the file: it is not what its name says",
            )
        return FileEntry(
            data=data, mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid
        )

    def write_file(self, path: str, data: bytes, *, mode: int, ownership: Ownership) -> StagedFile:
        """Write a file, whole or not at all, and read its owner and mode back.

        A new file of mode 0600 beside it gets its data, xattrs, owner and mode, is synced, and then
        renamed. Missing directories are created (0755, root); existing ones keep their times.

        Raises:
            StagingError: it failed; the tree is unchanged.
        """
        made: list[str] = []
        try:
            with (
                self._telling("write", path),
                self._parent(path, made=made) as (folder, name),
                _times_kept(folder),
            ):
                _replace(folder, name, data, mode, ownership)
        except BaseException:
            self.remove_dirs(made)
            raise
        return StagedFile(
            path=path,
            mode=mode,
            ownership=ownership,
            sha256=hashlib.sha256(data).hexdigest(),
            new_dirs=tuple(made),
        )

    def remove_file(self, path: str) -> bool:
        """Remove the file at ``path`` and what a killed write left; tell whether there was any.

        A link is removed, not its target. The directory keeps its times.

        Raises:
            StagingError: it cannot be removed.
        """
        removed = False
        with self._telling("remove", path), contextlib.suppress(FileNotFoundError):  # noqa: SIM117
            with self._parent(path) as (folder, name):
                for each in (name, name + NEW_SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        with _times_kept(folder):
                            os.unlink(each, dir_fd=folder)
                        removed = True
                if removed:
                    os.fsync(folder)
        return removed

    def remove_dirs(self, paths: list[str] | tuple[str, ...]) -> None:
        """Remove empty directories that :meth:`write_file` created, innermost first."""
        for path in reversed(paths):
            with (
                contextlib.suppress(OSError, StagingError),
                self._parent(path) as (folder, name),
                _times_kept(folder),
            ):
                os.rmdir(name, dir_fd=folder)

    @contextlib.contextmanager
    def _telling(self, verb: str, path: str) -> Iterator[None]:
        """Turn an OSError into a StagingError that names the file in the rootfs."""
        try:
            yield
        except OSError as error:
            raise StagingError(
                f"cannot {verb} {path} in {self.root}: {error.strerror or error}",
                hint=_HINTS.get(error.errno or 0, "check the rootfs and its filesystem"),
            ) from None

    @contextlib.contextmanager
    def _parent(
        self, path: str, *, made: list[str] | None = None, follow_last: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Walk to the directory of ``path``; yield its descriptor and the file's name.

        ``made``: missing directories are created and their names appended to it.
        ``follow_last``: a link at the end is followed, too.
        """
        with contextlib.ExitStack() as opened:
            walk = _Walk(self._fd, opened, path, made)
            yield walk.to_parent(follow_last)


class _Walk:
    """A walk through the tree: descriptors of the directories so far, and the names left."""

    def __init__(
        self, root: int, opened: contextlib.ExitStack, path: str, made: list[str] | None
    ) -> None:
        self._opened = opened
        self._passed = [root]
        self._names: list[str] = []
        self._to_go = _parts(path)
        self._links = 0
        self._made = made

    def to_parent(self, follow_last: bool) -> tuple[int, str]:
        while self._to_go:
            name = self._to_go.pop(0)
            last = not self._to_go
            if name == "..":
                if len(self._passed) > 1:  # the root's parent is the root
                    self._passed.pop()
                    self._names.pop()
            elif last and not (follow_last and self._follow(name)):
                return self._passed[-1], name
            elif not last:
                self._enter(name)
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))

    def _enter(self, name: str) -> None:
        try:
            descriptor = self._open(name)
        except FileNotFoundError:
            if self._made is None:
                raise
            descriptor = self._make(name)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR) or not self._follow(name):
                raise
            return
        self._passed.append(descriptor)
        self._names.append(name)

    def _open(self, name: str) -> int:
        descriptor = os.open(name, _DIRECTORY, dir_fd=self._passed[-1])
        self._opened.callback(os.close, descriptor)
        return descriptor

    def _follow(self, name: str) -> bool:
        """If ``name`` is a link, put its target before the names left."""
        try:
            target = os.readlink(name, dir_fd=self._passed[-1])
        except OSError:
            return False
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.startswith("/"):
            del self._passed[1:]
            self._names.clear()
        self._to_go[:0] = _parts(target)
        return True

    def _make(self, name: str) -> int:
        """Make a directory (0755) that belongs to root, or to a caller who is not root."""
        assert self._made is not None  # noqa: S101 - its caller looked
        parent = self._passed[-1]
        with _times_kept(parent):
            os.mkdir(name, 0o755, dir_fd=parent)
        self._made.append("/".join([*self._names, name]))
        descriptor = self._open(name)
        os.chmod(descriptor, 0o755)  # noqa: S103 - as /etc; whatever the umask was
        if os.geteuid() == 0:
            os.chown(descriptor, 0, 0)
        return descriptor


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _open_regular(folder: int, name: str) -> int:
    """Open a regular file for reading; never block on a fifo or touch a device."""
    before = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(before.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    if not stat.S_ISREG(os.stat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor


def _replace(folder: int, name: str, data: bytes, mode: int, ownership: Ownership) -> None:
    with new_file(folder, name, name + NEW_SUFFIX) as stream:
        descriptor = stream.fileno()
        stream.write(data)
        stream.flush()
        for key, value in ownership.xattrs.items():
            os.setxattr(descriptor, key, value)
        _give(descriptor, ownership)
        os.chmod(descriptor, mode)  # after chown, which clears mode bits
        _check(os.stat(descriptor), mode, ownership)


def _give(descriptor: int, ownership: Ownership) -> None:
    found = os.stat(descriptor)
    if (found.st_uid, found.st_gid) != (ownership.uid, ownership.gid):
        os.chown(descriptor, ownership.uid, ownership.gid)


def _check(found: os.stat_result, mode: int, ownership: Ownership) -> None:
    """Raise if chown had no effect: vfat or a squashing NFS accepts and ignores it."""
    kept = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    if kept != (mode, ownership.uid, ownership.gid):
        raise OSError(errno.EPERM, "its filesystem does not keep owner and mode")


@contextlib.contextmanager
def _times_kept(folder: int) -> Iterator[None]:
    """Restore the times of a directory after a change in it."""
    before = os.stat(folder)
    try:
        yield
    finally:
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def _xattr_names(descriptor: int) -> list[str]:
    try:
        return os.listxattr(descriptor)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


_HINTS = {
    errno.ENOSPC: "make room on the rootfs's filesystem, then run the same command again",
    errno.EDQUOT: "make room in the quota, then run the same command again",
    errno.EROFS: "the rootfs's filesystem is mounted read-only: remount it for writing",
    errno.EACCES: "run it with sudo: the files of a rootfs belong to root",
    errno.EPERM: "run it with sudo, on a filesystem that keeps owners (ext4, xfs, btrfs)",
    errno.ELOOP: "fix its links: they lead in a circle inside the rootfs",
    errno.ENOTDIR: "fix the rootfs: something else is where a directory must be",
    errno.EINVAL: "fix the rootfs: something else is where a regular file must be",
}
