"""The proof: does what was read back carry exactly the identity of this device?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from ..identity import device_conf
from ..model import DEVICE_CONF, DEVICE_CONF_MODE, FileEntry, Finding
from ..secret import Secret
from ..settings import PASSWORD_PATTERN

_REBUILD = "do not flash this image; run the same command again"


def prove(
    entry: FileEntry | None,
    where: str,
    *,
    email: str,
    owner: tuple[int, int] | None,
    password: Secret | None = None,
    pattern: str = PASSWORD_PATTERN,
    sha256: str | None = None,
    hint: str = _REBUILD,
) -> Iterator[Finding]:
    """Yield every difference between a device.conf and what it must be; none: it is proven.

    Args:
        entry: the file as read back, None when it is not there.
        where: what it was read from, for the messages.
        email: the account of the device.
        owner: (uid, gid) that it must belong to; None: not known.
        password: the one just provisioned; None checks its form only.
        pattern: that form.
        sha256: of the file that was staged; None: not known.
        hint: what to do about a difference.
    """
    if entry is None:
        yield Finding(message=f"{where} holds no /{DEVICE_CONF}", hint=hint)
        return
    if entry.mode != DEVICE_CONF_MODE:
        message = f"/{DEVICE_CONF} in {where} has mode {entry.mode:04o}, not {DEVICE_CONF_MODE:04o}"
        yield Finding(message=message, hint=hint)
    if owner is not None and (entry.uid, entry.gid) != owner:
        message = (
            f"/{DEVICE_CONF} in {where} belongs to {entry.uid}:{entry.gid},"
            f" not to {owner[0]}:{owner[1]}"
        )
        yield Finding(message=message, hint=hint)
    wanted = re.compile(pattern) if password is None else password
    differences = list(_prove_credentials(entry.data, where, email, wanted, hint))
    yield from differences
    if not differences and sha256 and hashlib.sha256(entry.data).hexdigest() != sha256:
        message = f"/{DEVICE_CONF} in {where} is not byte for byte the file that was staged"
        yield Finding(message=message, hint=hint)


def _prove_credentials(
    data: bytes, where: str, email: str, wanted: Secret | re.Pattern[str], hint: str
) -> Iterator[Finding]:
    try:
        found = device_conf.parse(data)
    except device_conf.MalformedDeviceConf as error:
        message = f"/{DEVICE_CONF} in {where} is {error.what}"
        yield Finding(message=message, hint=hint)
        return
    if found.email != email:
        message = f"/{DEVICE_CONF} in {where} is of {found.email!a}, not of {email}"
        yield Finding(message=message, hint=hint)
    if isinstance(wanted, Secret):
        if found.password != wanted:
            message = f"/{DEVICE_CONF} in {where} holds another password than the one provisioned"
            yield Finding(message=message, hint=hint)
    elif not wanted.fullmatch(found.password.reveal()):
        ours = wanted.pattern == PASSWORD_PATTERN
        form = "32 hexadecimal digits" if ours else "of the form [device_conf] password_pattern"
        message = f"the password in /{DEVICE_CONF} of {where} is not {form}"
        yield Finding(message=message, hint=hint)
