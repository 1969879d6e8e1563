"""A proxy of the environment between this host and the admin API: an error names it."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from msgspec import structs
from serving import served
from world import EMAIL, SERIAL

from azaion_imagebuild.admin_api.client import AdminApi
from azaion_imagebuild.admin_api.probe import probe
from azaion_imagebuild.errors import ProvisioningError
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import AdminApiSettings
from azaion_imagebuild.system.proxy import proxy_of

API = "admin.internal.example.com"


class Proxy:
    """Lets nothing through."""

    status = 403
    port = 0
    asked = 0


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", found.append)
    return found


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    state = Proxy()

    class Handler(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            state.asked += 1
            self.send_response(state.status)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"refused")

        do_CONNECT = do_POST = do_PATCH = refuse

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        with served(server):
            yield state


def refused(scheme: str, retries: int = 2) -> ProvisioningError:
    settings = AdminApiSettings(url=f"{scheme}://{API}", retries=retries)
    with AdminApi(settings) as api, pytest.raises(ProvisioningError) as caught:
        api.enroll(SERIAL, EMAIL, Secret("0" * 32))
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("status", [403, 404, 407, 502])
@pytest.mark.parametrize("upper", [False, True])
def test_a_proxy_that_refuses_is_named_with_its_variable(
    proxy: Proxy, waits: list[float], monkeypatch: pytest.MonkeyPatch, scheme: str, status: int,
    upper: bool,
) -> None:  # fmt: skip
    variable = f"{scheme}_proxy".upper() if upper else f"{scheme}_proxy"
    monkeypatch.setenv(variable, f"http://user:hunter22@127.0.0.1:{proxy.port}")
    proxy.status = status
    error = refused(scheme)
    assert f"the proxy 127.0.0.1:{proxy.port} (${variable})" in error.hint
    assert f"NO_PROXY={API}" in error.hint
    assert "hunter22" not in error.message + error.hint
    if status < 500:
        assert (proxy.asked, waits) == (1, [])


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://proxy.invalid:3128", "127.0.0.1:9", "http://a..b:1",
            "http://127.0.0.1:99999", "gopher://127.0.0.1:9", "http://[::1"],
)  # fmt: skip
def test_a_proxy_that_cannot_be_reached_is_named(
    waits: list[float], monkeypatch: pytest.MonkeyPatch, scheme: str, url: str
) -> None:
    monkeypatch.setenv("all_proxy", url)
    error = refused(scheme, retries=1)
    assert "proxy" in error.message
    assert "$all_proxy" in error.hint


def test_the_probe_names_it_too(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    for status in (403, 407):
        proxy.status = status
        findings = probe(structs.replace(AdminApiSettings(), url=f"http://{API}"))
        assert any("$http_proxy" in each.hint for each in findings), findings


def test_no_proxy_and_loopback_are_asked_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert proxy_of("http://127.0.0.1:8080") is None
    assert proxy_of(f"https://{API}") is None
    assert proxy_of(f"http://{API}") is not None
    monkeypatch.setenv("NO_PROXY", ".example.com")
    assert proxy_of(f"http://{API}") is None


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:80",
        "http://[::1",
        "http://h:99999",
        "http://user:1234/secret@proxy:3128",
        "user:1234#x@proxy:3128",
    ],
)
def test_a_proxy_without_a_host_is_an_invalid_url(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    assert str(proxy_of(f"https://{API}")) == "the proxy with an invalid URL ($HTTPS_PROXY)"


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS4"])
def test_a_socks_proxy_is_named_as_one(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://user:secretword@10.0.0.1:1080")
    found = proxy_of(f"https://{API}")
    assert found is not None
    assert "speaks SOCKS: set an http:// proxy there" in found.hint
    assert f"export NO_PROXY={API}" in found.hint
    assert "secretword" not in f"{found} {found.hint}"
