"""The proof: does what was read back carry exactly the identity of this device?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from msgspec import Struct

from ..identity import device_conf
from ..model import DEVICE_CONF, DEVICE_CONF_MODE, FileEntry, Finding
from ..secret import Secret
from ..settings import PASSWORD_PATTERN


class Expected(Struct, frozen=True, kw_only=True):
    """What a device's device.conf must be."""

    email: str
    owner: tuple[int, int] | None
    """(uid, gid); None: not known."""
    password: Secret | None = None
    """The password just provisioned; None: only its form is checked."""
    pattern: str = PASSWORD_PATTERN
    """The password's form, if the password is not known."""
    sha256: str | None = None
    """SHA-256 of the staged file; None: not known."""
    hint: str = "do not flash this image; run the same command again"
    """What to do about a difference."""


def prove(entry: FileEntry | None, where: str, expected: Expected) -> Iterator[Finding]:
    """Yield every difference between a device.conf and what it must be; none: it is proven.

    Args:
        entry: the file as read back; None: it is missing.
        where: what it was read from, for the messages.
    """
    for message in _differences(entry, where, expected):
        yield Finding(message=message, hint=expected.hint)


def _differences(entry: FileEntry | None, where: str, expected: Expected) -> Iterator[str]:
    if entry is None:
        yield f"{where} holds no /{DEVICE_CONF}"
        return
    if entry.mode != DEVICE_CONF_MODE:
        yield f"/{DEVICE_CONF} in {where} has mode {entry.mode:04o}, not {DEVICE_CONF_MODE:04o}"
    if expected.owner is not None and (entry.uid, entry.gid) != expected.owner:
        uid, gid = expected.owner
        yield f"/{DEVICE_CONF} in {where} belongs to {entry.uid}:{entry.gid}, not to {uid}:{gid}"
    differences = list(_wrong_credentials(entry.data, where, expected))
    yield from differences
    staged = not expected.sha256 or hashlib.sha256(entry.data).hexdigest() == expected.sha256
    if not differences and not staged:
        yield f"/{DEVICE_CONF} in {where} is not byte for byte the file that was staged"


def _wrong_credentials(data: bytes, where: str, expected: Expected) -> Iterator[str]:
    try:
        found = device_conf.parse(data)
    except device_conf.MalformedDeviceConf as error:
        yield f"/{DEVICE_CONF} in {where} is {error.what}"
        return
    if found.email != expected.email:
        yield f"/{DEVICE_CONF} in {where} is of {found.email!a}, not of {expected.email}"
    if expected.password is not None:
        if found.password != expected.password:
            yield f"/{DEVICE_CONF} in {where} holds another password than the one provisioned"
    elif not re.fullmatch(expected.pattern, found.password.reveal()):
        ours = expected.pattern == PASSWORD_PATTERN
        form = "32 hexadecimal digits" if ours else "of the form [device_conf] password_pattern"
        yield f"the password in /{DEVICE_CONF} of {where} is not {form}"
