"""The smoke test of a device against real sockets: every failure told apart, and the wait."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest
from serving import served
from terminal import screen
from world import EMAIL, SERIAL, TOOL, Ran, Run, Script

import azaion_imagebuild
from azaion_imagebuild.cli import live_line as progress
from azaion_imagebuild.loader import client as loader
from azaion_imagebuild.loader import diagnosis
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox import Accounts, Sandbox
from azaion_imagebuild.sandbox.admin_api import admin_api
from azaion_imagebuild.sandbox.loader import loader as sandbox_loader

PASSWORD = "00112233445566778899aabbccddeeff"
CONF = f"AZAION_DEVICE_EMAIL={EMAIL}\nAZAION_DEVICE_PASSWORD={PASSWORD}\n"
Smoke = Callable[..., Ran]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "device.conf"
    path.write_text(CONF)
    return path


@pytest.fixture
def smoke(run: Run, conf: Path) -> Smoke:
    """Test the Loader at a URL with the credentials of a device.conf; the password is unseen."""

    def call(url: str, *more: object) -> Ran:
        ran = run("smoke", "--loader-url", url, "--device-conf", conf, "--json", *more)
        assert PASSWORD not in ran.out + ran.err
        return ran

    return call


@contextlib.contextmanager
def serving(port: int = 0, certificate: Path | None = None) -> Iterator[str]:
    """A Loader to which all is well, with TLS where there is a certificate (and its key)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}')

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with Server(("127.0.0.1", port), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if certificate else "http"
        with served(server):
            yield f"{scheme}://127.0.0.1:{server.server_address[1]}"


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    return port


def failed(ran: Ran, cause: str) -> tuple[str, str]:
    """Return (error, hint) of a smoke test that failed for this cause."""
    assert ran.code == 8, ran.err
    record = ran.json
    assert (record["outcome"], record["smoke"], record["exit_code"]) == ("failed", cause, 8)
    assert ran.errors == [f"error: {record['error']}"]
    assert ran.hints == [f"hint: {record['hint']}"]
    return record["error"], record["hint"]


# All is well.


def test_a_device_that_logs_in_passes(smoke: Smoke, scripted: Script) -> None:
    scripted.answer(200, '{"status": "healthy"}')
    scripted.answer(200, '{"status": "ok"}')
    ran = smoke(scripted.url + "/base/", "--serial", SERIAL)
    assert ran.code == 0, ran.err
    assert (ran.json["smoke"], ran.json["serial"], ran.json["email"]) == (
        "logged in",
        SERIAL,
        EMAIL,
    )
    assert [f"{each.method} {each.path}" for each in scripted.requests] == [
        "GET /base/health", "POST /base/login",
    ]  # fmt: skip
    assert scripted.requests[1].json == {"email": EMAIL, "password": PASSWORD}
    assert f"OK: {EMAIL} logs in at {scripted.url}/base/" in ran.err


def test_the_credentials_are_read_from_a_rootfs_an_image_and_its_sparse_and_tar_twin(
    run: Run, tmp_path: Path, accounts: Accounts
) -> None:
    record = run("image", "--serial", SERIAL, "--json").json
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    raw, sparse, tar = Path(record["image"]), tmp_path / "sparse.img", tmp_path / "system.tar"
    mksparse = [f"{raw.parent}/mksparse", "--fillpattern=0", str(raw), str(sparse)]
    subprocess.run(mksparse, check=True)
    rootfs = tmp_path / "unpacked"
    (rootfs / DEVICE_CONF).parent.mkdir(parents=True)
    dump = f"dump /{DEVICE_CONF} {rootfs / DEVICE_CONF}"
    subprocess.run(["debugfs", "-R", dump, raw], check=True, capture_output=True)
    subprocess.run(["tar", "-cf", tar, "-C", rootfs, "."], check=True)
    with (
        admin_api(sandbox.accounts) as api,
        sandbox_loader(sandbox.device, api.url) as device,
    ):
        for flag, path in (
            ("--image", raw),
            ("--image", sparse),
            ("--image", tar),
            ("--rootfs-dir", rootfs),
            ("--device-conf", rootfs / DEVICE_CONF),
        ):
            ran = run("smoke", flag, path, "--loader-url", device.url, "--serial", SERIAL, "--json")
            assert (ran.code, ran.json.get("smoke")) == (0, "logged in"), (flag, path, ran.err)


# The six failures, and what else can answer.


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.255.255.255:8080", "there is no route to it"),  # broadcast: ENETUNREACH
        ("http://azjn-0042.invalid:8080", "its name is not known to DNS"),
    ],
)
def test_no_route_to_the_device(smoke: Smoke, url: str, words: str) -> None:
    error, hint = failed(smoke(url), "no route")
    assert error == f"cannot reach the Loader at {url}: {words}"
    assert "power" in hint
    assert "mDNS" in hint


def test_a_device_without_a_loader_refuses(smoke: Smoke) -> None:
    error, hint = failed(smoke(f"http://127.0.0.1:{unused_port()}"), "refused")
    assert error.startswith("no Loader listens at http://127.0.0.1:")
    assert "service" in hint


@pytest.mark.parametrize("status", [200, 503, 500])
def test_a_loader_that_says_it_is_not_well_is_not_asked_to_log_in(
    smoke: Smoke, scripted: Script, status: int
) -> None:
    scripted.answer(status, '{"status": "Unhealthy", "reason": "no TPM"}')
    error, hint = failed(smoke(scripted.url), "unhealthy")
    assert f"GET /health answered HTTP {status}" in error
    assert "no TPM" in error
    assert "Loader's log" in hint
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, '{"detail": "wrong e-mail or password"}', "password is the account's"),
        (403, '{"detail": "locked"}', "role, and whether it is locked"),
        (200, '{"status": "error", "detail": "wrong password"}', "password is the account's"),
        (200, '{"success": false}', "password is the account's"),
    ],
)
def test_a_login_that_is_refused_is_of_the_password_or_the_account(
    smoke: Smoke, scripted: Script, status: int, body: str, words: str
) -> None:
    scripted.answer(200)
    scripted.answer(status, body)
    error, hint = failed(smoke(scripted.url, "--wait", "60"), "login refused")
    assert f"the device cannot log in: POST /login answered HTTP {status}" in error
    assert words in hint
    assert len(scripted.requests) == 2  # however long it may take: an account may be locked


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, "{}"),
        (503, "{}"),
        (504, ""),
        (401, '{"detail": "HTTPSConnectionPool(host=\'api\'): Max retries exceeded with url"}'),
        (500, '{"error": "the resource API cannot be reached"}'),
        (200, '{"status": "error", "detail": "Connection refused"}'),
    ],
)
def test_a_login_that_could_not_be_forwarded_is_not_of_the_password(
    smoke: Smoke, scripted: Script, status: int, body: str
) -> None:
    scripted.answer(200)
    scripted.answer(status, body)
    error, hint = failed(smoke(scripted.url), "resource API down")
    assert "does not reach its resource API" in error
    assert f"HTTP {status}" in error
    assert "credentials were not judged" in hint


def test_the_sandboxes_loader_tells_a_resource_api_that_is_down_from_one_that_refuses(
    run: Run, smoke: Smoke, tmp_path: Path, scripted: Script
) -> None:
    image = run("image", "--serial", SERIAL, "--json").json["image"]
    shutil.copy(image, tmp_path / "device.img")
    with sandbox_loader(tmp_path / "device.img", scripted.url) as device:
        for statuses, cause in (((200, 500), "resource API down"), ((200, 401), "login refused")):
            scripted.answers.clear()
            for status in statuses:
                scripted.answer(status)
            args = ("--image", image, "--loader-url", device.url, "--json")
            failed(run("smoke", *args), cause)


def test_a_login_without_an_answer_is_not_of_the_password(
    smoke: Smoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                while connection.recv(65536):  # until the client gives up
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        ran = smoke(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    error, _ = failed(ran, "resource API down")
    assert "did not answer POST /login" in error


def test_a_loader_that_never_answers_is_broken(
    smoke: Smoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ran = smoke(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "no answer to GET /health" in failed(ran, "broken")[0]


@pytest.mark.parametrize(
    ("status", "body", "headers", "words"),
    [
        (404, "{}", {}, "HTTP 404"),
        (200, "<html>Welcome to the guest network</html>", {}, "guest network"),
        (
            308,
            "",
            {"Location": "https://127.0.0.1/health?a=b"},
            "with a redirect to https://127.0.0.1",
        ),
    ],
)
def test_what_is_no_loader_is_called_so(
    smoke: Smoke, scripted: Script, status: int, body: str, headers: dict[str, str], words: str
) -> None:
    scripted.answer(status, body, **headers)
    error, hint = failed(smoke(scripted.url), "no Loader")
    assert words in error
    assert "loader_url" in hint
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("body", ["[" * 60_000, '{"status": ' * 9_000, "1" * 60_000, "\0", "null"])
def test_a_strange_body_harms_nothing(smoke: Smoke, scripted: Script, body: str) -> None:
    scripted.answer(200, body)
    assert smoke(scripted.url).code == 0


def test_a_password_that_the_loader_sends_back_is_blanked_out(
    smoke: Smoke, scripted: Script
) -> None:
    scripted.answer(200)
    scripted.answer(401, f'{{"detail": "{PASSWORD} is wrong for {EMAIL}"}}')
    error, _ = failed(smoke(scripted.url), "login refused")
    assert "*** is wrong" in error


def test_the_words_of_another_loader_can_be_taught(smoke: Smoke, scripted: Script) -> None:
    scripted.answer(200, '{"status": "bene"}')
    assert failed(smoke(scripted.url), "unhealthy")
    Path("imagebuild.toml").write_text('[smoke]\nstatus_words = ["Bene"]\n')
    assert smoke(scripted.url).code == 0


# TLS with a real certificate.

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes it")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a self-signed certificate for a name, with its key in the same file."""
    folder = tmp_path_factory.mktemp("certificates")

    def make(name: str) -> Path:
        path = folder / f"{name.replace(':', '-')}.pem"
        if not path.exists():
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=loader",
                 "-addext", f"subjectAltName={name}", "-keyout", path, "-out", f"{path}.cert"],
                check=True, capture_output=True,
            )  # fmt: skip
            with path.open("a") as stream:
                stream.write(Path(f"{path}.cert").read_text())
        return path

    return make


@needs_openssl
def test_a_certificate_is_trusted_by_name_and_ca_file_only(
    smoke: Smoke, certificates: Callable[[str], Path]
) -> None:
    own = certificates("IP:127.0.0.1")
    with serving(certificate=own) as url:
        error, hint = failed(smoke(url, "--wait", "60"), "tls")  # no wait: it will not change
        assert error.startswith(f"cannot trust the Loader at {url}: TLS failed: certificate verify")
        assert "self" in error
        assert "[smoke] ca_file" in hint
        assert smoke(url, "--ca-file", f"{own}.cert").code == 0
        other = certificates("DNS:azaion-loader")
        failed(smoke(url, "--ca-file", f"{other}.cert"), "tls")


@needs_openssl
def test_one_certificate_of_all_devices_is_known_by_its_own_name(
    smoke: Smoke, certificates: Callable[[str], Path]
) -> None:
    shared = certificates("DNS:azaion-loader")
    with serving(certificate=shared) as url:
        error, hint = failed(smoke(url, "--ca-file", f"{shared}.cert"), "tls")
        assert "mismatch" in error
        assert "certificate_name" in hint
        for name, code in (("azaion-loader", 0), ("another-loader", 8)):
            Path("imagebuild.toml").write_text(f'[smoke]\ncertificate_name = "{name}"\n')
            assert smoke(url, "--ca-file", f"{shared}.cert").code == code


def test_a_loader_that_speaks_no_tls_says_so(smoke: Smoke) -> None:
    with serving() as url:
        _, hint = failed(smoke(url.replace("http:", "https:")), "tls")
    assert "http://" in hint


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_ca_file_without_certificates_is_found_before_anything_is_sent(
    smoke: Smoke, scripted: Script, tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "ca.pem").write_text(text)
    ran = smoke(scripted.url, "--ca-file", tmp_path / "ca.pem")
    assert ran.code == 2
    assert "[smoke] ca_file" in ran.json["hint"]
    assert scripted.requests == []


# The wait for a device that boots.


def test_a_device_that_boots_is_waited_for_through_all_it_can_look_like(
    smoke: Smoke, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_PAUSE", 0.0)
    for status in (404, 500, 503, 200, 502, 200, 200):
        scripted.answer(status, '{"status": "starting"}' if status == 503 else "{}")
    ran = smoke(scripted.url, "--wait", "60")
    assert ran.code == 0, ran.err
    assert [each.method for each in scripted.requests] == ["GET"] * 4 + ["POST", "GET", "POST"]


def test_a_port_that_opens_later_is_waited_for_and_the_wait_is_told(
    smoke: Smoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PAUSE", 0.0)
    port = unused_port()
    with contextlib.ExitStack() as later:
        monkeypatch.setattr("time.sleep", lambda _: later.enter_context(serving(port)))
        ran = smoke(f"http://127.0.0.1:{port}", "--wait", "60")
    assert ran.code == 0, ran.err
    assert "… 0 s: refused, 60 s left: no Loader listens at" in ran.err


def test_at_the_end_of_the_wait_the_last_look_counts(
    smoke: Smoke, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_PAUSE", 0.01)
    scripted.answer(503, "starting")
    failed(smoke(scripted.url, "--wait", "0.05"), "unhealthy")
    assert len(scripted.requests) > 1


def test_on_a_terminal_the_wait_is_live_and_an_interrupt_leaves_the_terminal_as_it_was(
    conf: Path,
) -> None:
    terminal, child = pty.openpty()
    url = f"http://127.0.0.1:{unused_port()}"
    argv = [*TOOL, "smoke", "--loader-url", url, "--device-conf", str(conf), "--wait", "600"]
    with subprocess.Popen(argv, stderr=child, env=os.environ | {"TERM": "xterm"}) as tool:
        os.close(child)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other side has gone
            while part := os.read(terminal, 65536):
                told = b"refused" in seen
                seen += part
                if b"refused" in seen and not told:
                    tool.send_signal(signal.SIGINT)
    os.close(terminal)
    assert tool.returncode == 130
    assert b"s left" in seen
    assert b"\x1b[?25l" not in seen  # the cursor was never hidden
    assert not [line for line in screen(seen.decode()) if "s left" in line]


# Whose credentials.


def test_the_credentials_of_another_device_are_never_sent(smoke: Smoke, scripted: Script) -> None:
    ran = smoke(scripted.url, "--serial", "AZJN-0043")
    assert ran.code == 8
    assert f"are of '{EMAIL}', not of azaion-jetson-0043@azaion.com" in ran.json["error"]
    assert scripted.requests == []


def test_the_url_of_the_configuration_is_filled_in(smoke: Smoke, run: Run, conf: Path) -> None:
    Path("imagebuild.toml").write_text('[smoke]\nloader_url = "http://{serial}.invalid:8080"\n')
    ran = run("smoke", "--device-conf", conf, "--serial", SERIAL, "--json")
    assert ran.json["loader_url"] == f"http://{SERIAL}.invalid:8080"
    failed(ran, "no route")
    ran = run("smoke", "--device-conf", conf)
    assert ran.code == 2
    assert "give --serial" in ran.err


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 8, "holds no /etc/azaion/device.conf"),
        ("AZAION_DEVICE_EMAIL=a@b\n", 8, "has no AZAION_DEVICE_PASSWORD"),
        ("# azaion-imagebuild placeholder: no identity has been stamped", 8, "unstamped"),
    ],
)
def test_a_rootfs_without_credentials_is_no_smoke_test(
    run: Run, rootfs_dir: Path, content: str | None, code: int, words: str
) -> None:
    if content is not None:
        (rootfs_dir / DEVICE_CONF).parent.mkdir()
        (rootfs_dir / DEVICE_CONF).write_text(content)
    ran = run("smoke", "--rootfs-dir", rootfs_dir, "--loader-url", "http://127.0.0.1:1", "--json")
    assert ran.code == code
    assert words in ran.json["error"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--device-conf", "nothing", "--loader-url", "http://h"), "cannot read nothing"),
        (("--device-conf", "CONF"), "no Loader given"),
        (("--device-conf", "CONF", "--loader-url", "host:8080"), "not an http or https URL"),
        (("--device-conf", "CONF", "--loader-url", "http://h", "--wait", "nan"), "'nan'"),
        (("--device-conf", "CONF", "--image", "x"), "not allowed with"),
        (("--rootfs-dir", "", "--loader-url", "http://h"), "rootfs_dir is set, but empty"),
        (("--loader-url", "http://h"), "is required"),
    ],
)
def test_a_wrong_call_is_a_usage_error(
    run: Run, conf: Path, more: tuple[str, ...], words: str
) -> None:
    ran = run("smoke", *[str(conf) if each == "CONF" else each for each in more])
    assert ran.code == 2
    assert words in ran.err


def test_every_cause_is_documented() -> None:
    text = (Path(azaion_imagebuild.__file__).parent.parent / "docs/how-to/smoke.md").read_text()
    for cause in get_args(diagnosis.Cause):
        assert f"\n| `{cause}` |" in text, cause


# In the pipeline.


@pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")
def test_a_flashed_device_that_cannot_log_in_is_in_the_record(
    run: Run, bsp: Path, api_url: str, scripted: Script
) -> None:
    scripted.answer(200)
    scripted.answer(401, "no")
    Path("imagebuild.toml").write_text(f'[smoke]\nloader_url = "{scripted.url}/{{serial}}"\n')
    ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--json")
    assert (ran.code, ran.json["step"], ran.json["flashed"]) == (8, "post_flash", True)
    assert ran.json["smoke"] == "login refused"
    assert scripted.requests[0].path == f"/{SERIAL}/health"
    assert scripted.requests[1].json["password"] not in ran.err + json.dumps(ran.json)
