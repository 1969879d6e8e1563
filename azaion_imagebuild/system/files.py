"""Files and folders on this host: whose they are, and new ones that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

NEW_SUFFIX = ".azaion-new"
"""Of a file that is still being written. It is fixed, so that the next run finds what a kill left.
"""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Yield the descriptor of a folder, to name files in it whatever is moved meanwhile.

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
    """Yield a new, empty file (0600) in an opened folder, and what makes it take over ``name``.

    Until that is called ``name`` stays as it is. At the end a file that has not taken it over is
    removed, and so is one that a killed run left.

    Args:
        folder: the folder's descriptor.
        name: the final name.
        new: the name until then; None: a dotfile.
        durable: the new file must survive a power cut, too.

    Raises:
        OSError: it cannot be written; the second answer raises this, too.
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
        with stream:
            os.chmod(stream.fileno(), 0o600)  # whatever the umask is
            yield stream, publish
    finally:
        if not published:  # or another process's would go
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


def replace_file(
    path: Path, data: bytes, mode: int = 0o600, like: Path | None = None, *, durable: bool = True
) -> None:
    """Write a file whole, or leave what was there.

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
    with contextlib.suppress(OSError):  # the filesystem has none
        for name in os.listxattr(source):
            os.setxattr(target, name, os.getxattr(source, name))


def is_own(path: Path) -> bool:
    """Tell whether ``path`` belongs to a user for whom this process acts, and not all may write it.

    These are this user, root, and the user who called sudo. Root must not run what any local user
    can write; that user's own process may.
    """
    link, found = path.lstat(), path.stat()
    return link.st_uid in _owners() and is_ours(found)


def is_ours(found: os.stat_result) -> bool:
    """Tell the same of what :func:`os.stat` found."""
    return found.st_uid in _owners() and not found.st_mode & stat.S_IWOTH


def make_folder(path: Path) -> None:
    """Make a folder, and missing ones above it, for this user only, whatever the umask.

    ``Path.mkdir`` makes the missing ones as the umask says: where it is 000, for everybody.

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
