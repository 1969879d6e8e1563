"""An admin API that takes requests from holders of a client certificate only (runbook, step 4)."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from world import EMAIL, SERIAL

from azaion_imagebuild.admin_api.client import AdminApi
from azaion_imagebuild.errors import ProvisioningError
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import AdminApiSettings

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes certificates")


def certificate(name: str) -> Path:
    """Make a self-signed certificate NAME.pem, with its key in NAME.key."""
    command = f"""openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2
        -subj /CN={name} -addext subjectAltName=IP:127.0.0.1 -keyout {name}.key -out {name}.pem"""
    subprocess.run(command.split(), check=True, capture_output=True)
    return Path(f"{name}.pem").absolute()


@pytest.fixture
def closed_api() -> Iterator[str]:
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
    context.load_verify_locations(certificate("station"))
    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def enroll(url: str, **settings: Any) -> str:
    chosen = AdminApiSettings(url=url, retries=0, ca_file=Path("api.pem").absolute(), **settings)
    with AdminApi(chosen) as api:
        return api.enroll(SERIAL, EMAIL, Secret("0" * 32)).enrolled


def test_a_client_certificate_opens_an_api_that_wants_one(closed_api: str) -> None:
    key = Path("station.key").absolute()
    assert enroll(closed_api, client_cert=Path("station.pem").absolute(), client_key=key)
    with pytest.raises(ProvisioningError, match="cannot reach the admin API"):
        enroll(closed_api)
    other = certificate("other")
    with pytest.raises(ProvisioningError, match="cannot reach the admin API"):
        enroll(closed_api, client_cert=other, client_key=other.with_suffix(".key"))
