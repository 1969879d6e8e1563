"""The content of a target before a credential is written into it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..errors import PreflightError, UsageError
from ..identity import device_conf
from ..model import Build

_REPLACE = "check the image and --serial; to overwrite that identity, add --replace"


def parsed(data: bytes) -> device_conf.DeviceConf | None:
    """Return the credential in a device.conf, or None."""
    with contextlib.suppress(device_conf.MalformedDeviceConf):
        return device_conf.parse(data)
    return None


def refuse_other_device(
    data: bytes, where: Path, build: Build, *, replace: bool = False, hint: str = _REPLACE
) -> None:
    """Refuse to overwrite another device's identity, unless a stamp has ``replace``.

    Raises:
        UsageError: a rotation got another device's target, which it never replaces.
        PreflightError: a stamp would replace another device's identity.
    """
    found = parsed(data)
    if found is None or found.email == build.email:
        return
    if build.rotates:
        raise UsageError(
            f"{where} is of {found.email!a}, not of {build.email}", hint="check --serial"
        )
    if not replace:
        raise PreflightError(
            f"{where} holds the identity of another device: {found.email!a}, not {build.email}",
            hint=hint,
        )
