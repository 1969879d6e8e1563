"""Where a new credential is written outside a build: an image, a rootfs, a file of its own.

A target is looked at before the account is touched, and held until the credential stands in it: a
password that is written nowhere locks its device out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, structs

from ..errors import (
    ImageBuildError,
    OperatorError,
    PreflightError,
    StagingError,
    UsageError,
    VerificationError,
)
from ..identity import device_conf
from ..identity.placeholder import padded, placeholder
from ..images import Filesystem
from ..images import tar_index as places
from ..images.digest import renew_sha1
from ..images.slot import ensure_slot
from ..images.stamp import OpenImage, check_new_file, copy_image, opened_for_stamping, to_be_stamped
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
from ..proof.identity import prove
from ..rootfs import staging
from ..rootfs.accounts import Accounts, UnknownAccount
from ..rootfs.tree import Rootfs
from ..settings import DeviceConfSettings, Settings
from ..system.files import NEW_SUFFIX
from ..system.locks import locked

REFERENCE_BSP = b"reference BSP"
"""What etc/nv_tegra_release says in an image of the sandbox."""

_TWINS = {"system.img.raw": "system.img", "system.img": "system.img.raw"}
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_logger = logging.getLogger(__name__)


class ImageFile(Struct, frozen=True, kw_only=True):
    """A raw ext4, Android sparse or tar image, stamped in place, with its twin, or as a copy."""

    path: Path
    out: Path | None = None
    """A new file, which appears whole or not at all; the image itself then stays as it is."""

    @contextmanager
    def opened(self, build: Build) -> Iterator[Opened]:
        """Look whether it has a place for the credential; an image without one gets a placeholder.

        An identity that stands in it stays until the new one is written.
        """
        settings = build.settings
        template = device_conf.template_of(settings.device_conf)
        with places.opened(self.path) as filesystem:
            owner = owner_in(filesystem, self.path, settings.device_conf)
        with (
            _to_be_written(self.path, self.out) as paths,
            opened_images(paths, settings, owner) as opened,
        ):
            for each in opened:
                padded(
                    device_conf.render(
                        template, device_conf.trial_identity(build.serial, build.email)
                    ),
                    each.location.size,
                )
                check_owner(each, owner)
                _refuse_other(each.read(), each.path, build)
            yield _OpenedImage(opened, self.out, template, owner)


class _OpenedImage:
    def __init__(
        self, opened: Sequence[OpenImage], out: Path | None, template: str, owner: tuple[int, int]
    ) -> None:
        self.files = (out,) if out else tuple(each.path for each in opened)
        found = opened[0].location.format
        self.image = Image(path=self.files[0], format=found, also=self.files[1:])
        self._opened, self._out, self._template, self._owner = opened, out, template, owner

    def write(self, identity: DeviceIdentity) -> StagedFile:
        rendered = device_conf.render(self._template, identity)
        contents = [padded(rendered, each.location.size) for each in self._opened]
        for each, data in zip(self._opened, contents, strict=True):
            write_into(each, data)
            _prove_image(each, data, identity, self._owner)
            renew_sha1(each.path)
        if self._out is not None:
            os.rename(self._opened[0].path, self._out)  # noqa: PTH104 - both are ours
        uid, gid = self._owner
        return to_be_stamped(contents[0], Ownership(uid=uid, gid=gid))


class RootfsFolder(Struct, frozen=True, kw_only=True):
    """A root filesystem in a folder."""

    path: Path

    @contextmanager
    def opened(self, build: Build) -> Iterator[Opened]:
        """Look at it as a build does, and try to write: what stands there is written again."""
        held = structs.replace(build, rootfs_dir=self.path)
        with locked([self.path], build.settings.build.lock_wait):
            _heed(staging.findings(held))
            with Rootfs(self.path) as rootfs:
                ownership = staging.ownership_in(held, rootfs)
                existing = rootfs.read_file(DEVICE_CONF, device_conf.LONGEST)
                if existing is not None:
                    _refuse_other(existing.data, self.path / DEVICE_CONF, build)
                tried = rootfs.write_file(
                    DEVICE_CONF,
                    existing.data if existing else placeholder(),
                    mode=DEVICE_CONF_MODE,
                    ownership=ownership,
                )
            opened = _OpenedRootfs(held, ownership)
            try:
                yield opened
            finally:
                if existing is None and not opened.written:
                    staging.unstage(held, (tried,))


class _OpenedRootfs:
    image = None

    def __init__(self, build: Build, ownership: Ownership) -> None:
        self.files = (build.rootfs_dir / DEVICE_CONF,)
        self.written = False
        self._build, self._ownership = build, ownership

    def write(self, identity: DeviceIdentity) -> StagedFile:
        staged = staging.stage(self._build, identity, self._ownership)
        self.written = True
        with Rootfs(self._build.rootfs_dir) as rootfs:
            entry = rootfs.read_file(DEVICE_CONF, device_conf.LONGEST)
        findings = prove(
            entry,
            str(self._build.rootfs_dir),
            email=identity.email,
            owner=(self._ownership.uid, self._ownership.gid),
            password=identity.password,
            sha256=staged.sha256,
        )
        _refuse(findings, VerificationError)
        return staged


class ConfFile(Struct, frozen=True, kw_only=True):
    """A device.conf on this host, 0600, to be brought to the device."""

    path: Path
    held: bool = False
    """Its folder is locked already."""

    @contextmanager
    def opened(self, build: Build) -> Iterator[Opened]:
        """Look what stands there, and put a file beside it that will be renamed over it."""
        template = device_conf.template_of(build.settings.device_conf)
        folders = [] if self.held else [self.path.parent]
        with locked(folders, build.settings.build.lock_wait):
            _look_at_file(self.path, build)
            new = self.path.with_name(f".{self.path.name}{NEW_SUFFIX}")
            size = len(
                device_conf.render(template, device_conf.trial_identity(build.serial, build.email))
            )
            with ExitStack() as stack:
                try:
                    new.unlink(missing_ok=True)  # what a killed run left
                    descriptor = os.open(new, _NEW_FILE, DEVICE_CONF_MODE)
                    stack.callback(new.unlink, missing_ok=True)
                    stream = stack.enter_context(open(descriptor, "r+b"))  # noqa: PTH123
                    os.fchmod(descriptor, DEVICE_CONF_MODE)  # whatever the umask is
                    _write_all(stream, placeholder(size))  # so there is room
                except OSError as error:
                    raise UsageError(
                        f"cannot write {self.path}: {error.strerror}",
                        hint="name a file in a folder of your own, with room",
                    ) from None
                yield _OpenedFile(self.path, new, stream, template)


class _OpenedFile:
    image = None

    def __init__(self, path: Path, new: Path, stream: BinaryIO, template: str) -> None:
        self.files = (path,)
        self._path, self._new, self._stream, self._template = path, new, stream, template

    def write(self, identity: DeviceIdentity) -> None:
        data = device_conf.render(self._template, identity)
        try:
            _write_all(self._stream, data)
            os.rename(self._new, self._path)  # noqa: PTH104 - both are ours
            _sync_folder(self._path.parent)
            found = self._path.read_bytes()
        except OSError as error:
            raise StagingError(
                f"cannot write {self._path}: {error.strerror}",
                hint="make room or name another file, then run the same command again",
            ) from None
        if found != data:
            raise VerificationError(
                f"{self._path} reads back other bytes than were written", hint="check its disk"
            )


def of_sandbox(target: Path) -> bool:
    """Tell whether a rootfs or an image is of the sandbox's reference BSP.

    Raises:
        OperatorError: it cannot be read.
    """
    if target.is_dir():
        with Rootfs(target) as rootfs:
            release = rootfs.read_file(RELEASE_FILE, limit=4096)
    else:
        release = places.read_file(target, RELEASE_FILE, limit=4096)
    return release is not None and REFERENCE_BSP in release.data


def owner_in(filesystem: Filesystem, image: Path, chosen: DeviceConfSettings) -> tuple[int, int]:
    """Return whom device.conf must belong to, by the image's own passwd and group.

    Raises:
        VerificationError: it has no such account, or cannot be read.
    """
    accounts = Accounts.read(filesystem.read_file)
    try:
        return accounts.resolve(chosen.owner, chosen.group)
    except UnknownAccount as error:
        known = ", ".join(error.known) or "none at all"
        raise VerificationError(
            f"{error} (of {image})", hint=f"set [device_conf] owner and group; there are: {known}"
        ) from None


@contextmanager
def opened_images(
    paths: Sequence[Path], settings: Settings, owner: tuple[int, int] | None = None
) -> Iterator[list[OpenImage]]:
    """Open images for stamping; with ``owner`` a place is made where there is none.

    Raises:
        OperatorError: one cannot be stamped.
    """
    with ExitStack() as stack:
        # Locked in one order, whoever names which of two twins.
        opened = {
            path: stack.enter_context(_opened_image(path, settings, owner))
            for path in sorted(paths)
        }
        yield [opened[path] for path in paths]


@contextmanager
def _opened_image(
    path: Path, settings: Settings, owner: tuple[int, int] | None
) -> Iterator[OpenImage]:
    before: list[bytes] = []

    def make_place(path: Path, descriptor: int) -> None:
        if owner is not None:
            old = ensure_slot(path, descriptor, owner, settings.image.placeholder_size)
            before.extend([old] if old and _parsed(old) else [])

    with opened_for_stamping(path, settings.build.lock_wait, make_place) as opened:
        for old in before:  # the new place keeps it until there is another one
            write_into(opened, old.ljust(opened.location.size, b"\n"))
        yield opened


def twins(image: Path) -> list[Path]:
    """Return an image and the sparse or raw one that NVIDIA's scripts keep beside it.

    Raises:
        UsageError: there is no such image.
    """
    if not image.is_file():
        raise UsageError(f"there is no image {image}", hint="build one: azaion-imagebuild base")
    twin = image.with_name(_TWINS.get(image.name, image.name))
    return [image, twin] if twin != image and twin.is_file() else [image]


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
    with places.copied_with(image, new):
        copy_image(image, new)
    try:
        yield [new]
    finally:
        new.unlink(missing_ok=True)
        places.forget(new)


def check_owner(opened: OpenImage, owner: tuple[int, int]) -> None:
    """Stamping changes no inode: owner and mode must be right before an account is touched.

    Raises:
        VerificationError: they are not.
    """
    found = opened.location
    if (found.uid, found.gid) != owner or found.mode != DEVICE_CONF_MODE:
        raise VerificationError(
            f"/{DEVICE_CONF} in {opened.path} has mode {found.mode:04o} and belongs to"
            f" {found.uid}:{found.gid}, not 0600 and {owner[0]}:{owner[1]}",
            hint="set [device_conf] owner and group, or build it anew: azaion-imagebuild base",
        )


def write_into(opened: OpenImage, data: bytes) -> None:
    """Overwrite device.conf in an image.

    Raises:
        ImageBuildError: it cannot be written.
    """
    try:
        opened.write(data)
    except OSError as error:
        raise ImageBuildError(
            f"cannot write {opened.path}: {error.strerror}",
            hint="the image holds no identity now; check its disk, then run the same command again",
        ) from None


def _prove_image(
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
        write_into(opened, placeholder(opened.location.size))
        raise VerificationError.of_problems(findings)


def _parsed(data: bytes) -> device_conf.DeviceConf | None:
    with contextlib.suppress(device_conf.MalformedDeviceConf):
        return device_conf.parse(data)
    return None


def _refuse_other(data: bytes, where: Path, build: Build) -> None:
    """A rotation renews the device's own credential, and takes no other device's place."""
    found = _parsed(data) if build.rotates else None
    if found is not None and found.email != build.email:
        raise UsageError(
            f"{where} is of {found.email!a}, not of {build.email}", hint="check --serial"
        )


def _heed(findings: Sequence[Finding]) -> None:
    for each in findings:
        if each.severity == "warning":
            _logger.warning("%s (%s)", each.message, each.hint)
    _refuse((each for each in findings if each.severity == "error"), PreflightError)


def _refuse(findings: Iterator[Finding], kind: type[OperatorError]) -> None:
    if problems := [(each.message, each.hint) for each in findings]:
        raise kind.of_problems(problems)


def _look_at_file(path: Path, build: Build) -> None:
    """A file of another device, or one that is no device.conf, is not written over."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError(f"{path} is no regular file", hint="name a new file")
        with path.open("rb") as stream:
            data = stream.read(device_conf.LONGEST)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a new file") from None
    found = _parsed(data)
    if found is None or found.email != build.email:
        raise UsageError(
            f"{path} is there already, and is no device.conf of {build.serial}",
            hint="name a file that is not there yet",
        )
    _logger.warning("%s holds an older credential of %s: it is replaced", path, build.serial)


def _write_all(stream: BinaryIO, data: bytes) -> None:
    """Make ``data`` the whole of an open file, on the disk."""
    stream.seek(0)
    stream.write(data)
    stream.truncate()
    stream.flush()
    os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
