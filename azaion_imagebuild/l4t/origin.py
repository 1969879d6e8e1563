"""What an image is built from, as a digest: the settings, the owner of device.conf, the rootfs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import structs

from ..model import DEVICE_CONF, Build, Ownership

_CHANGED_BY_EVERY_RUN = ("etc/user_release_version",)
_CHANGED_IN_PLACE = ("boot/", "etc/nv_boot_control.conf")  # rewritten with the same content


def origin_of(build: Build, ownership: Ownership) -> str:
    """Return a digest of all that an image is built from: settings, owner, and the rootfs."""
    digest = hashlib.sha256()
    other = {
        "usb_instance": None,
        "sysfs_usb": None,
        "massflash": None,
    }  # says nothing of the image
    bsp = structs.asdict(build.settings.bsp) | other
    owner = (ownership.uid, ownership.gid)
    size = build.settings.image.placeholder_size
    digest.update(json.dumps([bsp, owner, size, str(build.rootfs_dir)], default=str).encode())
    for line in sorted(_described(build.rootfs_dir)):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _described(rootfs: Path) -> Iterator[str]:
    """Yield a line for everything in the rootfs; it changes when the thing does."""
    top = str(rootfs)
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = f"{folder}/{name}"
            within = path[len(top) + 1 :]
            if within == DEVICE_CONF or within in _CHANGED_BY_EVERY_RUN:
                continue
            with contextlib.suppress(OSError):
                at = os.lstat(path)
                line = f"{within} {at.st_mode:o} {at.st_uid} {at.st_gid}"
                if stat.S_ISREG(at.st_mode):
                    line += f" {at.st_size} {_version(path, within, at)}"
                elif stat.S_ISLNK(at.st_mode):
                    line += f" {os.readlink(path)}"  # noqa: PTH115 - one of very many
                yield f"{line}\n"


def _version(path: str, within: str, at: os.stat_result) -> str:
    if within.startswith(_CHANGED_IN_PLACE):
        with open(path, "rb") as stream:  # noqa: PTH123 - one of very many
            return hashlib.sha256(stream.read()).hexdigest()
    return str(at.st_mtime_ns)
