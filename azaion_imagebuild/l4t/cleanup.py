"""After a build: remove the images, search the BSP tree for the secret, unmount what is left."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import ImageBuildError, OperatorError, StagingError, VerificationError
from ..identity import device_conf
from ..identity.placeholder import is_placeholder
from ..images import indexed
from ..model import DEVICE_CONF, Build, DeviceIdentity, Image
from ..secret import Secret
from ..system import mounts
from ..system.holes import data_ranges
from . import image_files, packed_files
from .image_files import BASE_NOTE, RETRY_NOTE

_WINDOW = 1 << 20
_CREDENTIAL = re.compile(rb"AZAION_DEVICE_PASSWORD=['\"]?[^\s'\"${}<>\0]{8,}")
"""A line of a device.conf with a real value, not a placeholder or code that only names it."""
_LONGEST_MATCH = 64
_HEAD = 1 << 16
"""Bytes at the start of a filesystem: ext4's superblock and group descriptors, LUKS' headers."""
_CLOCK = 2.0  # seconds that a file's time may lag behind the clock


def clean_up(build: Build, identity: DeviceIdentity, image: Image, tree: Path) -> dict[str, Any]:
    """Remove the images except those to keep, then check that the secret is nowhere else.

    Without flashing, what the site's own flash procedure needs stays (readable by its owner only)
    until :func:`clean` removes it. After flashing, the image stays only with ``[image] keep``.

    Returns:
        ``removed``: the removed files; ``residue``: files that still hold the password (none).

    Raises:
        VerificationError: the password was found in a file that is not to be kept.
    """
    kept = _kept(build, image, tree)
    # hooks/base.py has cleared the images of a build that stamps.
    removed = [] if build.stamps else remove_images_since(tree, build.began, kept)
    in_lane = build.lane is not None
    # Of a build that stamps, the scripts have packed a placeholder only.
    spared = [*kept, *(path for path in image.files if build.stamps and _holds_placeholder(path))]
    holders = files_with_secret(
        tree,
        identity.password,
        build.began,
        linked=in_lane,
        packed=not build.stamps,
        spared=spared,
    )
    found = [str(path.relative_to(tree)) for path in holders]
    if found:
        raise VerificationError(
            f"the device's password was still found in {', '.join(found)}",
            hint=f"remove these files from {tree}, then run the same command again: it sets a new"
            " password",
        )
    return {"removed": removed, "residue": found}


def _holds_placeholder(image: Path) -> bool:
    """Tell whether the identity was taken out of an image again: a stamp is nowhere else in it."""
    try:
        entry = indexed.read_file(image, DEVICE_CONF, device_conf.LONGEST)
    except OperatorError:
        return False
    return entry is not None and is_placeholder(entry.data)


def _kept(build: Build, image: Image, tree: Path) -> list[Path]:
    if build.flash:
        return [image.path] if build.keeps_image else []
    # The initrd flash writes only below its own folder.
    packed = tree / "tools/kernel_flash"
    initrd = build.settings.bsp.method == "initrd"
    images = [path for path in image.files if not initrd or path.is_relative_to(packed)]
    return [*images, *image_files.unified_outputs(tree)]


def _is_in(path: Path, kept: Iterable[Path]) -> bool:
    return any(path.is_relative_to(each) for each in kept)


def clean(tree: Path) -> list[str]:
    """Remove every image from a BSP that is locked; return their names.

    Raises:
        StagingError: something is mounted or attached and cannot be released.
        VerificationError: a credential was found in another file.
    """
    release(tree)
    removed = remove_images_since(tree, since=0.0)
    for note in (BASE_NOTE, RETRY_NOTE):
        (tree / note).unlink(missing_ok=True)
    left = [str(path.relative_to(tree)) for path in _changed(tree, 0.0, linked=False)
            if _has_credential(path)]  # fmt: skip
    if left:
        raise VerificationError(
            f"a device's credential was found in {', '.join(left)}",
            hint=f"remove {'it' if len(left) == 1 else 'them'} from {tree}, then run the same"
            " command again",
        )
    return removed


def release(folder: Path, error: type[OperatorError] = StagingError) -> None:
    """Unmount and detach what scripts left mounted or attached in a folder.

    Raises:
        OperatorError: of the class ``error``: something could not be unmounted or detached.
    """
    if os.geteuid() == 0 and (stuck := _stuck(folder)):
        users = [user for place in stuck for user in mounts.users_of(Path(place))]
        first = f"stop {', '.join(dict.fromkeys(users))}; then " if users else ""
        raise error(
            f"{', '.join(stuck)} could not be unmounted or detached",
            hint=f"{first}run umount on a mount, losetup -d on a loop device",
        )


def _stuck(folder: Path) -> list[str]:
    """Release what is in a folder, also on another disk; return what could not be released."""
    linked = [each for each in image_files.linked_folders(folder) if each.name != "rootfs"]
    return [name for top in (folder, *linked) for name in mounts.release(top)]


def clear_images(tree: Path) -> None:
    """Let no image of an earlier build be taken for a new one: remove it, or make it unusable.

    A raw image becomes unusable and stays until a script renames the new one over it, as it does
    without this tool: memory that is freed only to be used again costs a virtual machine that
    gives it back to its host two seconds of a build. :func:`remove_unusable` removes those that
    no script has replaced.

    Raises:
        ImageBuildError: one cannot be removed.
    """
    images = [path for path in image_files.present_images(tree) if not _made_unusable(path)]
    notes = (tree / BASE_NOTE, tree / RETRY_NOTE)
    _remove_all([*images, *notes, *image_files.derived_files(tree)], ImageBuildError)


def remove_unusable(tree: Path) -> None:
    """Remove what :func:`clear_images` has left and no script has replaced.

    Raises:
        ImageBuildError: one cannot be removed.
    """
    raws = filter(image_files.is_raw, image_files.present_images(tree))
    _remove_all([path for path in raws if _head(path) == bytes(_HEAD)], ImageBuildError)


def _made_unusable(path: Path) -> bool:
    """Overwrite the head of a raw image, if its room is not needed and it has no other name."""
    at = path.stat()
    size = at.st_blocks * 512
    if (
        not image_files.is_raw(path)
        or at.st_nlink > 1
        or shutil.disk_usage(path.parent).free < size
    ):
        return False
    try:
        with path.open("r+b", buffering=0) as stream:
            stream.write(bytes(_HEAD))
    except OSError:
        return False
    return at.st_size >= _HEAD


def _head(path: Path) -> bytes:
    with path.open("rb", buffering=0) as stream:
        return stream.read(_HEAD)


def remove_massflash_archives(tree: Path) -> None:
    """Remove what massflash packs for other hosts.

    Raises:
        ImageBuildError: one cannot be removed.
    """
    _remove_all(image_files.massflash_archives(tree), ImageBuildError)


def remove_images_since(tree: Path, since: float, keep: Iterable[Path] = ()) -> list[str]:
    """Remove a build's images, their backups and what is packed of them; return their names.

    Args:
        tree: the Linux_for_Tegra folder.
        since: seconds since the epoch; a file that was last changed before then stays.
        keep: files to leave.

    Raises:
        VerificationError: some cannot be removed; all others are.
    """
    kept = set(keep)
    candidates = [
        *image_files.present_images(tree),
        *image_files.backups(tree),
        *image_files.massflash_archives(tree),
        *image_files.unified_outputs(tree),
        *image_files.derived_files(tree),
    ]
    found = [
        path
        for path in candidates
        if path.exists() and not _is_in(path, kept) and _is_since(path, since - _CLOCK)
    ]
    _remove_all(found, VerificationError)
    return [str(path.relative_to(tree)) for path in found]


def _is_since(path: Path, since: float) -> bool:
    """Tell whether a file, or anything in a folder, was changed since then."""
    if path.lstat().st_ctime >= since:
        return True
    return path.is_dir() and any(True for _ in _changed(path, since, linked=False))


def _remove_all(paths: Iterable[Path], error: type[OperatorError]) -> None:
    """Remove files and folders; of the class ``error`` is what cannot be removed."""
    stuck = []
    for path in paths:
        try:
            _remove(path)
        except OSError as cause:
            stuck.append(f"{path} ({cause.strerror})")
    if stuck:
        raise error(
            f"cannot remove {', '.join(stuck)}: it may hold a device's credential",
            hint="see whether it is immutable (lsattr) or on a read-only mount, then run the same"
            " command again",
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def files_with_secret(
    tree: Path,
    secret: Secret,
    since: float,
    *,
    linked: bool = False,
    packed: bool = True,
    spared: Sequence[Path] = (),
) -> list[Path]:
    """Return the files below ``tree`` that hold the secret, among those changed since then.

    A file that was last changed before the secret existed cannot hold it. Holes are skipped;
    memory is bounded. Links are not followed and only regular files are opened.

    Args:
        since: seconds since the epoch, compared with each file's ctime.
        linked: the tree is a lane. A file that it shares with others counts by its mtime: every
            lane that is made or removed changes the ctime of all of them.
        packed: look into compressed files, too.
        spared: files and folders that are not searched.
    """
    needle = secret.reveal().encode()
    changed = (path for path in _changed(tree, since - _CLOCK, linked) if not _is_in(path, spared))
    return [path for path in changed if _holds(path, needle, packed)]


def _changed(tree: Path, since: float, linked: bool) -> Iterator[Path]:
    tops = (tree, *image_files.linked_folders(tree))
    for folder, _, names in chain.from_iterable(map(os.walk, tops)):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118
            try:
                found = os.lstat(path)
            except OSError:
                continue
            shared = linked and found.st_nlink > 1
            when = found.st_mtime if shared else found.st_ctime
            if stat.S_ISREG(found.st_mode) and when >= since:
                yield Path(path)


def _holds(path: Path, needle: bytes, packed: bool) -> bool:
    return _matches(path, lambda data: needle in data, len(needle) - 1, packed)


def _has_credential(path: Path) -> bool:
    return _matches(path, lambda data: _CREDENTIAL.search(data) is not None, _LONGEST_MATCH - 1)


def _matches(
    path: Path, wanted: Callable[[bytes], bool], overlap: int, packed: bool = True
) -> bool:
    """Tell whether part of a file is wanted, as it is or unpacked; parts overlap."""
    return _matches_as_it_is(path, wanted, overlap) or (
        packed and _matches_unpacked(path, wanted, overlap)
    )


def _matches_unpacked(path: Path, wanted: Callable[[bytes], bool], overlap: int) -> bool:
    tail = b""
    for data in packed_files.unpacked(path):
        joined = tail + data
        if wanted(joined):
            return True
        tail = joined[-overlap:]
    return False


def _matches_as_it_is(path: Path, wanted: Callable[[bytes], bool], overlap: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        tail, position = b"", 0
        for start, data in _data(descriptor):
            joined = (tail if start == position else b"") + data
            if wanted(joined):
                return True
            tail, position = joined[-overlap:], start + len(data)
        return False
    finally:
        os.close(descriptor)


def _data(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of a file's data, without its holes."""
    for position, end in data_ranges(descriptor):
        while position < end:
            block = os.pread(descriptor, min(_WINDOW, end - position), position)
            if not block:
                return
            yield position, block
            position += len(block)
