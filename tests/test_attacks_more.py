"""Attacks that once worked: escapes of a secret, empty settings, exits, compressed pages."""

from __future__ import annotations

import contextlib
import gzip
import html
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from test_make import make
from world import SERIAL, Run, Script, replace_script

from azaion_imagebuild.sandbox import Sandbox

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can set this up")

TOOL = (sys.executable, "-m", "azaion_imagebuild")
IMAGE = (*TOOL, "image", "--serial", SERIAL, "--json")
REAL = './flash.sh.real "$@"'
HOLD = "touch ../held; for i in {1..900}; do [ ! -e ../go ] || break; sleep 0.02; done"
PLUGIN = "import sys\nfrom azaion_imagebuild import hookimpl\n"

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]
Plugin = Callable[[str], None]
Provision = Callable[..., Any]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    made = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    made.create(1.0)
    return made


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """Make a plug-in of this site, and the imagebuild.toml that names it."""

    def make_plugin(text: str) -> None:
        (tmp_path / "plugins").mkdir()
        (tmp_path / "plugins/mine.py").write_text(PLUGIN + text)
        Path("imagebuild.toml").write_text(f'[hooks]\ndirs = ["{tmp_path}/plugins"]\n')

    return make_plugin


@pytest.fixture
def provision(run: Run, rootfs_dir: Path) -> Provision:
    def call(url: str, *more: object) -> Any:
        args = ("--serial", SERIAL, "--rootfs-dir", rootfs_dir, "--json")
        return run("provision", "--api-url", url, *args, *more)

    return call


@contextlib.contextmanager
def serving(answer: Answer, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve an admin API that writes each of its answers by itself; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self, self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://{host}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def reply(handler: BaseHTTPRequestHandler, status: int, body: str, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``tool`` calls the command line."""
    text = f'tool() {{ {sys.executable} -m azaion_imagebuild "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def started(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program that heeds signals, however the tests were started; end it with the test."""
    heeding = ("env", "--default-signal=INT,TERM,HUP", *argv)
    with subprocess.Popen(
        heeding, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as tool:
        try:
            yield tool
        finally:
            tool.kill()


def until(path: Path, tool: subprocess.Popen[str]) -> None:
    for _ in range(500):
        if path.exists():
            return
        assert tool.poll() is None, tool.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


def alive(group: int) -> list[int]:
    """Return what still runs of a process group; what was killed gets a second to go."""
    for _ in range(50):
        found = [pid for pid, its_group in running() if its_group == group]
        if not found:
            break
        time.sleep(0.02)
    return found


def running() -> Iterator[tuple[int, int]]:
    """Yield (pid, process group) of every process but the zombies (proc_pid_stat(5))."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group, *_ = path.read_text().rpartition(")")[2].split()
            if state != "Z":
                yield int(path.parent.name), int(group)


def holders(folder: Path, text: bytes) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and text in path.read_bytes()
    ]


HTML = "<html>Welcome to the guest network</html>"


@pytest.mark.parametrize(
    "escaped",
    [
        lambda text: json.dumps(text),
        lambda text: "".join(c if c.isalnum() else f"\\u{ord(c):04X}" for c in text),
        lambda text: "".join(c if c.isalnum() else f"&#x{ord(c):X};" for c in text),
        lambda text: html.escape(text),
        lambda text: quote(quote(text, safe=""), safe=""),
        lambda text: text.encode("utf-16").decode("latin-1"),
    ],
)
def test_a_token_that_the_api_sends_back_escaped_is_shown_nowhere(
    run: Run, rootfs_dir: Path, tmp_path: Path, escaped: Callable[[str], str]
) -> None:
    token = 'tok"en\\with<many/odd+chars&'
    (tmp_path / "token").write_text(token)
    Path("imagebuild.toml").write_text(f'[admin_api]\ntoken_file = "{tmp_path}/token"\n')

    def echo(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        text = handler.headers["Authorization"] + json.loads(body)["password"]
        data = escaped(text.removeprefix("Bearer ")).encode("latin-1")
        handler.send_response(401)
        handler.end_headers()
        handler.wfile.write(data)

    with serving(echo) as url:
        ran = run("provision", "--serial", SERIAL, "--api-url", url, "--rootfs-dir", rootfs_dir,
                  "--json")  # fmt: skip
    assert ran.code == 4, ran.err
    assert "HTTP 401: " in ran.json["error"]
    assert "odd" not in ran.err.replace(" ", "") + ran.out.replace(" ", "")


@pytest.mark.parametrize("kind", ["gzip", "BOM"])
def test_a_web_page_in_any_wrapping_is_no_account(provision: Provision, kind: str) -> None:
    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        if kind == "gzip":
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        handler.wfile.write(
            gzip.compress(HTML.encode()) if kind == "gzip" else HTML.encode("utf-8-sig")
        )

    with serving(answer) as url:
        ran = provision(url)
    assert ran.code == 4
    assert "a web page answered" in ran.json["hint"]


@pytest.mark.parametrize(
    ("head", "again", "words"),
    [
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\n\r\n", b"x" * 999, "answered HTTP 503"),
    ],
)
def test_an_endless_answer_that_asks_to_be_retried_is_not_read_to_its_end(
    rootfs_dir: Path, head: bytes, again: bytes, words: str
) -> None:
    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.wfile.write(head)
        while True:
            handler.wfile.write(again)
            time.sleep(0.001 if len(again) == 999 else 0.05)

    Path("imagebuild.toml").write_text("[admin_api]\nread_timeout = 0.5\nretries = 2\n")
    with serving(answer) as url:
        done = subprocess.run(
            [*TOOL, "provision", "--serial", SERIAL, "--api-url", url, "--rootfs-dir", rootfs_dir],
            capture_output=True, text=True, check=False, timeout=8,
        )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert words in done.stderr


def test_a_retry_after_does_not_multiply_the_tries(
    provision: Provision, scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda _: None)
    scripted.answer(503, Retry_After="0")
    Path("imagebuild.toml").write_text("[admin_api]\nretries = 2\n")
    assert provision(scripted.url).code == 4
    assert len(scripted.requests) == 3


@pytest.mark.parametrize("command", ["doctor", "hooks"])
def test_what_a_plug_in_prints_to_doctor_and_hooks_goes_to_stderr(
    run: Run, plugin: Plugin, command: str
) -> None:
    plugin("print('at import')\n@hookimpl\ndef preflight():\n    print('in a step')\n")
    ran = run(command, "--json")
    assert (ran.code, bool(ran.json)) == (0, True)
    assert "at import" in ran.err.splitlines()


def test_a_plug_in_that_exits_in_doctor_is_a_bug_and_no_success(plugin: Plugin) -> None:
    plugin("@hookimpl\ndef preflight():\n    sys.exit(0)\n")
    done = subprocess.run([*TOOL, "doctor", "--json"], capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["outcome"]) == (70, "failed")


def test_an_entry_point_that_exits_while_it_is_loaded_is_an_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "exiting-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: exiting\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[azaion_imagebuild]\nexiting = exiting_plugin\n")
    (tmp_path / "exiting_plugin.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    ran = run("image", "--serial", SERIAL, "--json")
    assert (ran.code, ran.json["outcome"]) == (2, "failed")
    assert "exiting_plugin) cannot be loaded: SystemExit" in ran.json["error"]


@pytest.mark.parametrize("way", ["argument", "variable", "AZAION_IMAGEBUILD_CONFIG"])
def test_a_config_that_is_set_but_empty_is_an_error_and_never_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    arguments = ["image", f"SERIAL={SERIAL}", "JSON=1"]
    if way == "argument":
        arguments.append("CONFIG=")
    else:
        monkeypatch.setenv("CONFIG" if way == "variable" else way, "")
    done = make(*arguments)
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2
    assert not (tmp_path / "state").exists()


@needs_root
def test_a_link_of_another_user_to_our_own_configuration_is_not_followed(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "site.toml").write_text('[hooks]\ndirs = ["factory-hooks"]\n')
    Path("factory-hooks").mkdir()
    Path("factory-hooks/evil.py").write_text("open('imported', 'w').close()\n")
    Path("imagebuild.toml").symlink_to(tmp_path / "site.toml")
    os.chown("imagebuild.toml", 4242, 4242, follow_symlinks=False)
    assert run("hooks").code == 2
    os.chown("imagebuild.toml", 0, 0, follow_symlinks=False)
    os.chown(".", 4242, 4242)  # who could put another file there after the look
    assert run("hooks").code == 2
    assert not Path("imported").exists()


def test_a_query_of_the_api_url_is_not_repeated(provision: Provision) -> None:
    ran = provision("http://127.0.0.1/?token=correct-horse")
    assert ran.code == 3
    assert "correct-horse" not in ran.err + ran.out


def test_a_build_in_the_background_of_a_script_is_stopped_without_delay(sandbox: Sandbox) -> None:
    replace_script(
        sandbox.bsp / "flash.sh",
        "trap 'touch ../cleaned; exit 1' INT TERM; touch ../held; sleep 60 & wait\n",
    )
    with started("env", "--ignore-signal=INT", *IMAGE) as tool:
        until(sandbox.dir / "held", tool)
        tool.send_signal(signal.SIGTERM)
        tool.communicate(timeout=10)
    assert tool.returncode == 130
    assert (sandbox.dir / "cleaned").exists()
