"""What an attacker, a careless script or a bad neighbour can do to a build, and what it may not.

Each test plays one attack on real parts: processes and signals, sockets, full disks, images.
"""

from __future__ import annotations

import contextlib
import gzip
import html
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from making import make
from serving import served
from thorough import one_of, thorough
from world import SERIAL, TOOL, Run, Script, replace_script

from azaion_imagebuild.l4t import image_files
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox import Accounts, Sandbox
from azaion_imagebuild.system import process

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can set this up")

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
    """Serve an admin API that writes its answers itself; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self, self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with Server((host, 0), Handler) as server, served(server):
        yield f"http://{host}:{server.server_address[1]}"


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


# Whoever stops the tool: nothing that it started goes on.


@pytest.mark.parametrize(
    ("first", "second"), one_of([(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGHUP)])
)
def test_a_second_signal_leaves_no_process_of_a_script_that_cleans_up_slowly(
    sandbox: Sandbox, first: int, second: int
) -> None:
    replace_script(
        sandbox.bsp / "flash.sh",
        "trap 'touch ../cleaning; sleep 20; exit 1' INT\n"
        "(trap '' INT TERM HUP; sleep 60) &\n"
        "echo $$ > ../pid; mv ../pid ../held; wait\n",
    )
    with started(*IMAGE) as tool:
        until(sandbox.dir / "held", tool)
        tool.send_signal(first)
        time.sleep(0.5)
        assert (sandbox.dir / "cleaning").exists()
        tool.send_signal(second)
        out, err = tool.communicate(timeout=15)
    assert alive(int((sandbox.dir / "held").read_text())) == []
    assert (tool.returncode, json.loads(out)["step"]) == (130, "build_image"), err
    assert "Traceback" not in err
    assert not (sandbox.bsp / "rootfs" / DEVICE_CONF).exists()


@thorough
def test_a_hangup_does_not_stop_a_build_under_nohup(sandbox: Sandbox) -> None:
    replace_script(sandbox.bsp / "flash.sh", f"[ -e ../go ] || {{ {HOLD}; }}; {REAL}\n")
    with started("nohup", *IMAGE) as tool:
        until(sandbox.dir / "held", tool)
        tool.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        (sandbox.dir / "go").touch()
        out, err = tool.communicate(timeout=15)
    assert tool.returncode == 0, err
    assert json.loads(out)["flashed"] is True


@thorough
def test_a_daemon_that_flash_sh_leaves_holds_neither_the_step_nor_the_next_build(
    sandbox: Sandbox, run: Run
) -> None:
    replace_script(
        sandbox.bsp / "flash.sh",
        f"[ -e ../daemon ] || {{ setsid sleep 60 & echo $! > ../daemon; }}; {REAL}\n",
    )
    Path("imagebuild.toml").write_text("[build]\nlock_wait = 0\n")
    begin = time.monotonic()
    first = run("image", "--serial", SERIAL)
    daemon = int((sandbox.dir / "daemon").read_text())
    try:
        second = run("image", "--serial", SERIAL)
        os.kill(daemon, 0)  # it was there all the time
    finally:
        os.kill(daemon, signal.SIGKILL)
    assert (first.code, second.code) == (0, 0), second.err
    assert time.monotonic() - begin < 10


# A log that cannot be written: said before a script runs, or no reason to lose hold of one.


def test_a_log_that_cannot_be_opened_starts_no_program(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    for log in (tmp_path / "log", tmp_path / "nothing/log", tmp_path):
        with pytest.raises(OSError, match=str(log)):
            process.run(["touch", "started"], cwd=tmp_path, log=log)
    assert not (tmp_path / "started").exists()
    assert not (tmp_path / "elsewhere").exists()


def test_a_log_on_a_full_disk_loses_lines_but_not_the_program(tmp_path: Path) -> None:
    script = ["sh", "-c", "echo one; echo two; touch ended"]
    finished = process.run(script, cwd=tmp_path, log=Path("/dev/full"))
    assert (finished.returncode, finished.tail) == (0, ("one", "two"))
    assert (tmp_path / "ended").exists()


def test_a_log_folder_that_cannot_be_made_is_an_error_before_the_account(
    sandbox: Sandbox, run: Run
) -> None:
    replace_script(sandbox.bsp / "flash.sh", f"touch ../started; {REAL}\n")
    logs = sandbox.dir.parent / "logs"
    logs.write_text("no folder")
    ran = run("image", "--serial", SERIAL, "--json")
    assert (ran.code, ran.json["step"]) == (3, "preflight")
    assert f"logs cannot be written into {logs}" in ran.json["error"]
    assert "AZAION_IMAGEBUILD_STATE_DIR" in ran.json["hint"]
    assert not (sandbox.dir / "started").exists()
    assert not (sandbox.bsp / "rootfs" / DEVICE_CONF).exists()


@needs_root
def test_a_log_folder_of_another_user_is_an_error_before_the_account(
    sandbox: Sandbox, run: Run
) -> None:
    replace_script(sandbox.bsp / "flash.sh", f"touch ../started; {REAL}\n")
    folder = sandbox.dir.parent / "logs" / SERIAL
    folder.mkdir(parents=True)
    os.chown(folder, 4242, 4242)
    ran = run("image", "--serial", SERIAL, "--json")
    assert ran.code == 3
    assert f"{folder} belongs to 4242" in ran.json["error"]
    assert f"sudo chown root {folder}" in ran.json["hint"]
    assert not (sandbox.dir / "started").exists()
    assert sandbox.accounts.list() == []


@needs_root
@pytest.mark.parametrize("room", one_of(["for no file", "for a file without lines"]))
def test_a_full_disk_under_the_logs_leaves_no_script_running(sandbox: Sandbox, room: str) -> None:
    replace_script(sandbox.bsp / "flash.sh", f"echo $$ >> ../started; {REAL}\n")
    logs = sandbox.dir.parent / "logs"
    logs.mkdir()
    fill = "dd if=/dev/zero of=filler bs=1k status=none || true"
    if room == "for no file":  # except the attempt's two folders
        fill = "i=0; while touch x$i; do i=$((i+1)); done; rm x0 x1"
    mount = f"mount -t tmpfs -o size=64k,nr_inodes=32 none {logs} && (cd {logs}; {fill}) 2>&-"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", f'{mount}; exec "$@"', "-", *IMAGE],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespaces here")
    record = json.loads(done.stdout)
    started = sandbox.dir / "started"
    if room == "for no file":
        assert (done.returncode, record["step"]) == (6, "build_image")
        assert "No space left on device" in record["error"]
        assert str(logs) in record["error"]
        assert not started.exists()
    else:
        assert (done.returncode, record["flashed"]) == (0, True), done.stderr
        assert [alive(int(group)) for group in started.read_text().split()] == [[], []]
    assert "Traceback" not in done.stderr
    assert not (sandbox.bsp / "rootfs" / DEVICE_CONF).exists()


# Other users of the host: what scripts unpack and build is closed to them.


def test_bootloader_is_closed_while_scripts_run_and_gets_its_mode_back(
    sandbox: Sandbox, run: Run
) -> None:
    bootloader = sandbox.bsp / "bootloader"
    bootloader.chmod(0o751)
    look = "stat -c %a bootloader >> ../seen"
    replace_script(sandbox.bsp / "flash.sh", f"{look}; {REAL}; code=$?; {look}; exit $code\n")
    assert run("image", "--serial", SERIAL).code == 0
    assert (sandbox.dir / "seen").read_text().split() == ["700"] * 4
    assert stat.S_IMODE(bootloader.stat().st_mode) == 0o751
    (kept,) = image_files.present_images(sandbox.bsp)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_an_interrupted_build_leaves_the_password_nowhere(sandbox: Sandbox, tmp_path: Path) -> None:
    unpacked = "bootloader/mnt/etc/azaion"
    replace_script(
        sandbox.bsp / "flash.sh",
        f"{REAL}; mkdir -p {unpacked}; cp -p rootfs/{DEVICE_CONF} {unpacked}\n"
        f"cp rootfs/{DEVICE_CONF} {tmp_path}/told; {HOLD}\n",
    )
    with started(*IMAGE) as tool:
        until(sandbox.dir / "held", tool)
        password = (tmp_path / "told").read_bytes().rstrip().rpartition(b"=")[2]
        assert len(holders(sandbox.bsp, password)) == 4  # staged, unpacked, raw and sparse
        tool.send_signal(signal.SIGINT)
        _, err = tool.communicate(timeout=60)
    assert tool.returncode == 130, err
    assert image_files.present_images(sandbox.bsp) == []
    assert holders(sandbox.dir.parent, password) == []
    assert not (sandbox.bsp / unpacked / "device.conf").exists()
    assert stat.S_IMODE((sandbox.bsp / "bootloader").stat().st_mode) & 0o077


def test_a_name_given_to_device_conf_meanwhile_is_told_and_the_file_is_gone(
    sandbox: Sandbox, run: Run
) -> None:
    link = f"ln rootfs/{DEVICE_CONF} ../stolen"
    replace_script(sandbox.bsp / "flash.sh", f"[ -e ../stolen ] || {link}; {REAL}\n")
    ran = run("image", "--serial", SERIAL, "--json")
    assert (ran.code, ran.json["step"]) == (5, "post_flash")
    assert "second name (a hard link)" in ran.json["error"]
    assert "password" in ran.json["hint"]
    assert (sandbox.dir / "stolen").stat().st_nlink == 1
    assert not (sandbox.bsp / "rootfs" / DEVICE_CONF).exists()
    (sandbox.bsp / "flash.sh").write_text(f"#!/bin/bash\n{link}2; exit 1\n")
    ran = run("image", "--serial", SERIAL, "--json")
    assert ran.code == 6
    assert "second name (a hard link)" in ran.json["error"]
    assert (sandbox.dir / "stolen2").stat().st_nlink == 1


# Secrets that come back: from the API, from the command line, from the environment.

SHAPES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in upper case": str.upper,
    "escaped for JSON": lambda text: json.dumps(text).replace("/", "\\/"),
    "quoted for a URL": lambda text: quote(text, safe=""),
    "quoted for a path, in lower case": lambda text: quote(text).lower(),
}


@pytest.mark.parametrize("shape", one_of(SHAPES))
@pytest.mark.parametrize("place", one_of(["body", "redirect", "host of a redirect"]))
def test_a_secret_that_the_api_sends_back_is_shown_nowhere(
    provision: Provision, tmp_path: Path, shape: str, place: str
) -> None:
    shaped = SHAPES[shape]
    secrets = ["tok/en+of~the&site=="]
    (tmp_path / "token").write_text(secrets[0])
    (tmp_path / "token").chmod(0o600)
    Path("imagebuild.toml").write_text(f'[admin_api]\ntoken_file = "{tmp_path}/token"\n')

    def echo(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        password = json.loads(body)["password"]
        token = handler.headers["Authorization"].removeprefix("Bearer ")
        secrets.extend([token, password])
        both = f"{shaped(password)} {shaped(token)}"
        if place == "body":
            reply(handler, 422, f"cannot take {both}")
        elif place == "redirect":
            reply(handler, 307, "", Location=f"https://sso.example.com/{both}?back={both}#{both}")
        else:
            reply(handler, 307, "", Location=f"https://{shaped(password)}.example.com:443/")

    with serving(echo) as url:
        ran = provision(url)
    assert ran.code == 4, ran.err
    told, sent, password = secrets
    assert told == sent
    seen = (ran.err + ran.out + ran.json["error"]).lower()
    for secret in (sent, password):
        for form in (secret, shaped(secret)):
            assert form.lower() not in seen
    assert "***" in seen or place == "redirect"


@pytest.mark.parametrize("url", ["http://me:{}@127.0.0.1", "me:{}@host", "http://me:a@{}@[::1"])
@pytest.mark.parametrize("way", ["flag", "variable"])
def test_a_password_in_the_api_url_is_not_repeated(
    run: Run, rootfs_dir: Path, monkeypatch: pytest.MonkeyPatch, url: str, way: str
) -> None:
    url = url.format("correct-horse")
    args = ["provision", "--serial", SERIAL, "--rootfs-dir", rootfs_dir, "--json"]
    if way == "flag":
        args += ["--api-url", url]
    else:
        monkeypatch.setenv("AZAION_IMAGEBUILD_API_URL", url)
    ran = run(*args)
    assert ran.code in (2, 3)
    assert "API_URL" in ran.json["error"]
    assert "correct-horse" not in ran.err + ran.out


@thorough
def test_a_token_variable_stays_here_even_when_a_file_holds_the_token(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    replace_script(sandbox.bsp / "flash.sh", f"env >> ../seen; {REAL}\n")
    (tmp_path / "token").write_text("token-of-the-file")
    (tmp_path / "token").chmod(0o600)
    Path("imagebuild.toml").write_text(
        f'[admin_api]\ntoken_file = "{tmp_path}/token"\ntoken_env = "SITE_TOKEN"\n'
    )
    environ = os.environ | {"SITE_TOKEN": "token-of-the-variable", "KEPT": "kept"}
    done = subprocess.run(IMAGE, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = (sandbox.dir / "seen").read_text()
    assert "KEPT=kept" in seen
    assert "SITE_TOKEN" not in seen
    assert "token-of-the" not in seen + done.stdout + done.stderr


# An image that is not what was staged, or not what was proven.

LIES: dict[str, tuple[str, int, str]] = {
    "appends a line to device.conf": (
        f"echo '# by the way' >> rootfs/{DEVICE_CONF}; {REAL}", 8, "not byte for byte",
    ),
    "changes the line end of device.conf": (
        f"printf '\\n' >> rootfs/{DEVICE_CONF}; {REAL}", 8, "not byte for byte",
    ),
    "builds with another passwd": (
        f"cp -p rootfs/etc/passwd .; echo new:x:9:9::/:/bin/sh >> rootfs/etc/passwd; {REAL};"
        " code=$?; cp -p passwd rootfs/etc/passwd; exit $code",
        8, "/etc/passwd in",
    ),
    "builds with another group": (
        f"cp -p rootfs/etc/group .; echo new:x:9: >> rootfs/etc/group; {REAL};"
        " code=$?; cp -p group rootfs/etc/group; exit $code",
        8, "/etc/group in",
    ),
    "rewrites the sparse image while flashing": (
        f"{REAL} && {{ [[ $1 != -r ]] || cp bootloader/mksparse bootloader/system.img; }}",
        7, "system.img.raw was changed while it was flashed",
    ),
    "touches the raw image while flashing": (
        f"[[ $1 != -r ]] || touch bootloader/system.img.raw; {REAL}",
        7, "system.img.raw was changed while it was flashed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", one_of(LIES))
def test_an_image_that_is_not_the_proven_one_is_never_done(
    sandbox: Sandbox, run: Run, lie: str
) -> None:
    script, code, words = LIES[lie]
    replace_script(sandbox.bsp / "flash.sh", script + "\n")
    ran = run("image", "--serial", SERIAL, "--json")
    assert (ran.code, ran.json["outcome"]) == (code, "failed"), ran.err
    assert words in ran.json["error"]
    assert "DONE" not in ran.err
    assert image_files.present_images(sandbox.bsp) == []
    assert not (sandbox.bsp / "rootfs" / DEVICE_CONF).exists()
    assert bool(sandbox.device.stat().st_size) == (code == 7)


# Files that somebody else put in our way.


def test_an_imagebuild_toml_that_all_may_write_is_read_only_when_it_is_named(
    run: Run, plugin: Plugin
) -> None:
    plugin("open('imported', 'w').close()\n")
    Path("imagebuild.toml").chmod(0o666)
    ran = run("hooks", "--json")
    assert ran.code == 2
    assert ran.json["error"].endswith(f"everybody may write {Path('imagebuild.toml').absolute()}")
    assert f"chmod o-w {Path('imagebuild.toml').absolute()}; or" in ran.json["hint"]
    assert "--config imagebuild.toml" in ran.json["hint"]
    assert not Path("imported").exists()
    assert run("hooks", "--config", "imagebuild.toml").code == 0
    assert Path("imported").exists()


@needs_root
def test_an_imagebuild_toml_of_another_user_is_read_only_when_it_is_named(
    run: Run, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin("open('imported', 'w').close()\n")
    os.chown("imagebuild.toml", 4242, 4242)
    for sudo_uid in ("", "4243", "root"):
        monkeypatch.setenv("SUDO_UID", sudo_uid)
        ran = run("hooks", "--json")
        assert ran.code == 2
        file = Path("imagebuild.toml").absolute()
        assert ran.json["error"].endswith(f"{file} belongs to 4242")
        assert ran.json["hint"].startswith(f"sudo chown root {file}; or")
    assert not Path("imported").exists()
    monkeypatch.setenv("SUDO_UID", "4242")  # who called sudo may say what is run
    assert run("hooks").code == 0
    monkeypatch.delenv("SUDO_UID")
    assert run("hooks", "--config", "imagebuild.toml").code == 0


def test_sandbox_reset_removes_a_sandbox_only(sandbox: Sandbox, run: Run) -> None:
    assert run("sandbox", "reset").code == 0
    assert not sandbox.dir.exists()
    sandbox.dir.mkdir()
    (sandbox.dir / "thesis").write_text("the only copy")
    ran = run("sandbox", "reset", "--json")
    assert ran.code == 2
    assert f"{sandbox.dir} holds no sandbox of this tool" in ran.json["error"]
    assert (sandbox.dir / "thesis").read_text() == "the only copy"


def test_a_foreign_bsp_in_the_sandboxs_place_is_not_replaced(sandbox: Sandbox, run: Run) -> None:
    assert run("sandbox", "reset").code == 0
    sandbox.bsp.mkdir(parents=True)
    (sandbox.bsp / "flash.sh").write_text("NVIDIA's own")
    for command in (["image", "--serial", SERIAL], ["sandbox", "show"], ["sandbox", "reset"]):
        ran = run(*command, "--json")
        assert ran.code == 2, ran.err
        assert str(sandbox.dir) in ran.json["error"]
    assert [path.name for path in sandbox.bsp.iterdir()] == ["flash.sh"]


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device"])
def test_verify_of_what_is_no_file_ends_at_once(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "device":
        target = Path("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        os.mkfifo(tmp_path / "fifo")
        target.symlink_to("fifo")
    done = subprocess.run(
        [*TOOL, "verify", target, "--serial", SERIAL, "--json"],
        capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"] == f"{target} is not a file or folder"


def test_a_folder_that_the_loader_could_not_search_is_found_before_anything_changes(
    provision: Provision, rootfs_dir: Path, api_url: str, accounts: Accounts
) -> None:
    folder = rootfs_dir / "etc/azaion"
    folder.mkdir(mode=0o700)
    ran = provision(api_url, "--owner", "nobody")
    assert (ran.code, ran.json["step"]) == (3, "preflight")
    assert "/etc/azaion in the rootfs has mode 0700" in ran.json["error"]
    assert "nobody" not in ran.json["error"]
    assert f"chmod 755 {folder}" in ran.json["hint"]
    assert accounts.list() == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("way", ["/", "/proc/self/root", "link"])
def test_the_hosts_own_root_is_no_rootfs(
    run: Run, tmp_path: Path, api_url: str, accounts: Accounts, way: str
) -> None:
    (tmp_path / "link").symlink_to("/etc/..")
    root = tmp_path / "link" if way == "link" else way
    # An owner that no host has: were the root not refused, nothing would be written either.
    ran = run("provision", "--serial", SERIAL, "--api-url", api_url, "--rootfs-dir", root,
              "--json", "--owner", "azaion-of-no-host")  # fmt: skip
    assert (ran.code, ran.json["step"]) == (3, "preflight")
    assert "is this host's own root directory" in ran.json["error"]
    assert accounts.list() == []


# Standard output: one line for a program, whatever becomes of it, and the build's exit code.


@thorough
@pytest.mark.parametrize(("serial", "code"), one_of([(SERIAL, 0), ("none", 2)]))
@pytest.mark.parametrize("end", one_of(["| true; exit ${PIPESTATUS[0]}", "> /dev/full", ">&-"]))
def test_a_stdout_that_takes_nothing_does_not_change_the_exit_code(
    serial: str, code: int, end: str
) -> None:
    done = shell(f"tool image --serial {serial} --json {end}")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert ("DONE" in done.stderr) == (code == 0)
    assert ("cannot write to stdout" in done.stderr) == (end == "> /dev/full")  # | head is usual


@pytest.mark.parametrize(("serial", "code"), [(SERIAL, 0), ("none", 2)])
def test_a_closed_stderr_leaves_exactly_one_line_of_json(serial: str, code: int) -> None:
    done = shell(f"tool image --serial {serial} --json 2>&-")
    assert done.returncode == code
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["outcome"] == ("done" if code == 0 else "failed")


@pytest.mark.parametrize(
    "argv", [["image", "--no-such-flag"], ["image", "--method", "x"], ["no-such-command"], []]
)
def test_a_usage_error_is_one_line_of_json_too(run: Run, argv: list[str]) -> None:
    ran = run(*argv, "--json")
    assert (ran.code, ran.json["exit_code"], ran.json["outcome"]) == (2, 2, "failed")
    assert (len(ran.errors), len(ran.hints)) == (1, 1)


def test_what_a_plug_in_prints_goes_to_stderr(run: Run, plugin: Plugin) -> None:
    plugin(
        "print('at import')\n@hookimpl\ndef pre_flash():\n    print('in a step')\n"
        "@hookimpl\ndef cleanup():\n    sys.stdout.write('at the end\\n')\n"
    )
    ran = run("image", "--serial", SERIAL, "--json")
    assert (ran.code, ran.json["outcome"]) == (0, "done")
    for words in ("at import", "in a step", "at the end"):
        assert words in ran.err.splitlines()


@pytest.mark.parametrize("step", one_of(["pre_flash", "verify_image", "flash"]))
def test_a_plug_in_that_exits_with_0_is_a_bug_and_no_success(
    sandbox: Sandbox, plugin: Plugin, step: str
) -> None:
    plugin(f"@hookimpl\ndef {step}():\n    sys.exit(0)\n")
    done = subprocess.run(IMAGE, capture_output=True, text=True, check=False)
    record = json.loads(done.stdout)
    assert (done.returncode, record["exit_code"]) == (70, 70)
    assert (record["outcome"], record["step"]) == ("failed", step)
    assert f"plugins/mine.py:5, step {step}: SystemExit" in record["error"]
    assert sandbox.device.stat().st_size == 0
    assert image_files.present_images(sandbox.bsp) == []
    assert not (sandbox.bsp / "rootfs" / DEVICE_CONF).exists()


def test_a_plug_in_that_exits_while_it_is_loaded_is_an_error(run: Run, plugin: Plugin) -> None:
    plugin("sys.exit(0)\n")
    ran = run("image", "--serial", SERIAL, "--json")
    assert (ran.code, ran.json["outcome"]) == (2, "failed")
    assert "mine.py cannot be loaded: SystemExit" in ran.json["error"]


@pytest.mark.parametrize("name", one_of(["BSP", "API_URL", "ROOTFS_DIR"]))
@pytest.mark.parametrize("way", one_of(["argument", "variable"]))
def test_a_part_that_is_set_but_empty_is_an_error_and_never_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    arguments = ["image", f"SERIAL={SERIAL}", "JSON=1"]
    if way == "argument":
        arguments.append(f"{name}=")
    else:
        monkeypatch.setenv(name, "")
    done = make(*arguments)
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2
    assert "SANDBOX" not in done.stderr
    assert not (tmp_path / "state").exists()


# The admin API, and what may stand between.


def endless(handler: BaseHTTPRequestHandler) -> None:
    while True:
        handler.wfile.write(b"x" * 65536)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    one_of([(503, endless, 4), (422, endless, 4), (201, endless, 0), (503, dripping, 4),
     (201, dripping, 4)]),
)  # fmt: skip
def test_an_answer_without_an_end_is_cut_off_in_time(
    rootfs_dir: Path, status: int, body: Callable[[BaseHTTPRequestHandler], None], code: int
) -> None:
    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(status)
        handler.end_headers()
        body(handler)

    Path("imagebuild.toml").write_text("[admin_api]\nread_timeout = 0.5\nretries = 2\n")
    with serving(answer) as url:
        done = subprocess.run(
            [*TOOL, "provision", "--serial", SERIAL, "--api-url", url, "--rootfs-dir", rootfs_dir],
            capture_output=True, text=True, check=False, timeout=5,
        )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("did not answer in time" in done.stderr) == (body is dripping)


@pytest.mark.parametrize("statuses", [[200], [409, 200]])
def test_a_web_page_is_no_account(
    provision: Provision, scripted: Script, rootfs_dir: Path, statuses: list[int]
) -> None:
    page = "\n <!DOCTYPE html><html><title>Welcome to the guest network</title></html>"
    for status in statuses:
        scripted.answer(status, "{}" if status == 409 else page, Content_Type="text/html")
    ran = provision(scripted.url)
    step = "activate_identity" if 409 in statuses else "provision_identity"
    assert (ran.code, ran.json["step"]) == (4, step)
    assert "answered HTTP 200: <!DOCTYPE html>" in ran.json["error"]
    assert "a web page answered" in ran.json["hint"]
    assert not (rootfs_dir / DEVICE_CONF).exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_a_server_on_this_host_is_never_asked_through_a_proxy(
    provision: Provision, scripted: Script, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    scripted.answer(201)  # the proxy's answer
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, scripted.url)
    with serving(lambda handler, _: reply(handler, 201, "{}"), host) as url:
        ran = provision(url)
    assert ran.code == 0, ran.err
    assert scripted.requests == []


@pytest.mark.parametrize("no_proxy", ["10.0.0.0/8,192.0.2.0/24", "192.0.2.7", "*", ""])
def test_no_proxy_is_heeded_with_networks_too(
    provision: Provision, scripted: Script, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    scripted.answer(201)  # the proxy's answer
    monkeypatch.setenv("HTTP_PROXY", scripted.url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    Path("imagebuild.toml").write_text("[admin_api]\nconnect_timeout = 0.2\nretries = 0\n")
    ran = provision("http://192.0.2.7:9")  # TEST-NET-1: nobody is there (RFC 5737)
    if no_proxy:
        assert ran.code in (3, 4), ran.err
        assert scripted.requests == []
    else:
        assert ran.code == 0, ran.err
        assert scripted.requests[0].path == "http://192.0.2.7:9/users"


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


@thorough
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

    Path("imagebuild.toml").write_text("[admin_api]\nread_timeout = 20\nretries = 2\n")
    with serving(answer) as url:
        done = subprocess.run(
            [*TOOL, "provision", "--serial", SERIAL, "--api-url", url, "--rootfs-dir", rootfs_dir],
            capture_output=True, text=True, check=False, timeout=100,
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


def test_a_plug_in_that_exits_in_a_dry_run_is_a_bug_and_no_success(plugin: Plugin) -> None:
    plugin("@hookimpl\ndef preflight():\n    sys.exit(0)\n")
    argv = [*TOOL, "image", SERIAL, "--dry-run", "--json"]
    done = subprocess.run(argv, capture_output=True, check=False)
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
