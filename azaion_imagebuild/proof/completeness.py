"""Is the image whole? NVIDIA's scripts end with 0 when the copy of the rootfs broke off."""

from __future__ import annotations

from collections.abc import Iterator

from .. import images
from ..images.e2fsprogs import damaged
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
        *_disagreeing(image),
        *(damaged(image.path) if image.format == "ext4" else []),
    ]


def _differences(build: Build, image: Image) -> Iterator[Finding]:
    """Find what the rootfs has and an image has not, or has otherwise."""
    wanted = wanted_of(build.rootfs_dir, build.began)
    for path in (image.path, *image.also):
        comparison = Comparison(build.rootfs_dir, wanted)
        with images.opened(path) as filesystem:
            for entry in filesystem.entries():
                comparison.see(entry)
        if missing := [f"/{each}" for each in sorted(comparison.missing)]:
            message = f"{path} is not whole: it lacks {_some(missing)} of the rootfs"
            yield Finding(message=message, hint=_LOOK)
        if others := [f"/{each} has {why}" for each, why in sorted(comparison.differences.items())]:
            message = f"{path} is not a true copy of the rootfs: {_some(others)}"
            yield Finding(message=message, hint=_LOOK)


def _some(of: list[str]) -> str:
    more = f" and {len(of) - _MOST_SHOWN} more" if len(of) > _MOST_SHOWN else ""
    return ", ".join(of[:_MOST_SHOWN]) + more


def _other_accounts(build: Build, image: Image) -> Iterator[Finding]:
    """The owner of device.conf means something only with the accounts it was looked up in."""
    with Rootfs(build.rootfs_dir) as rootfs, images.opened(image.path) as filesystem:
        for path in (PASSWD, GROUP):
            wanted = rootfs.read_file(path, LARGEST_PASSWD)
            found = filesystem.read_file(path, LARGEST_PASSWD)
            if (wanted and wanted.data) != (found and found.data):
                message = f"/{path} in {image.path} is not that of the rootfs"
                yield Finding(message=message, hint=_LOOK)


def _disagreeing(image: Image) -> Iterator[Finding]:
    """The raw image and its sparse twin are one filesystem only when their superblocks agree."""
    first = images.superblock(image.path)
    for path in image.also:
        if path.name.removesuffix(".raw") != image.path.name.removesuffix(".raw"):
            continue  # ROOTFS_AB's second image is a filesystem of its own
        if images.superblock(path) != first:
            message = f"{path.name} was not made from {image.path.name}: they do not agree"
            yield Finding(message=message, hint=_LOOK)
