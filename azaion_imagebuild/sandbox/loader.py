"""The reference Loader: reads device.conf out of the flashed virtual device and logs in with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .. import images
from ..errors import VerificationError
from ..identity import device_conf
from ..model import DEVICE_CONF
from ..system.http import JsonClient, Transport
from ..system.unreachable import Unreachable
from .server import Action, Answer, Server


def loader(
    device: Path, resource_api: str, port: int = 0, others: Mapping[str, Path] | None = None
) -> Server:
    """Return a server that behaves like the Loader of the device in the file ``device``.

    GET /health is 200 only when the device's own credentials log in at ``resource_api``.
    POST /login accepts only the device's own credentials, and forwards them. For each of ``others``
    (name → file), /NAME/health and /NAME/login do the same.
    """
    routes = _routes("", device, resource_api)
    for name, file in (others or {}).items():
        routes |= _routes(f"/{name}", file, resource_api)
    return Server(routes, port)


def _routes(prefix: str, device: Path, resource_api: str) -> dict[str, Action]:

    def forward(credentials: device_conf.DeviceConf) -> Answer:
        body = {"email": credentials.email, "password": credentials.password.reveal()}
        try:
            with JsonClient(resource_api, Transport()) as api:
                status = api.send("POST", "/login", body).status
        except Unreachable as error:
            return 502, {"error": f"the resource API cannot be reached: {error}"}
        if status == 200:
            return 200, {"status": "ok"}
        if status in (401, 403):
            return 401, {"error": "the resource API refused the credentials"}
        return 502, {"error": f"the resource API answered HTTP {status}"}

    def health(_: dict[str, str]) -> Answer:
        try:
            status, body = forward(_own_credentials(device))
        except (VerificationError, device_conf.MalformedDeviceConf) as error:
            return 503, {"error": str(error)}
        return (200, {"status": "healthy"}) if status == 200 else (503, body)

    def login(body: dict[str, str]) -> Answer:
        try:
            own = _own_credentials(device)
        except (VerificationError, device_conf.MalformedDeviceConf) as error:
            return 503, {"error": str(error)}
        if (body["email"], body["password"]) != (own.email, own.password.reveal()):
            return 401, {"error": "these are not this device's credentials"}
        return forward(own)

    return {f"GET {prefix}/health": health, f"POST {prefix}/login": login}


def _own_credentials(device: Path) -> device_conf.DeviceConf:
    entry = images.read_file(device, DEVICE_CONF, device_conf.LONGEST)
    if entry is None:
        raise device_conf.MalformedDeviceConf(f"the device has no /{DEVICE_CONF}")
    return device_conf.parse(entry.data)
