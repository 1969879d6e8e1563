"""Stamping one device: its account, its identity in a finished image, the proof."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import device_conf, places
from .accounts import Accounts, UnknownAccount
from .builds import parts_of_api, stamping_build
from .credentials import of_device_conf
from .errors import ImageBuildError, UsageError, VerificationError
from .identity import email_for, parse_serial
from .images import Filesystem
from .model import DEVICE_CONF, DEVICE_CONF_MODE, RELEASE_FILE, DeviceIdentity, Image
from .pipeline import sha256_of
from .placeholder import is_placeholder, padded, placeholder
from .placing import ensure_place
from .plugins import load_plugins
from .proof import prove
from .settings import Settings
from .staging import template_path
from .stamping import OpenImage, copy_image, opened_for_stamping, renew_sha1

REFERENCE_BSP = b"reference BSP"
"""What etc/nv_tegra_release says in an image of the sandbox."""

_TWINS = {"system.img.raw": "system.img", "system.img": "system.img.raw"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StampRecord:
    """What one stamp did."""

    serial: str | None
    """None: the placeholder was put back."""
    email: str | None
    account: str | None
    sandbox: bool
    images: tuple[Path, ...]
    format: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the one-line record; never the password."""
        return {
            "serial": self.serial,
            "email": self.email,
            "outcome": "done",
            "sandbox": self.sandbox,
            "account": self.account,
            "image": str(self.images[0]),
            "also": [str(path) for path in self.images[1:]],
            "image_format": self.format,
            "seconds": round(self.seconds, 4),
        }


def stamp(
    image: Path,
    serial: str,
    settings: Settings,
    *,
    credentials: Path | None = None,
    out: Path | None = None,
) -> StampRecord:
    """Provision a device, put its identity into a finished image, and prove it.

    The image is looked at before an account is touched. In place, the sparse twin beside a raw
    image (and the other way round) is stamped too. With ``out`` the image stays as it is, and the
    stamped copy appears whole or not at all.

    Args:
        image: a raw ext4, Android sparse or tar image that holds a placeholder or an identity.
        serial: the device.
        settings: of the site; the sandbox's API is used where no API is set.
        credentials: a device.conf to stamp instead of provisioning a new password.
        out: a new file for the stamped image.

    Raises:
        OperatorError: something is wrong; the image then holds the old identity or none.
    """
    began = time.monotonic()
    serial = parse_serial(serial, settings.serial.pattern)
    template = device_conf.load_template(template_path(settings.device_conf))
    with places.opened(image) as filesystem:
        sandbox = credentials is None and _wants_sandbox(filesystem, image, settings)
        given = _given(credentials, serial) if credentials else None
        owner = _owner(filesystem, image, settings)
    with _targets(image, out) as targets, _opened(targets, settings, owner) as opened:
        size = min(each.location.size for each in opened)
        padded(device_conf.render(template, _longest(serial)), size)  # fails before the API
        for each in opened:
            _check_owner(each, owner)
        identity = given or _provisioned(serial, settings)
        account = None if given else identity.enrolled
        for each in opened:
            data = padded(device_conf.render(template, identity), each.location.size)
            _write(each, data)
            _prove(each, data, identity, owner)
        for path in targets:
            renew_sha1(path)
        found = opened[0].location.format
    return StampRecord(
        serial=serial,
        email=identity.email,
        account=account,
        sandbox=sandbox,
        images=(out,) if out else tuple(targets),
        format=found,
        seconds=time.monotonic() - began,
    )


def clear(image: Path, settings: Settings) -> StampRecord:
    """Put the placeholder back into an image and its twin.

    Raises:
        OperatorError: it cannot be written or holds no device.conf.
    """
    began = time.monotonic()
    with _targets(image, None) as targets, _opened(targets, settings) as opened:
        for each in opened:
            _write(each, placeholder(each.location.size))
        for path in targets:
            renew_sha1(path)
        found = opened[0].location.format
    return StampRecord(
        serial=None,
        email=None,
        account=None,
        sandbox=False,
        images=tuple(targets),
        format=found,
        seconds=time.monotonic() - began,
    )


def base_at(path: Path, settings: Settings) -> tuple[Image, tuple[int, int], str]:
    """Look at an image that is to be stamped again and again.

    Returns:
        the image, whom its device.conf belongs to, and the file's SHA-256.

    Raises:
        OperatorError: it is no image, or has no place for an identity.
    """
    with places.opened(path) as filesystem:
        owner = _owner(filesystem, path, settings)
    with _opened([path], settings) as opened:
        for each in opened:
            _check_owner(each, owner)
            if not is_placeholder(each.read()):
                raise VerificationError(
                    f"{path} holds an identity", hint="azaion-imagebuild stamp --clear takes it out"
                )
        found = Image(path=path, format=opened[0].location.format)
    return found, owner, sha256_of(path)


@contextmanager
def _targets(image: Path, out: Path | None) -> Iterator[list[Path]]:
    """Yield the files to stamp; with ``out`` a new copy, renamed when all went well."""
    if not image.is_file():
        raise UsageError(f"there is no image {image}", hint="build one: azaion-imagebuild base")
    if out is None:
        twin = image.with_name(_TWINS.get(image.name, image.name))
        yield [image, twin] if twin != image and twin.is_file() else [image]
        return
    if out.exists():
        raise UsageError(f"{out} is there already", hint="name a file that is not there yet")
    new = out.with_name(f".{out.name}.azaion-new")
    new.unlink(missing_ok=True)  # what a killed run left
    with places.carried_over(image, new):
        copy_image(image, new)
    try:
        yield [new]
        os.rename(new, out)  # noqa: PTH104 - both are ours
    finally:
        new.unlink(missing_ok=True)
        places.forget(new)


@contextmanager
def _opened(
    targets: list[Path], settings: Settings, owner: tuple[int, int] | None = None
) -> Iterator[list[OpenImage]]:
    """Open every target; with ``owner`` a place to stamp is made where there is none."""

    def make_place(path: Path, descriptor: int) -> None:
        if owner is not None:
            ensure_place(path, descriptor, owner)

    wait = settings.build.lock_wait
    with ExitStack() as opened:
        yield [
            opened.enter_context(opened_for_stamping(path, wait, make_place))
            for path in sorted(targets)
        ]


def _check_owner(opened: OpenImage, owner: tuple[int, int]) -> None:
    """Stamping changes no inode: owner and mode must be right before an account is touched."""
    found = opened.location
    if (found.uid, found.gid) != owner or found.mode != DEVICE_CONF_MODE:
        raise VerificationError(
            f"/{DEVICE_CONF} in {opened.path} has mode {found.mode:04o} and belongs to"
            f" {found.uid}:{found.gid}, not 0600 and {owner[0]}:{owner[1]}",
            hint="set [device_conf] owner and group, or build it anew: azaion-imagebuild base",
        )


def _write(opened: OpenImage, data: bytes) -> None:
    try:
        opened.write(data)
    except OSError as error:
        raise ImageBuildError(
            f"cannot write {opened.path}: {error.strerror}",
            hint="the image holds no identity now; check its disk, then run the same command again",
        ) from None


def _prove(
    opened: OpenImage, data: bytes, identity: DeviceIdentity, owner: tuple[int, int]
) -> None:
    """Read the file back by its name; take the identity out again if it differs."""
    findings = [
        (finding.message, finding.hint)
        for finding in prove(
            places.read_file(opened.path, DEVICE_CONF, device_conf.LONGEST),
            str(opened.path),
            email=identity.email,
            owner=owner,
            password=identity.password,
        )
    ]
    if not findings and opened.read() != data:
        findings = [(f"{opened.path} reads back other bytes than were written", "check its disk")]
    if findings:
        _write(opened, placeholder(opened.location.size))
        raise VerificationError.of_problems(findings)


def _owner(filesystem: Filesystem, image: Path, settings: Settings) -> tuple[int, int]:
    """Return whom device.conf must belong to, by the image's own passwd and group."""
    accounts = Accounts.read(filesystem.read_file)
    chosen = settings.device_conf
    try:
        return accounts.resolve(chosen.owner, chosen.group)
    except UnknownAccount as error:
        known = ", ".join(error.known) or "none at all"
        raise VerificationError(
            f"{error} (of {image})", hint=f"set [device_conf] owner and group; there are: {known}"
        ) from None


def wants_sandbox(image: Path, settings: Settings) -> bool:
    """Tell whether an image is to be stamped with the sandbox's API.

    Raises:
        OperatorError: no admin API is set, and the image is a real one, or none.
    """
    with places.opened(image) as filesystem:
        return _wants_sandbox(filesystem, image, settings)


def _wants_sandbox(filesystem: Filesystem, image: Path, settings: Settings) -> bool:
    """Tell whether the sandbox's API is the one: only for an image of the reference BSP.

    Raises:
        UsageError: no admin API is set, and the image is a real one.
    """
    if settings.admin_api.url is not None:
        return False
    release = filesystem.read_file(RELEASE_FILE, 4096)
    if release is None or REFERENCE_BSP not in release.data:
        raise UsageError(
            f"no admin API is set, and {image} is no image of the sandbox",
            hint="give --api-url (API_URL=), or credentials by --device-conf",
        )
    return True


def _provisioned(serial: str, settings: Settings) -> DeviceIdentity:
    hook = load_plugins(settings.hooks, required=("provision_identity",)).hook
    with parts_of_api(settings) as used:
        identity = hook.provision_identity(build=stamping_build(serial, used))
    if not isinstance(identity, DeviceIdentity):
        raise UsageError("no plug-in provisioned the identity", hint="azaion-imagebuild hooks")
    return identity


def _given(path: Path, serial: str) -> DeviceIdentity:
    """Read credentials out of a device.conf; they must be of this serial's account."""
    conf = of_device_conf(path)
    email = email_for(serial)
    if conf.email != email:
        raise UsageError(
            f"{path} is of {conf.email!a}, not of {email}", hint="check --serial and --device-conf"
        )
    return DeviceIdentity(serial=serial, email=email, password=conf.password, enrolled="updated")


def _longest(serial: str) -> DeviceIdentity:
    """Return an identity as long as the real one will be."""
    from .secret import Secret

    return DeviceIdentity(
        serial=serial, email=email_for(serial), password=Secret("0" * 32), enrolled="created"
    )
