"""device.conf: the file that tells the Loader who the device is (runbook)."""

from __future__ import annotations

import re

from msgspec import Struct

from ..errors import UsageError
from ..model import DeviceIdentity
from ..secret import Secret
from ..settings import LARGEST_DEVICE_CONF, DeviceConfSettings
from ..shipped import shipped
from ..system.files import read_plain
from .placeholder import is_placeholder

EMAIL_KEY = "AZAION_DEVICE_EMAIL"
PASSWORD_KEY = "AZAION_DEVICE_PASSWORD"  # noqa: S105 - a key's name
LONGEST = LARGEST_DEVICE_CONF

_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.ASCII)


class DeviceConf(Struct, frozen=True, kw_only=True):
    """The credentials that a device.conf holds."""

    email: str
    password: Secret


class MalformedDeviceConf(ValueError):
    """A device.conf that the Loader cannot use; the message says why, without its values."""

    @property
    def what(self) -> str:
        """What such a file is."""
        return f"malformed: {self}"


class UnstampedDeviceConf(MalformedDeviceConf):
    """The placeholder of a base, not yet stamped."""

    _WHAT = "an unstamped placeholder: no identity is in this image"

    def __init__(self) -> None:
        super().__init__(f"it is {self._WHAT}")

    @property
    def what(self) -> str:
        """What such a file is."""
        return self._WHAT


def template_of(settings: DeviceConfSettings) -> str:
    """Return the text of the template: the site's own, or the shipped one.

    Raises:
        UsageError: it cannot be read, has unknown placeholders, or renders to something else.
    """
    path = settings.template or shipped("templates") / "device.conf"
    try:
        text = read_plain(path, LONGEST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"cannot read the template {path}: {reason}", hint="check [device_conf] template"
        ) from None
    trial = trial_identity("AZJN-0", "nobody@example.com")
    known = _values(trial)
    for name in _PLACEHOLDER.findall(text):
        if name not in known:
            raise UsageError(
                f"unknown placeholder ${{{name}}} in {path}",
                hint=f"known are: {', '.join(f'${{{each}}}' for each in known)}",
            )
    try:
        rendered = parse(render(text, trial))
    except MalformedDeviceConf as error:
        raise UsageError(
            f"the template {path} does not give a valid device.conf: {error}",
            hint=f"compare it with {shipped('templates') / 'device.conf'}",
        ) from None
    if (rendered.email, rendered.password) != (trial.email, trial.password):
        raise UsageError(
            f"the template {path} does not carry the device's own credentials",
            hint=f"it needs the lines {EMAIL_KEY}=${{email}} and {PASSWORD_KEY}=${{password}}",
        )
    return text


def trial_identity(serial: str, email: str) -> DeviceIdentity:
    """Return an identity with a password of usual length, to try out a device.conf."""
    return DeviceIdentity(serial=serial, email=email, password=Secret("0" * 32), enrolled="created")


def render(template: str, identity: DeviceIdentity) -> bytes:
    """Fill in ``${serial}``, ``${email}`` and ``${password}``; everything else stays as it is."""
    values = _values(identity)
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template).encode()


def unusable(identity: DeviceIdentity) -> str | None:
    """Return why a device.conf cannot carry this identity; None: it can.

    A password that an API issues can have any form. It must mean the same to the Loader, which
    reads it literally, and to systemd, which reads the file as an EnvironmentFile.
    """
    lines = f"{EMAIL_KEY}={identity.email}\n{PASSWORD_KEY}={identity.password.reveal()}\n"
    try:
        found = parse(lines.encode())
    except (MalformedDeviceConf, UnicodeEncodeError):
        found = None
    same = found and (found.email, found.password) == (identity.email, identity.password)
    if not same or len(lines) > LONGEST // 2:
        return f"it must be one line of printable characters, up to {LONGEST // 2}"
    if _READ_OTHERWISE.search(identity.password.reveal()):
        return "it must not hold a backslash, begin with a quote, or begin or end with a space"
    return None


_READ_OTHERWISE = re.compile(r"""\\|^["'\s]|\s$""")
"""What systemd's EnvironmentFile= reads as an escape or a quote, or drops (systemd.exec(5))."""


def _values(identity: DeviceIdentity) -> dict[str, str]:
    return {
        "serial": identity.serial,
        "email": identity.email,
        "password": identity.password.reveal(),
    }


def parse(data: bytes) -> DeviceConf:
    """Read a device.conf: literal lines KEY=VALUE; empty lines and comments (#) are skipped.

    Raises:
        UnstampedDeviceConf: a placeholder.
        MalformedDeviceConf: another form, a missing, empty or repeated credential.
    """
    if is_placeholder(data):
        raise UnstampedDeviceConf
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise MalformedDeviceConf("it is not UTF-8 text") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or not match[2].isprintable():
            raise MalformedDeviceConf(f"line {number} is not KEY=VALUE")
        if match[1] in found:
            raise MalformedDeviceConf(f"line {number} repeats {match[1]}")
        found[match[1]] = match[2]
    for key in (EMAIL_KEY, PASSWORD_KEY):
        if not found.get(key):
            raise MalformedDeviceConf(f"it has no {key}")
    return DeviceConf(email=found[EMAIL_KEY], password=Secret(found[PASSWORD_KEY]))
