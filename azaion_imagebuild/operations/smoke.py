"""The smoke test of a device: its credentials, its Loader, and the result."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct

from ..errors import VerificationError
from ..identity.device_conf import DeviceConf
from ..identity.serial import email_for, parse_serial
from ..loader.client import LOGGED_IN, loader_url, smoke_test
from ..loader.diagnosis import SmokeFailed
from ..settings import Settings


class SmokeReport(Struct, frozen=True, kw_only=True):
    """The result of a smoke test; no error: the device can log in."""

    serial: str | None
    email: str
    url: str
    seconds: float
    error: SmokeFailed | None

    @property
    def exit_code(self) -> int:
        """Return the process's exit code."""
        return int(self.error.exit_code) if self.error else 0

    def as_json(self) -> dict[str, Any]:
        """Return the one-line record; never the password."""
        record: dict[str, Any] = {
            "serial": self.serial,
            "email": self.email,
            "outcome": "failed" if self.error else "done",
            "loader_url": self.url,
            "smoke": LOGGED_IN,
            "seconds": round(self.seconds, 3),
        }
        if self.error is not None:
            record |= {**self.error.facts, "error": self.error.message, "hint": self.error.hint}
        return record | {"exit_code": self.exit_code}


def smoke(credentials: DeviceConf, serial: str | None, settings: Settings) -> SmokeReport:
    """Log in at a device's Loader with its credentials; a failure ends in the report.

    Args:
        credentials: read back from what the device was flashed with.
        serial: the device; None: the credentials' device.
        settings: of the site; ``[smoke] loader_url`` is needed.

    Raises:
        UsageError: the serial or the settings are wrong.
        VerificationError: the credentials are of another device; nothing was sent.
    """
    if serial is not None:
        serial = parse_serial(serial, settings.serial.pattern)
        _require(credentials, serial)
    url = loader_url(settings.smoke, serial, settings.bsp.usb_instance)
    began = time.monotonic()
    error = None
    try:
        smoke_test(url, credentials, settings.smoke)
    except SmokeFailed as failed:
        error = failed
    return SmokeReport(
        serial=serial,
        email=credentials.email,
        url=url,
        seconds=time.monotonic() - began,
        error=error,
    )


def _require(credentials: DeviceConf, serial: str) -> None:
    email = email_for(serial)
    if credentials.email != email:
        raise VerificationError(
            f"the credentials are of {credentials.email!a}, not of {email}",
            hint="check --serial, and that the image or rootfs is this device's",
        )
