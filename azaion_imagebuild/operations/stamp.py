"""Stamping a device's identity into a finished image, with its account and the proof."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..errors import UsageError, VerificationError
from ..identity.placeholder import is_placeholder, placeholder
from ..identity.serial import email_for, parse_serial
from ..images import indexed
from ..images.slot import ensure_packed_slot
from ..images.stamp import opened_images
from ..images.stamp import stamp as stamp_images
from ..model import Build, BuildRecord, DeviceIdentity, Image, Ownership
from ..pipeline import recipes as pipeline
from ..pipeline.events import Watcher
from ..pipeline.new import stamping_build
from ..pipeline.plugins import load_plugins
from ..pipeline.target import Blank
from ..proof.readback import of_device_conf
from ..settings import Settings
from .image_target import ImageFile, check_owner, of_sandbox, owner_in, twins
from .parts import parts_of_api, the_ledger


class StampRecord(Struct, frozen=True, kw_only=True):
    """What a stamp without an account did."""

    serial: str | None
    """None: the placeholder was restored."""
    email: str | None
    images: tuple[Path, ...]
    format: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the one-line record; never the password."""
        return {
            "serial": self.serial,
            "email": self.email,
            "outcome": "done",
            "sandbox": False,
            "account": None,
            "image": str(self.images[0]),
            "also": [str(path) for path in self.images[1:]],
            "image_format": self.format,
            "seconds": round(self.seconds, 4),
        }


def stamp(
    image: Path,
    serial: str,
    settings: Settings,
    watcher: Watcher,
    *,
    out: Path | None = None,
    replace: bool = False,
) -> BuildRecord:
    """Provision a device, put its identity into a finished image, and prove it.

    The image is checked before an account is touched. In place, the sparse twin beside a raw
    image (and the other way round) is stamped too.

    Args:
        image: a raw ext4, Android sparse, tar or tar.zst image.
        serial: the device.
        settings: of the site; the sandbox's API is used where no API is set.
        watcher: called with each event.
        out: a new file for the stamped image, which then stays as it is.
        replace: overwrite the identity of another device, too.

    Raises:
        PreflightError: the image holds another device's identity; nothing has been done.
        UsageError: the serial or the settings are wrong; nothing has been done.
        VerificationError: the image cannot be read.
    """
    serial = parse_serial(serial, settings.serial.pattern)
    sandbox = wants_sandbox(image, settings)
    hook = load_plugins(settings.hooks, required=("provision_identity",)).hook
    target = ImageFile(path=image, out=out, replace=replace)
    with parts_of_api(settings) as used, the_ledger(used) as ledger:
        build = stamping_build(serial, used, sandbox=sandbox)
        return pipeline.issue(build, [target], hook, watcher, ledger)


def stamp_given(
    image: Path,
    serial: str,
    settings: Settings,
    credentials: Path,
    *,
    out: Path | None = None,
    replace: bool = False,
) -> StampRecord:
    """Put the credentials of a device.conf into a finished image, and prove it.

    Neither an account nor the ledger is touched: the credentials come from elsewhere.

    Raises:
        OperatorError: something is wrong; the image then holds the old identity or none.
    """
    began = time.monotonic()
    serial = parse_serial(serial, settings.serial.pattern)
    identity = _given(credentials, serial)
    nowhere = Path(os.devnull)
    build = Build(
        serial=serial,
        email=identity.email,
        attempt="",
        settings=settings,
        rootfs_dir=nowhere,
        log_dir=nowhere,
        stamps=True,
    )
    with ImageFile(path=image, out=out, replace=replace).opened(build) as opened:
        opened.write(identity)
        opened.publish()
        found = opened.image
    assert found is not None  # noqa: S101 - an ImageFile is one
    return StampRecord(
        serial=serial,
        email=identity.email,
        images=found.files,
        format=found.format,
        seconds=time.monotonic() - began,
    )


def clear(image: Path, settings: Settings) -> StampRecord:
    """Restore the placeholder in an image and its twin.

    Raises:
        OperatorError: it cannot be written or holds no device.conf.
    """
    began = time.monotonic()
    paths = twins(image)
    with opened_images(paths, settings.build.lock_wait) as opened:
        stamp_images(opened, placeholder)
        found = opened[0].location.format
    return StampRecord(
        serial=None,
        email=None,
        images=tuple(paths),
        format=found,
        seconds=time.monotonic() - began,
    )


def base_at(path: Path, settings: Settings) -> Blank:
    """Check an existing image whose copies will be stamped; whoever may read it may use it.

    Raises:
        OperatorError: it is not an image, or has no slot for an identity.
    """
    with indexed.opened(path) as filesystem:
        owner = owner_in(filesystem, path, settings.device_conf)

    def make_slot(path: Path, descriptor: int) -> bytes | None:
        return ensure_packed_slot(path, descriptor, owner, settings.image.placeholder_size)

    with opened_images([path], settings.build.lock_wait, make_slot, only_read=True) as opened:
        for each in opened:
            check_owner(each, owner)
            if not is_placeholder(each.read()):
                raise VerificationError(
                    f"{path} holds an identity", hint="remove it: azaion-imagebuild stamp --clear"
                )
        found = opened[0].location
    return Blank(
        image=Image(path=path, format=found.format),
        ownership=Ownership(uid=owner[0], gid=owner[1]),
        size=found.size,
    )


def wants_sandbox(target: Path, settings: Settings) -> bool:
    """Tell whether to use the sandbox's API, which is only for images of the reference BSP.

    Raises:
        UsageError: no admin API is set, and the image (or rootfs) is a real one.
        OperatorError: it cannot be read.
    """
    if settings.admin_api.url is not None:
        return False
    if not of_sandbox(target):
        raise UsageError(
            f"no admin API is set, and {target} was not built by the sandbox",
            hint="give --api-url (API_URL=), or stamp credentials of your own with --device-conf",
        )
    return True


def _given(path: Path, serial: str) -> DeviceIdentity:
    """Read credentials out of a device.conf; they must be of this serial's account."""
    conf = of_device_conf(path)
    email = email_for(serial)
    if conf.email != email:
        raise UsageError(
            f"{path} is of {conf.email!a}, not of {email}", hint="check --serial and --device-conf"
        )
    return DeviceIdentity(serial=serial, email=email, password=conf.password, enrolled="updated")
