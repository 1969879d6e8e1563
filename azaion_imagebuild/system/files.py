"""Files and folders on this host: their owners, and new files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

NEW_SUFFIX = ".azaion-new"
"""Ends the name of an unfinished file. It is fixed, so that the next run finds a killed run's."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLAIN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # not waiting for the other end of a pipe
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Yield the descriptor of a folder, to name its files even if it is moved meanwhile.

    Raises:
        OSError: it cannot be opened, or is not a folder.
    """
    descriptor = os.open(path, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def prepared_file(
    folder: int, name: str, new: str | None = None, *, durable: bool = True
) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
    """Yield a new, empty file (0600) in an opened folder, and a function that renames it.

    ``name`` stays as it is until the function is called. If it never is, the new file is removed.
    What a killed run left is removed first.

    Args:
        folder: the folder's descriptor.
        name: the final name.
        new: the name until then; None: a dotfile.
        durable: the new file must survive a power cut, too.

    Raises:
        OSError: it cannot be written; the function raises this, too.
    """
    new = new or f".{name}{NEW_SUFFIX}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder)
    stream = open(os.open(new, _NEW, 0o600, dir_fd=folder), "r+b")  # noqa: SIM115

    published = False

    def publish() -> None:
        nonlocal published
        stream.flush()
        if durable:
            os.fsync(stream.fileno())
        os.replace(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        published = True
        if durable:
            os.fsync(folder)

    try:
        os.chmod(stream.fileno(), 0o600)  # regardless of the umask
        yield stream, publish
    finally:
        with contextlib.suppress(OSError):  # what could not be written is not wanted either
            stream.close()
        if not published:  # otherwise this could be another process's file
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=folder)


@contextlib.contextmanager
def new_file(
    folder: int, name: str, new: str | None = None, *, durable: bool = True
) -> Iterator[BinaryIO]:
    """Yield a new file (0600) in an opened folder; when the block succeeds it replaces ``name``.

    If it cannot be written, or the block fails, ``name`` stays as it was.

    Raises:
        OSError: it cannot be written.
    """
    with prepared_file(folder, name, new, durable=durable) as (stream, publish):
        yield stream
        publish()


_PIECE = 1 << 16
LONGEST_TEXT = 16 << 20
"""Bytes; a longer configuration, script or list of certificates is something else."""


def read_plain(path: Path, limit: int = LONGEST_TEXT) -> bytes:
    """Return the content of a regular file that another one than this tool has made.

    Raises:
        OSError: it cannot be read, is a pipe, a device or a folder, or longer than ``limit`` bytes.
    """
    data = bytearray()
    with opened_plain(path, limit) as stream:
        # /proc/sys refuses to fill a buffer of megabytes.
        while len(data) <= limit and (part := stream.read(min(_PIECE, limit + 1 - len(data)))):
            data += part
    if len(data) > limit:  # it has grown, or /proc gives it no size
        raise _too_long(path, limit)
    return bytes(data)


def read_text(path: Path, limit: int = LONGEST_TEXT) -> str:
    """Return the same as text; bytes that are not UTF-8 become U+FFFD."""
    return read_plain(path, limit).decode("utf-8", "replace")


def check_plain(path: Path, limit: int = LONGEST_TEXT) -> None:
    """Check what a library reads by its name: it would wait at a pipe, or read a device for ever.

    Raises:
        OSError: see :func:`read_plain`.
    """
    with opened_plain(path, limit):
        pass


def opened_plain(path: Path, limit: int) -> BinaryIO:
    """Open a regular file to read it; see :func:`read_plain`."""
    stream = open(os.open(path, _PLAIN), "rb")  # noqa: SIM115
    found = os.stat(stream.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_size <= limit:
        return stream
    stream.close()
    raise _too_long(path, limit) if stat.S_ISREG(found.st_mode) else _not_plain(path)


def opened_image(path: Path) -> BinaryIO:
    """Open a regular file, or a disk's partition, to read it.

    Raises:
        OSError: it cannot be read, or is something else, such as a pipe.
    """
    stream = open(os.open(path, _PLAIN), "rb")  # noqa: SIM115
    mode = os.stat(stream.fileno()).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return stream
    stream.close()
    raise _not_plain(path)


def _not_plain(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file", str(path))


def _too_long(path: Path, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"it is longer than {limit} bytes", str(path))


def replace_file(
    path: Path, data: bytes, mode: int = 0o600, like: Path | None = None, *, durable: bool = True
) -> None:
    """Replace a file as a whole, or leave it as it was.

    Args:
        path: the file.
        data: its new content.
        mode: its mode.
        like: a file whose owner, mode and xattrs it gets instead.
        durable: the new content must survive a power cut, too.

    Raises:
        OSError: it cannot be written.
    """
    with (
        opened_folder(path.parent) as folder,
        new_file(folder, path.name, durable=durable) as stream,
    ):
        stream.write(data)
        if like is not None:
            found = like.stat()
            mode = stat.S_IMODE(found.st_mode)
            os.chown(stream.fileno(), found.st_uid, found.st_gid)
            _copy_xattrs(like, stream.fileno())
        os.chmod(stream.fileno(), mode)


def _copy_xattrs(source: Path, target: int) -> None:
    with contextlib.suppress(OSError):  # the filesystem has no xattrs
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))


def is_ours(found: os.stat_result) -> bool:
    """Tell whether a file belongs to a trusted user and is not writable by everybody.

    Trusted are this user, root, and the user who called sudo: root must not run what any local user
    can write.
    """
    return found.st_uid in _owners() and not found.st_mode & stat.S_IWOTH


def distrust(*paths: Path) -> tuple[str, str] | None:
    """Return why the first path that :func:`is_ours` refuses is refused, and the command to fix it.

    None: all of them are trusted, and so are the links among them.
    """
    for path in paths:
        link, found = path.lstat(), path.stat()
        for each, more in ((found, ()), (link, ("-h",))):
            if each.st_uid not in _owners():
                fix = ["sudo", "chown", *more, _name(os.geteuid()), str(path)]
                return f"{path} belongs to {_name(each.st_uid)}", shlex.join(fix)
        if not is_ours(found):
            sudo = ["sudo"] if found.st_uid != os.geteuid() else []
            return f"everybody may write {path}", shlex.join([*sudo, "chmod", "o-w", str(path)])
    return None


def _name(uid: int) -> str:
    import pwd  # imported late: only an error needs it

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def make_folder(path: Path) -> None:
    """Make a folder, and missing ones above it, for this user only.

    ``Path.mkdir`` would make the missing ones by the umask: with 000, for everybody.

    Raises:
        OSError: it cannot be made, or is not a folder.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        if path.parent == path or path.is_symlink():
            raise
        make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _owners() -> set[int]:
    owners = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        owners.add(int(os.environ["SUDO_UID"]))
    return owners
