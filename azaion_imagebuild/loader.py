"""The Loader on a device, seen from outside: GET /health, POST /login (runbook, step 7)."""

from __future__ import annotations

from .errors import VerificationError
from .http_client import JsonClient, Reply, Transport, Unreachable, checked_url
from .secret import Secret

_SECONDS = 10.0


def smoke_test(loader_url: str, email: str, password: Secret) -> None:
    """Ask the Loader for its health, then log in with the device's own credentials.

    Raises:
        VerificationError: no answer, not healthy, or the login is refused.
    """
    transport = Transport(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries=2)
    with JsonClient(checked_url(loader_url, "[smoke] loader_url"), transport) as client:
        health = _ask(client, "GET", "/health", None)
        if health.status != 200:
            raise VerificationError(
                f"the Loader is not healthy: GET /health answered HTTP {health.status}:"
                f" {health.excerpt()}",
                hint="look at the Loader's log on the device",
            )
        login = _ask(client, "POST", "/login", {"email": email, "password": password.reveal()})
    if login.status != 200:
        raise VerificationError(
            f"the device cannot log in: POST /login answered HTTP {login.status}:"
            f" {login.excerpt()}",
            hint="check device.conf on the device: path, permissions, and that its password is"
            " the account's",
        )


def _ask(client: JsonClient, method: str, path: str, body: dict[str, str] | None) -> Reply:
    try:
        return client.send(method, path, body)
    except Unreachable as error:
        raise VerificationError(
            f"cannot reach the Loader at {client.base_url}: {error}",
            hint="check that the device has booted and is on this network",
        ) from None
