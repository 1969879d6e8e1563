"""Checking that the image is complete: NVIDIA's scripts exit with 0 even after a partial copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import images
from ..images.e2fsprogs import damaged, damaged_within
from ..images.expanded import first_difference
from ..images.zstd import largest_for
from ..model import GROUP, LUKS, PASSWD, Build, Finding, Image
from ..rootfs.accounts import LARGEST_PASSWD
from ..rootfs.tree import Rootfs
from .comparison import Comparison, wanted_of

_LOOK = "look at flash.sh's log, then run the same command again; do not flash this image"
_MOST_SHOWN = 8


def findings(build: Build, image: Image) -> list[Finding]:
    """Compare the image with the rootfs it was built from, and its copies with each other."""
    if image.format == LUKS:
        return []
    return [
        *_differences(build, image),
        *_other_accounts(build, image),
        *(list(_disagreeing(image)) or _damaged(image, _largest(build))),
    ]


def _differences(build: Build, image: Image) -> Iterator[Finding]:
    """Find what is in the rootfs, but missing or different in an image.

    A sparse image is compared with its raw twin instead, byte for byte (:func:`_damaged`).
    """
    wanted = wanted_of(build.rootfs_dir, build.began)
    for path in _compared(image):
        comparison = Comparison(build.rootfs_dir, wanted)
        with images.opened(path, _largest(build)) as filesystem:
            for entry in filesystem.entries():
                comparison.see(entry)
        if missing := [f"/{each}" for each in sorted(comparison.missing)]:
            message = f"{path} is incomplete: it lacks {_some(missing)} of the rootfs"
            yield Finding(message=message, hint=_LOOK)
        if others := [f"/{each} has {why}" for each, why in sorted(comparison.differences.items())]:
            message = f"{path} is not a true copy of the rootfs: {_some(others)}"
            yield Finding(message=message, hint=_LOOK)


def _compared(image: Image) -> Iterator[Path]:
    for paths in _twins(image):
        instead = _in_format("sparse", paths) if _in_format("ext4", paths) else []
        yield from (path for path in paths if path not in instead)


def _some(of: list[str]) -> str:
    more = f" and {len(of) - _MOST_SHOWN} more" if len(of) > _MOST_SHOWN else ""
    return ", ".join(of[:_MOST_SHOWN]) + more


def _other_accounts(build: Build, image: Image) -> Iterator[Finding]:
    """Check passwd and group: the owner of device.conf has a meaning only with them."""
    opened = images.opened(image.path, _largest(build))
    with Rootfs(build.rootfs_dir) as rootfs, opened as filesystem:
        for path in (PASSWD, GROUP):
            wanted = rootfs.read_file(path, LARGEST_PASSWD)
            found = filesystem.read_file(path, LARGEST_PASSWD)
            if (wanted and wanted.data) != (found and found.data):
                message = f"/{path} in {image.path} is not that of the rootfs"
                yield Finding(message=message, hint=_LOOK)


def _largest(build: Build) -> int:
    return largest_for(build.settings.bsp.size)


def _twins(image: Image) -> Iterator[list[Path]]:
    """Yield the files of each filesystem; ROOTFS_AB's second image is a separate one."""
    stems: dict[str, list[Path]] = {}
    for path in (image.path, *image.also):
        stems.setdefault(path.name.removesuffix(".raw"), []).append(path)
    yield from stems.values()


def _in_format(name: str, paths: list[Path]) -> list[Path]:
    return [path for path in paths if images.format_of(path) == name]


def _disagreeing(image: Image) -> Iterator[Finding]:
    """Check that raw and sparse images are equal: one is checked, the other flashed."""
    for first, *others in _twins(image):
        superblock = images.superblock(first) if others else None
        for path in others:
            if images.superblock(path) != superblock:
                message = f"{path.name} was not made from {first.name}: they do not agree"
                yield Finding(message=message, hint=_LOOK)


def _damaged(image: Image, largest: int) -> Iterator[Finding]:
    """Check every filesystem in the file that is flashed, raw or sparse."""
    for paths in _twins(image):
        raws = _in_format("ext4", paths)
        for raw in raws:
            yield from damaged(raw)
        for packed in _in_format("ext4.zst", paths):
            yield from damaged_within(packed, largest)
        for sparse in _in_format("sparse", paths):
            if not raws:
                yield from damaged_within(sparse)
            elif (at := first_difference(sparse, raws[0])) is not None:
                yield Finding(
                    message=f"{sparse} and {raws[0].name} do not agree: they differ at byte {at} of"
                    " the filesystem",
                    hint=_LOOK,
                )
