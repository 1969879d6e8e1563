"""A finished image, into which a credential is written outside a build.

It is checked before the account is touched, and locked until the credential is in it: a password
that is written nowhere locks its device out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from ..errors import ImageBuildError, UsageError, VerificationError, raise_for
from ..identity import device_conf
from ..identity.placeholder import padded, placeholder
from ..images import Filesystem, indexed, tar_index
from ..images.copy import check_new_file, copy_image
from ..images.slot import ensure_slot
from ..images.stamp import OpenImage, opened_images, stamp, to_be_stamped, write_into
from ..model import (
    DEVICE_CONF,
    DEVICE_CONF_MODE,
    RELEASE_FILE,
    Build,
    DeviceIdentity,
    Finding,
    Image,
    Ownership,
    StagedFile,
)
from ..pipeline.target import Opened
from ..proof.identity import Expected, prove
from ..rootfs.accounts import Accounts, UnknownAccount
from ..rootfs.tree import Rootfs
from ..settings import DeviceConfSettings
from ..system.files import NEW_SUFFIX
from .existing import parsed, refuse_other_device

REFERENCE_BSP = b"reference BSP"
"""What etc/nv_tegra_release says in an image of the sandbox."""

_TWINS = {"system.img.raw": "system.img", "system.img": "system.img.raw"}


class ImageFile(Struct, frozen=True, kw_only=True):
    """A raw ext4, sparse, tar or tar.zst image, stamped in place, with its twin, or as a copy."""

    path: Path
    out: Path | None = None
    """A new file, which appears whole or not at all; the image itself then stays as it is."""

    replace: bool = False
    """Overwrite the identity of another device, too."""

    @contextmanager
    def opened(self, build: Build) -> Iterator[Opened]:
        """Check that it has room for the credential; an image without a placeholder gets one.

        An identity that it holds stays until the new one is written.
        """
        settings = build.settings
        template = device_conf.template_of(settings.device_conf)
        with indexed.opened(self.path) as filesystem:
            owner = owner_in(filesystem, self.path, settings.device_conf)
        trial = device_conf.render(template, device_conf.trial_identity(build.serial, build.email))

        def make_slot(path: Path, descriptor: int) -> bytes | None:
            old = ensure_slot(
                path,
                descriptor,
                owner,
                settings.image.placeholder_size,
                check=lambda data: self._refuse_other(data, path, build),
            )
            return old if old and parsed(old) else None

        with (
            _to_be_written(self.path, self.out) as paths,
            opened_images(paths, settings.build.lock_wait, make_slot) as opened,
        ):
            for each in opened:
                padded(trial, each.location.size)
                check_owner(each, owner)
                self._refuse_other(each.read(), each.path, build)
            yield _OpenedImage(opened, self.out, template, owner)

    def _refuse_other(self, data: bytes, path: Path, build: Build) -> None:
        where = self.path if self.out else path  # the operator does not know the copy's name
        refuse_other_device(data, where, build, replace=self.replace)


class _OpenedImage:
    def __init__(
        self, opened: Sequence[OpenImage], out: Path | None, template: str, owner: tuple[int, int]
    ) -> None:
        self.files = (out,) if out else tuple(each.path for each in opened)
        found = opened[0].location.format
        self.image = Image(path=self.files[0], format=found, also=self.files[1:])
        self._opened, self._out, self._template, self._owner = opened, out, template, owner
        self._before = [each.read() for each in opened]

    def write(self, identity: DeviceIdentity) -> StagedFile:
        rendered = device_conf.render(self._template, identity)
        contents = stamp(
            self._opened,
            lambda size: padded(rendered, size),
            lambda image, data: _prove_image(image, data, identity, self._owner),
        )
        uid, gid = self._owner
        return to_be_stamped(contents[0], Ownership(uid=uid, gid=gid))

    def publish(self) -> None:
        if self._out is None:
            return
        try:
            os.rename(self._opened[0].path, self._out)  # noqa: PTH104 - both are ours
        except OSError as error:
            raise ImageBuildError(
                f"cannot write {self._out}: {error.strerror}",
                hint="give another file by --out, then run the same command again",
            ) from None

    def undo(self) -> None:
        before = iter(self._before)
        stamp(self._opened, lambda _: next(before))


def of_sandbox(target: Path) -> bool:
    """Tell whether a rootfs or an image is of the sandbox's reference BSP.

    Raises:
        OperatorError: it cannot be read.
    """
    if target.is_dir():
        with Rootfs(target) as rootfs:
            release = rootfs.read_file(RELEASE_FILE, limit=4096)
    else:
        release = indexed.read_file(target, RELEASE_FILE, limit=4096)
    return release is not None and REFERENCE_BSP in release.data


def owner_in(filesystem: Filesystem, image: Path, chosen: DeviceConfSettings) -> tuple[int, int]:
    """Return who must own device.conf, by the image's own passwd and group.

    Raises:
        VerificationError: it has no such account, or cannot be read.
    """
    accounts = Accounts.read(filesystem.read_file)
    try:
        return accounts.resolve(chosen.owner, chosen.group)
    except UnknownAccount as error:
        known = ", ".join(error.known) or "none at all"
        raise VerificationError(
            f"{error} (of {image})",
            hint=f"set [device_conf] owner and group; the image has: {known}",
        ) from None


def twins(image: Path) -> list[Path]:
    """Return an image and the sparse or raw one that NVIDIA's scripts keep beside it.

    A link stands for the image that it leads to.

    Raises:
        UsageError: there is no such image.
    """
    if not image.is_file():
        raise UsageError(f"no such image: {image}", hint="build one: azaion-imagebuild base")
    real = image.resolve()
    twin = real.with_name(_TWINS.get(real.name, real.name))
    return [image, twin] if twin != real and twin.is_file() else [image]


@contextmanager
def _to_be_written(image: Path, out: Path | None) -> Iterator[list[Path]]:
    """Yield the files to stamp; with ``out`` a new copy, which is renamed when it is proven."""
    found = twins(image)
    if out is None:
        yield found
        return
    check_new_file(out)
    new = out.with_name(f".{out.name}{NEW_SUFFIX}")
    new.unlink(missing_ok=True)  # what a killed run left
    with tar_index.copied_with(image, new):
        copy_image(image, new)
    try:
        yield [new]
    finally:
        new.unlink(missing_ok=True)
        tar_index.forget(new)


def check_owner(opened: OpenImage, owner: tuple[int, int]) -> None:
    """Check owner and mode before an account is touched: a stamp does not change the inode.

    Raises:
        VerificationError: they are not.
    """
    found = opened.location
    if (found.uid, found.gid) != owner or found.mode != DEVICE_CONF_MODE:
        raise VerificationError(
            f"/{DEVICE_CONF} in {opened.path} has mode {found.mode:04o} and belongs to"
            f" {found.uid}:{found.gid}, not 0600 and {owner[0]}:{owner[1]}",
            hint="set [device_conf] owner and group, or rebuild the base: azaion-imagebuild base",
        )


def _prove_image(
    opened: OpenImage, data: bytes, identity: DeviceIdentity, owner: tuple[int, int]
) -> None:
    """Read the file back by its name; remove the identity if it differs."""
    entry = indexed.read_file(opened.path, DEVICE_CONF, device_conf.LONGEST)
    expected = Expected(email=identity.email, owner=owner, password=identity.password)
    findings = list(prove(entry, str(opened.path), expected))
    if not findings and opened.read() != data:
        message = f"{opened.path} reads back other bytes than were written"
        findings = [Finding(message=message, hint="check its disk")]
    if findings:
        write_into(opened, placeholder(opened.location.size))
    raise_for(findings, VerificationError)
