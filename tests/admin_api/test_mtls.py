"""An admin API that takes requests from holders of a client certificate only (runbook, step 4)."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from serving import served
from world import EMAIL, SERIAL

from azaion_imagebuild.admin_api.client import AdminApi
from azaion_imagebuild.errors import ProvisioningError, UsageError
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import AdminApiSettings
from azaion_imagebuild.system.unreachable import Unreachable

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes certificates")


def certificate(name: str) -> Path:
    """Make a self-signed certificate NAME.pem, with its key in NAME.key."""
    command = f"""openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2
        -subj /CN={name} -addext subjectAltName=IP:127.0.0.1 -keyout {name}.key -out {name}.pem"""
    subprocess.run(command.split(), check=True, capture_output=True)
    return Path(f"{name}.pem").absolute()


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def closed_api(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that shakes hands with `station.pem` only, and creates whatever is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a handshake that was refused

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate("api"), "api.key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = request.param
    context.load_verify_locations(certificate("station"))
    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with served(server):
            yield f"https://127.0.0.1:{server.server_address[1]}"


def api_settings(url: str, **settings: Any) -> AdminApiSettings:
    chosen = {"retries": 0, "ca_file": Path("api.pem").absolute(), **settings}
    return AdminApiSettings(url=url, **chosen)


def enroll(url: str, **settings: Any) -> str:
    with AdminApi(api_settings(url, **settings)) as api:
        return api.enroll(SERIAL, EMAIL, Secret("0" * 32)).enrolled


def test_a_client_certificate_opens_an_api_that_wants_one(closed_api: str) -> None:
    key = Path("station.key").absolute()
    assert enroll(closed_api, client_cert=Path("station.pem").absolute(), client_key=key)
    with pytest.raises(ProvisioningError, match="client certificate") as caught:
        enroll(closed_api)
    assert "set [admin_api] client_cert and client_key" in caught.value.hint
    other = certificate("other")
    with pytest.raises(ProvisioningError, match="client certificate") as caught:
        enroll(closed_api, client_cert=other, client_key=other.with_suffix(".key"))
    assert f"trust the CA that signed {other}" in caught.value.hint
    assert "http://" not in caught.value.hint


@pytest.mark.parametrize("whose", ["", "other"])
def test_a_handshake_tells_it_before_anything_is_sent(closed_api: str, whose: str) -> None:
    pair: dict[str, Path] = {}
    if whose:
        cert = certificate(whose)
        pair = {"client_cert": cert, "client_key": cert.with_suffix(".key")}
    with AdminApi(api_settings(closed_api, **pair)) as api, pytest.raises(Unreachable) as caught:
        api.reach()
    assert caught.value.kind == "client certificate"
    with (
        AdminApi(api_settings(closed_api, ca_file=certificate("third"), **pair)) as api,
        pytest.raises(Unreachable, match="certificate verify failed") as caught,
    ):
        api.reach()
    assert caught.value.kind == "tls"


def test_a_handshake_with_the_right_pair_finds_nothing(closed_api: str) -> None:
    pair = {"client_cert": Path("station.pem").absolute(), "client_key": Path("station.key")}
    with AdminApi(api_settings(closed_api, **pair)) as api:
        api.reach()


def test_certificate_errors_are_not_tried_again(
    closed_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    with (
        AdminApi(api_settings(closed_api, ca_file=certificate("third"), retries=4)) as api,
        pytest.raises(ProvisioningError, match="certificate verify failed") as caught,
    ):
        api.enroll(SERIAL, EMAIL, Secret("0" * 32))
    assert waits == []
    assert "http://" not in caught.value.hint


def _locked() -> tuple[Path, Path]:
    command = "openssl ec -aes256 -in station.key -passout pass:factory -out locked.key"
    subprocess.run(command.split(), check=True, capture_output=True)
    return Path("station.pem"), Path("locked.key")


def _not_pem() -> tuple[Path, Path]:
    Path("text.pem").write_text("not a key")
    return Path("station.pem"), Path("text.pem")


BAD_PAIRS: dict[str, tuple[Callable[[], tuple[Path, Path | None]], str]] = {
    "a locked key": (_locked, "is locked with a passphrase"),
    "another's key": (
        lambda: (Path("station.pem"), certificate("other").with_suffix(".key")),
        "is the key of another certificate",
    ),
    "no key": (_not_pem, "holds no usable private key"),
    "no certificate": (lambda: (_not_pem()[1], Path("station.key")), "holds no certificate"),
    "a certificate without its key": (lambda: (Path("station.pem"), None), "no usable private key"),
    "a key that is not there": (lambda: (Path("station.pem"), Path("gone.key")), "cannot read"),
}


@pytest.mark.parametrize("bad", BAD_PAIRS)
def test_a_pair_that_cannot_be_used_is_refused_before_the_api_is_asked(bad: str) -> None:
    make, words = BAD_PAIRS[bad]
    certificate("station")
    cert, key = make()
    certificate("api")
    with pytest.raises(UsageError, match=words) as caught:
        AdminApi(api_settings("https://127.0.0.1:9", client_cert=cert, client_key=key))
    assert "client_cert" in caught.value.hint or "client_key" in caught.value.hint


def test_a_key_without_its_certificate_is_refused() -> None:
    certificate("api")
    with pytest.raises(UsageError, match="client_key is set, but not client_cert"):
        AdminApi(api_settings("https://127.0.0.1:9", client_key=Path("api.key")))
