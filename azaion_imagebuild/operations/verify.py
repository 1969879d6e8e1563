"""Checking device.conf in a rootfs folder or an image, long after it was built."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from .. import images
from ..errors import StagingError, UsageError, VerificationError
from ..identity import device_conf
from ..identity.serial import email_for
from ..images.e2fsprogs import damaged, damaged_within
from ..model import DEVICE_CONF, FileEntry, Finding
from ..proof.identity import Expected, prove
from ..rootfs.accounts import Accounts, UnknownAccount
from ..rootfs.staging import unknown_account
from ..rootfs.tree import Rootfs
from ..settings import DeviceConfSettings

_WRONG = "do not ship it; build the device's image again, or give the serial that it was built for"

_ReadFile = Callable[[str, int], FileEntry | None]


class Report(Struct, frozen=True, kw_only=True):
    """The result of a verification; no findings: it holds this identity."""

    target: Path
    format: str
    """``directory``, or as :func:`images.image_format` says."""
    serial: str | None
    """The device that was asked for; None: whoever's it is."""
    email: str
    """The account that it must be of; without a serial the one that it is of, or "" for none."""
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the one-line record."""
        return {
            "serial": self.serial,
            "email": self.email,
            "target": str(self.target),
            "format": self.format,
            "outcome": "failed" if self.findings else "done",
            "findings": [{"error": f.message, "hint": f.hint} for f in self.findings],
            "exit_code": 8 if self.findings else 0,
        }


def verify(
    target: Path, serial: str | None, settings: DeviceConfSettings, *, filesystem: bool = True
) -> Report:
    """Check format, e-mail, mode and owner of the device.conf in ``target``.

    With ``filesystem``, e2fsck checks all the rest, too, which takes seconds for a large image.

    The owner is looked up by name in the target's own passwd and group.

    Raises:
        UsageError: there is no ``target``.
        VerificationError: it cannot be read.
    """
    if not target.exists():
        raise UsageError(
            f"no such file or folder: {target}", hint="give a rootfs folder or an image file"
        )
    if not (target.is_dir() or target.is_file() or target.is_block_device()):
        raise UsageError(
            f"{target} is not a file or folder", hint="give a rootfs folder or an image file"
        )
    if target.is_dir():
        try:
            with Rootfs(target) as rootfs:
                email, findings = _check(rootfs.read_file, target, serial, settings)
        except StagingError as error:
            raise VerificationError(error.message, hint=error.hint) from None
        return Report(
            target=target, format="directory", serial=serial, email=email, findings=findings
        )

    found = images.format_of(target)
    with images.opened(target) as image:
        email, findings = _check(image.read_file, target, serial, settings)
    if filesystem and not findings:
        findings = tuple(_damaged(target, found))
    return Report(target=target, format=found, serial=serial, email=email, findings=findings)


def _damaged(target: Path, image_format: str) -> Iterator[Finding]:
    if image_format == "ext4":
        yield from damaged(target)
    elif image_format in ("sparse", "ext4.zst"):
        yield from damaged_within(target)


def _check(
    read_file: _ReadFile, target: Path, serial: str | None, settings: DeviceConfSettings
) -> tuple[str, tuple[Finding, ...]]:
    """Return the account, and what speaks against the file being that account's."""
    entry = read_file(DEVICE_CONF, device_conf.LONGEST)
    email = email_for(serial) if serial else _email_in(entry)
    findings: list[Finding] = []
    owner = None
    try:
        owner = Accounts.read(read_file).resolve(settings.owner, settings.group)
    except UnknownAccount as error:
        findings.append(unknown_account(error))
    expected = Expected(email=email, owner=owner, pattern=settings.password_pattern, hint=_WRONG)
    return email, (*findings, *prove(entry, str(target), expected))


def _email_in(entry: FileEntry | None) -> str:
    """Return whose a device.conf is; "" if it holds no credential."""
    with contextlib.suppress(device_conf.MalformedDeviceConf):
        return device_conf.parse(entry.data).email if entry is not None else ""
    return ""
