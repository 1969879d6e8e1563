"""The Loader on a device, seen from outside: GET /health, POST /login (runbook, step 7)."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from ..errors import UsageError
from ..identity.device_conf import DeviceConf
from ..settings import SmokeSettings
from ..system.http import JsonClient, Transport
from ..system.tls import checked_certificates
from ..system.unreachable import Unreachable
from ..system.url import checked_url
from . import diagnosis
from .diagnosis import HEALTH, LOGIN, SmokeFailed

LOGGED_IN = "logged in"
"""The record's field ``smoke`` after a success."""

_CONNECT = 10.0  # seconds
_ANSWER = 30.0  # seconds; a Loader waits for its resource API before it answers a login
_PAUSE = 2.0  # seconds between two tries while a device boots
_logger = logging.getLogger(__name__)


def loader_url(settings: SmokeSettings, serial: str | None, usb_instance: str | None) -> str:
    """Return the base URL of a device's Loader; without a USB instance, that part is empty.

    Raises:
        UsageError: it is missing, is not a URL, or holds ``{serial}`` and none is given.
    """
    url = settings.loader_url
    if url is None:
        raise UsageError(
            "no Loader given", hint="give --loader-url, e.g. http://azjn-0042.local:8080"
        )
    if "{serial}" in url:
        if serial is None:
            raise UsageError("[smoke] loader_url needs the device's serial", hint="give --serial")
        url = url.replace("{serial}", serial)
    url = url.replace("{usb_instance}", usb_instance or "")
    return checked_url(url, "[smoke] loader_url")


def transport(settings: SmokeSettings) -> Transport:
    """Return the connection to a Loader.

    Raises:
        UsageError: ``ca_file`` holds no certificates.
    """
    if settings.ca_file is not None:
        checked_certificates(settings.ca_file, "[smoke] ca_file")
    return Transport(
        ca_file=settings.ca_file,
        certificate_name=settings.certificate_name,
        connect_timeout=_CONNECT,
        read_timeout=_ANSWER,
    )


def smoke_test(url: str, credentials: DeviceConf, settings: SmokeSettings) -> None:
    """Log in at a device's Loader with the device's own credentials.

    It waits up to ``settings.wait`` seconds for a booting device. Refused credentials are not tried
    again: that could lock the account.

    Args:
        url: base URL of the Loader, as :func:`loader_url` returns it.
        credentials: the device's own.
        settings: the connection, and how long it may take.

    Raises:
        SmokeFailed: no answer, not healthy, or no login.
        UsageError: ``ca_file`` holds no certificates.
    """
    deadline = time.monotonic() + settings.wait
    words = [word.lower() for word in settings.status_words]
    with JsonClient(url, transport(settings)) as client:
        while problem := _look(client, credentials, words):
            left = deadline - time.monotonic()
            if left <= 0 or not problem.may_pass:
                raise problem
            _logger.debug("%s, %.0f s left: %s", problem.cause, left, problem.message)
            time.sleep(min(_PAUSE, left))


def _look(
    client: JsonClient, credentials: DeviceConf, words: Collection[str]
) -> SmokeFailed | None:
    """Check the health, then log in; None: success."""
    asked = HEALTH
    try:
        if problem := diagnosis.of_health(client.send("GET", "/health"), words):
            return problem
        asked = LOGIN
        body = {"email": credentials.email, "password": credentials.password.reveal()}
        return diagnosis.of_login(client.send("POST", "/login", body), words)
    except Unreachable as error:
        return diagnosis.of_connection(client.base_url, asked, error)
