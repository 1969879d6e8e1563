"""Staging into a tmpfs over the rootfs: the secret never enters the BSP's own tree."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import PreflightError, StagingError
from ..system import mounts as leftovers
from ..system.process import run

_RUN = Path("/run/azaion-imagebuild")


@contextlib.contextmanager
def staged_over(rootfs: Path) -> Iterator[Path]:
    """Mount an overlay of a private tmpfs over ``rootfs``; yield its path; unmount it at the end.

    The path is derived from the rootfs, so that the next build finds and unmounts what a killed one
    left. Only for the holder of the rootfs's lock.

    Raises:
        PreflightError: this user or this kernel cannot mount it.
        StagingError: it cannot be unmounted.
    """
    if os.geteuid() != 0:
        raise PreflightError(
            'staging = "overlay" mounts a filesystem, which needs root',
            hint='run the same command with sudo, or set [image] staging = "rootfs"',
        )
    place = _RUN / hashlib.sha256(os.fsencode(rootfs.resolve())).hexdigest()[:16]
    _clear(place)
    place.mkdir(parents=True, mode=0o700)
    try:
        _mount("tmpfs", "mode=0700", place)
        for name in ("upper", "work", "rootfs"):
            (place / name).mkdir()
        root = rootfs.stat()
        os.chown(place / "upper", root.st_uid, root.st_gid)
        (place / "upper").chmod(root.st_mode & 0o7777)
        os.utime(place / "upper", ns=(root.st_atime_ns, root.st_mtime_ns))
        layers = f"lowerdir={_escaped(rootfs)},upperdir={place}/upper,workdir={place}/work"
        _mount("overlay", layers, place / "rootfs")
        yield place / "rootfs"
    finally:
        _clear(place)


def _mount(kind: str, options: str, where: Path) -> None:
    done = run(["mount", "-t", kind, "-o", options, kind, str(where)], cwd=Path("/"), timeout=60)
    if done.returncode != 0:
        raise PreflightError(
            f"cannot mount {kind}: {done.last_words(1)}",
            hint='set [image] staging = "rootfs": the secret is then staged in the tree itself',
        )


def _clear(place: Path) -> None:
    for point in leftovers.mounts_below(_RUN):
        if point == place or place in point.parents:
            run(["umount", str(point)], cwd=Path("/"), timeout=60)
    if any(point == place or place in point.parents for point in leftovers.mounts_below(_RUN)):
        raise StagingError(
            f"the overlay at {place} cannot be unmounted",
            hint=f"see who uses it by fuser -vm {place}, then: umount -R {place}",
        )
    with contextlib.suppress(FileNotFoundError):
        place.rmdir()


def _escaped(path: Path) -> str:
    """Escape what overlayfs reads as separators of its options."""
    return "".join(f"\\{char}" if char in "\\,:" else char for char in str(path.resolve()))
