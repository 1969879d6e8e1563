"""A device's identity: the serial's format, the account's e-mail address, a new password."""

from __future__ import annotations

import logging
import re
import secrets
from functools import cache

from ..errors import UsageError
from ..secret import Secret

EMAIL_PREFIX = "azaion-jetson-"
EMAIL_DOMAIN = "azaion.com"
_SERIAL = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)+", re.ASCII)
_WHITE = " \t\r\n"
"""What scanners and editors add; other control characters are part of a label (GS1's GS)."""
_TWICE = re.compile(r"([A-Za-z]{2,}-)[A-Za-z0-9-]*[A-Za-z0-9]\1[A-Za-z0-9-]+", re.ASCII)
_logger = logging.getLogger(__name__)
_LONGEST_SERIAL = 48  # an e-mail's local part holds 64 characters (RFC 5321, 4.5.3.1.1)


def parse_serial(text: str, pattern: str | None = None) -> str:
    """Return the serial in ``text``, without the white space a barcode scanner adds.

    A serial is letters, digits and hyphens: groups joined by single hyphens, at least two
    groups, at most 48 characters. A site narrows this by ``pattern``, a regular expression that
    must match the whole serial.

    Raises:
        UsageError: ``text`` is not a serial; the message quotes it.
    """
    serial = text.strip(_WHITE)
    if not serial:
        raise UsageError(
            "no serial given",
            hint="give the label's: --serial AZJN-0042 (SERIAL=AZJN-0042)",
        )
    if len(serial) > _LONGEST_SERIAL or not _SERIAL.fullmatch(serial):
        raise UsageError(
            f"{_quoted(serial)} is not a serial",
            hint="a serial is letters and digits in groups joined by hyphens, e.g. AZJN-0042;"
            " scan the label again",
        )
    if pattern is None and _TWICE.fullmatch(serial):
        _warn_of_two(serial)
    if pattern is not None and not re.fullmatch(pattern, serial):
        raise UsageError(
            f"serial {_quoted(serial)} does not match this site's pattern {pattern}",
            hint="scan the label again, or change [serial] pattern in the configuration",
        )
    return serial


@cache  # once for each serial
def _warn_of_two(serial: str) -> None:
    _logger.warning(
        "%s looks like two labels in one line: check it; [serial] pattern refuses such a serial",
        serial,
    )


def email_for(serial: str) -> str:
    """Return the e-mail address of a device, from the segment after the serial's last hyphen."""
    suffix = serial.rpartition("-")[2].lower()
    return f"{EMAIL_PREFIX}{suffix}@{EMAIL_DOMAIN}"


def new_password() -> Secret:
    """Return a fresh password of 128 random bits, as 32 hexadecimal digits."""
    return Secret(secrets.token_hex(16))


def _quoted(text: str) -> str:
    shown = ascii(text)  # a control character must not reach the terminal
    return shown if len(shown) <= 80 else f"{shown[:77]}…'"
