"""The Loader on a device, seen from outside: GET /health, POST /login (runbook, step 7)."""

from __future__ import annotations

import time

from .errors import VerificationError
from .http_client import JsonClient, Reply, Transport, Unreachable, checked_url
from .secret import Secret

_SECONDS = 10.0
_PAUSE = 2.0  # seconds between two looks at a device that boots


def smoke_test(loader_url: str, email: str, password: Secret, wait: float) -> None:
    """Wait for the Loader to be healthy, then log in with the device's own credentials.

    Args:
        loader_url: base URL of the Loader.
        email: the device's account.
        password: its password.
        wait: seconds that the device may take to boot and become healthy.

    Raises:
        VerificationError: no answer, not healthy, or the login is refused.
    """
    transport = Transport(connect_timeout=_SECONDS, read_timeout=_SECONDS)
    with JsonClient(checked_url(loader_url, "[smoke] loader_url"), transport) as client:
        _wait_until_healthy(client, time.monotonic() + wait)
        login = _ask(client, "POST", "/login", {"email": email, "password": password.reveal()})
    if login.status != 200:
        raise VerificationError(
            f"the device cannot log in: POST /login answered HTTP {login.status}:"
            f" {login.excerpt()}",
            hint="check device.conf on the device: path, permissions, and that its password is"
            " the account's",
        )


def _wait_until_healthy(client: JsonClient, deadline: float) -> None:
    while True:
        try:
            health = _ask(client, "GET", "/health", None)
            if health.status == 200:
                return
            problem = VerificationError(
                f"the Loader is not healthy: GET /health answered HTTP {health.status}:"
                f" {health.excerpt()}",
                hint="look at the Loader's log on the device",
            )
        except VerificationError as error:
            problem = error
        if time.monotonic() >= deadline:
            raise problem
        time.sleep(_PAUSE)


def _ask(client: JsonClient, method: str, path: str, body: dict[str, str] | None) -> Reply:
    try:
        return client.send(method, path, body)
    except Unreachable as error:
        raise VerificationError(
            f"cannot reach the Loader at {client.base_url}: {error}",
            hint="check that the device has booted and is on this network",
        ) from None
