"""What an attacker or an unlucky operator can do to a fleet, its lanes and its ledger.

Each test plays one attack on real parts: processes and signals, terminals, sockets, full disks.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from thorough import one_of, thorough
from world import TOOL, Run, outcomes, tool_started

from azaion_imagebuild.cli import main as cli
from azaion_imagebuild.cli.console import Console
from azaion_imagebuild.fleet.events import closed, ended, opened
from azaion_imagebuild.images.copy import copy_image
from azaion_imagebuild.ledger import this_process
from azaion_imagebuild.ledger.process_id import is_alive, this_host
from azaion_imagebuild.pipeline import events
from azaion_imagebuild.sandbox import Sandbox

A_SERIAL = "AZJN-" + "9" * 300
SHM = Path("/dev/shm")
SLOW = """
import time

@hookimpl(tryfirst=True)
def provision_identity(build):
    time.sleep(0.2)
"""

Plugin = Callable[[str], None]


@pytest.fixture
def plugin() -> Plugin:
    """Make a plug-in of this site, and the imagebuild.toml that names it."""

    def make_plugin(text: str) -> None:
        Path("site").mkdir()
        Path("site/mine.py").write_text(f"from azaion_imagebuild import hookimpl\n{text}")
        Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')

    return make_plugin


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another filesystem than ``tmp_path``."""
    if not SHM.is_dir() or SHM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other filesystem")
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder)


def test_a_device_whose_account_got_another_password_is_not_said_to_be_done(run: Run) -> None:
    assert run("fleet", "AZJN-0001..AZJN-0002", "--jobs", "1").code == 0
    assert run("image", "--serial", "AZJN-0001", "--flash", "0").code == 0  # locks the device out
    ran = run("fleet", "AZJN-0001..AZJN-0002", "--jobs", "1", "--json")
    assert outcomes(ran) == {"AZJN-0001": "done", "AZJN-0002": "done before"}


def test_images_may_go_to_another_filesystem_than_the_base(run: Run, elsewhere: Path) -> None:
    ran = run("fleet", "AZJN-0001..AZJN-0002", "--out", elsewhere / "images")
    assert ran.code == 0, ran.err
    sparse = elsewhere / "sparse"
    with sparse.open("wb") as stream:
        stream.write(b"first")
        stream.seek(5 << 20)
        stream.write(b"last")
    copy_image(sparse, Path("copy"))
    assert Path("copy").read_bytes() == sparse.read_bytes()
    assert Path("copy").stat().st_blocks * 512 < 1 << 20


@thorough
@pytest.mark.parametrize("ignored", one_of([False, True]))
def test_a_terminal_that_is_closed_leaves_no_device_halfway(
    run: Run, plugin: Plugin, ignored: bool
) -> None:
    plugin(SLOW)
    ours, terminal = pty.openpty()
    argv = ("fleet", "AZJN-0001..AZJN-0012", "--out", "images", "--jobs", "2", "--json")
    with tool_started(*argv, stderr=terminal) as fleet:
        os.close(terminal)
        while len(list(Path("images").glob("*.img"))) < 2:
            assert os.read(ours, 65536)
        os.close(ours)
        if not ignored:
            fleet.send_signal(signal.SIGHUP)
        out, _ = fleet.communicate(timeout=60)
    assert (fleet.returncode, json.loads(out)["outcome"]) == (
        (0, "done") if ignored else (130, "interrupted")
    )
    listed = json.loads(run("ledger", "list", "--json").out)
    assert not [each for each in listed if each["outcome"] == "started"]
    assert not list(Path("images").glob(".azaion*"))


@thorough
def test_an_admin_api_that_never_answers_does_not_keep_a_fleet_that_was_stopped(run: Run) -> None:
    assert run("base", "--out", "base.img").code == 0
    Path("imagebuild.toml").write_text("[admin_api]\nread_timeout = 1\n")
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        argv = ("AZJN-0001..AZJN-0009", "--image", "base.img", "--out", "images", "--jobs", "2")
        with tool_started("fleet", *argv, "--api-url", url, "--json") as fleet:
            while len(connections) < 2:
                assert fleet.poll() is None
                time.sleep(0.01)
            fleet.send_signal(signal.SIGTERM)
            out, err = fleet.communicate(timeout=60)
    for each in connections:
        each.close()
    assert (fleet.returncode, json.loads(out)["outcome"]) == (130, "interrupted"), err
    assert len(connections) == 2  # not one more try


def test_a_list_that_pins_devices_to_ports_makes_images_of_them_too(run: Run) -> None:
    Path("list.csv").write_text("serial,usb_instance\nAZJN-0001,1-3\nAZJN-0002,\n")
    ran = run("fleet", "list.csv", "--out", "images", "--json")
    assert outcomes(ran) == {"AZJN-0001": "done", "AZJN-0002": "done"}


def test_a_scanner_that_sends_no_text_does_not_hold_up_the_labels_after_it() -> None:
    ours, terminal = pty.openpty()
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in a locale like en_US.UTF-8
    argv = ("fleet", "-", "--out", "images", "--json")
    with tool_started(*argv, stdin=terminal, env=environ) as fleet:
        os.close(terminal)
        os.write(ours, b"\xff\xfe\x80\n\x1b]0;x\x07\nAZJN-0002\n\x04")
        out, err = fleet.communicate(timeout=60)
    os.close(ours)
    made = [record["serial"] for record in json.loads(out)["records"]]
    assert (fleet.returncode, made) == (0, ["AZJN-0002"]), err
    assert "Traceback" not in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    "content",
    one_of(
        [
            b"AZJN-1..AZJN-" + b"1" * 5000,  # more digits than int() takes
            b"1" * 200_000,  # longer than a field of a CSV may be
            b"\xff\n" * 1_000_000,
            b"nonsense\n" * 1_000_000,
            b"\0" * 1_000_000,
        ]
    ),
)
@pytest.mark.parametrize("piped", one_of([False, True]))
def test_what_is_no_list_is_refused_in_a_few_words(
    run: Run, monkeypatch: pytest.MonkeyPatch, content: bytes, piped: bool
) -> None:
    Path("list").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    ran = run("fleet", "-" if piped else "list", "--out", "images")
    assert (ran.code, len(ran.err) < 40_000) == (2, True)
    assert ran.errors


@pytest.mark.parametrize("source", [A_SERIAL, f"{A_SERIAL}..{A_SERIAL}", ".", "/dev/zero"])
def test_what_cannot_be_a_list_s_name_is_refused(run: Run, source: str) -> None:
    assert run("fleet", source, "--out", "images").code == 2


def test_a_piped_list_may_begin_with_a_byte_order_mark(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_ = io.BytesIO(b"\xef\xbb\xbfserial,note\r\nAZJN-0001,x\r\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(list_))
    ran = run("fleet", "-", "--out", "images", "--plan", "--json")
    assert json.loads(ran.out)["todo"] == ["AZJN-0001"]


def test_a_fleet_whose_stdin_is_closed_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    ran = run("fleet", "-", "--out", "images")
    assert (ran.code, ran.errors) == (2, ["error: stdin is closed"])


def test_a_fleet_can_be_told_that_doing_a_device_again_is_meant(run: Run) -> None:
    Path("imagebuild.toml").write_text('[ledger]\nreprovision = "confirm"\n')
    assert run("fleet", "AZJN-0001").code == 0
    refused = run("fleet", "AZJN-0001", "--again")
    assert (refused.code, "add --yes" in refused.err) == (10, True)
    assert run("fleet", "AZJN-0001", "--again", "--yes").code == 0


def test_an_image_that_is_given_is_not_passed_over_by_a_fleet_that_flashes(run: Run) -> None:
    assert run("base", "--out", "base.img").code == 0
    ran = run("fleet", "AZJN-0001", "--image", "base.img")
    assert (ran.code, "add --out" in ran.err) == (2, True)


def test_a_plan_that_is_refused_prints_one_line_of_json(run: Run) -> None:
    Path("list.txt").write_text("AZJN-0001\nXYZ-0001\n")
    ran = run("fleet", "list.txt", "--out", "images", "--plan", "--json")
    assert (ran.code, ran.json["outcome"], ran.json["exit_code"]) == (3, "failed", 3)


def test_an_image_whose_identity_has_become_stale_does_not_stay(run: Run, plugin: Plugin) -> None:
    assert run("fleet", "AZJN-0001", "--out", "images").code == 0
    plugin("""
@hookimpl(tryfirst=True)
def verify_image(build):
    raise RuntimeError("after the account got a new password")
""")
    cli.run(["fleet", "AZJN-0001", "--out", "images", "--again"])
    assert not list(Path("images").iterdir())


def test_something_else_at_an_images_path_fails_that_device_only(run: Run) -> None:
    Path("images/AZJN-0001.img/mine").mkdir(parents=True)
    ran = run("fleet", "AZJN-0001..AZJN-0002", "--out", "images", "--json")
    assert outcomes(ran) == {"AZJN-0001": "failed", "AZJN-0002": "done"}
    assert "move away whatever is there" in ran.err
    assert len(Sandbox(Path("../state/azaion-imagebuild/sandbox")).accounts.list()) == 1


def process(**changes: str) -> str:
    """Return a process of this machine that has ended, with some words changed."""
    names = ("boot", "pid", "start", "space", "machine")
    words = dict(zip(names, this_process().split(" "), strict=True))
    return " ".join((words | {"pid": "999999999"} | changes).values())


@pytest.mark.parametrize(
    ("host", "changes", "alive"),
    [
        (this_host(), {}, False),
        ("its-name-before", {}, False),  # the host was renamed: its boot id was not
        (this_host(), {"space": "1"}, True),  # in a container, where that pid is another's
        (this_host(), {"boot": "b"}, False),  # the machine was restarted
        (this_host(), {"boot": "b", "machine": "m"}, True),  # a namesake of this machine
        ("another", {"boot": "b", "machine": "m"}, True),
        (this_host(), {"space": "?", "machine": "?"}, False),
    ],
)
def test_only_an_attempt_that_is_surely_dead_is_taken_for_dead(
    host: str, changes: dict[str, str], alive: bool
) -> None:
    assert is_alive(host, process(**changes)) is alive
    assert is_alive(host, this_process())
    assert not is_alive(this_host(), " ".join(process().split(" ")[:3]))  # as rows were once


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")
def test_of_two_containers_with_one_ledger_only_one_builds_a_serial(
    run: Run, plugin: Plugin
) -> None:
    assert run("base", "--out", "base.img").code == 0
    plugin("""
import time
from pathlib import Path

@hookimpl(tryfirst=True)
def provision_identity(build):
    Path("at-work").touch()
    while not Path("go").exists():
        time.sleep(0.01)
""")
    argv = ["fleet", "AZJN-0001", "--image", "base.img", "--json"]
    container = ["unshare", "--pid", "--fork", "--mount-proc", *TOOL, *argv, "--out", "theirs"]
    with subprocess.Popen(container, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        while not Path("at-work").exists():
            if first.poll() is not None:
                pytest.skip("no namespaces here")
            time.sleep(0.01)
        second = run(*argv, "--out", "ours")
        Path("go").touch()
        first.communicate(timeout=60)
    assert (first.returncode, second.code) == (0, 10)
    assert "has been building since" in second.err
    assert "ledger resolve --sandbox --reason … AZJN-0001 failed" in second.err


def test_an_attempt_that_goes_on_cannot_be_said_to_have_failed(run: Run, plugin: Plugin) -> None:
    assert run("base", "--out", "base.img").code == 0
    plugin("import time\n\n@hookimpl(tryfirst=True)\ndef provision_identity(build):\n"
           "    time.sleep(60)\n")  # fmt: skip
    resolve = ("ledger", "resolve", "--sandbox", "AZJN-0001", "failed", "--reason", "impatience")
    with tool_started("fleet", "AZJN-0001", "--image", "base.img", "--out", "images") as fleet:
        while "started" not in run("ledger", "list").out:
            assert fleet.poll() is None
        refused = run(*resolve)
        assert (refused.code, f"process {fleet.pid}" in refused.err) == (2, True)
        fleet.kill()
        fleet.communicate()
    assert run(*resolve).code == 0


def test_a_reason_may_be_any_bytes(run: Run) -> None:
    assert run("image", "--serial", "AZJN-0001", "--flash", "0").code == 0
    reason = os.fsdecode(b"looked \xff at it\x1b[2J") + "x" * 10_000
    resolve = ("ledger", "resolve", "--sandbox", "AZJN-0001", "failed", "--reason", reason)
    assert run(*resolve).code == 0
    assert run("ledger", "verify").code == 0


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2hunter2@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=u&password=hunter2hunter2",
        "postgresql://127.0.0.1:1/db?sslmode=disable&sslpassword=hunter2hunter2",
        "postgresql://u:p@hunter2hunter2@127.0.0.1:1/db",
        "postgresql://u:hunter2hunter2@127.0.0.1:port/db",
        "postgresql://u:p:hunter2hunter2/x@127.0.0.1/db",
        "u:hunter2hunter2@127.0.0.1",
        "mysql://u:hunter2hunter2@127.0.0.1/db",
        "sqlite://u:hunter2hunter2@127.0.0.1/db",
    ],
)
def test_the_ledger_s_password_is_in_no_message(run: Run, url: str) -> None:
    Path("imagebuild.toml").write_text(f"[ledger]\ndatabase = {json.dumps(url)}\n")
    ran = run("ledger", "list", "--json")
    assert ran.code == 9
    assert "hunter2" not in ran.out + ran.err


def test_a_password_on_the_command_line_is_refused(run: Run) -> None:
    for url in ("postgresql://u:hunter2@h/db", "postgresql://h/db?user=u&password=hunter2"):
        ran = run("ledger", "list", "--database", url)
        assert (ran.code, "every user" in ran.err, "hunter2" in ran.err) == (2, True, False)


def plant(kind: str, path: Path) -> None:
    """Put something in the place of the ledger, as another user might."""
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.touch()
        path.chmod(0o666)
    if kind == "open folder":
        path.unlink()
        path.parent.chmod(0o777)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "open file", "open folder"])
def test_a_ledger_that_was_planted_is_refused(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "srv/ledger.sqlite3"
    path.parent.mkdir()
    plant(kind, path)
    ran = run("image", "--serial", "AZJN-0001", "--database", f"sqlite:///{path}")
    assert ran.code == 9
    assert not Sandbox(Path("../state/azaion-imagebuild/sandbox")).accounts.list()


EVIL = "m\x1b]0;owned\x07.\x1b[2Jkovacs\u202e"


@pytest.mark.parametrize("bars", one_of([False, True]))
def test_a_name_in_the_ledger_does_not_command_the_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, bars: bool
) -> None:
    assert run("image", "--serial", "XYZ-0001", "--operator", EVIL).code == 0
    assert run("image", "--serial", "AZJN-0002", "--operator", EVIL).code == 0
    Path("imagebuild.toml").write_text('[ledger]\nreprovision = "refuse"\n')
    said = [run("ledger", "list"), run("ledger", "show", "XYZ-0001"),
            run("image", "--serial", "AZJN-0002")]  # fmt: skip
    assert all("kovacs" in ran.out + ran.err for ran in said)
    assert not any(mark in ran.out + ran.err for ran in said for mark in "\x1b\x07\u202e")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: bars)
    console = Console(stream)
    watcher = console.fleet(scans=False)
    failed = {"serial": "AZJN-0001", "lane": "job 1", "outcome": "failed", "error": EVIL}
    for event in (opened(["job 1"]), ended(failed), events.said(EVIL), closed()):
        watcher(event)
    assert "kovacs" in stream.getvalue()
    assert not any(mark in stream.getvalue() for mark in "\x07\u202e")


def test_a_folder_s_name_does_not_command_the_terminal(run: Run) -> None:
    Path("\x1b[2Jimages").mkdir(mode=0o755)
    ran = run("fleet", "AZJN-0001", "--out", "\x1b[2Jimages")
    assert (ran.code, "\x1b" in ran.err) == (0, False)


def test_a_report_that_cannot_be_written_is_found_before_an_account_is_touched(run: Run) -> None:
    Path("file").touch()
    ran = run("fleet", "AZJN-0001", "--out", "images", "--report", "file/report", "--json")
    assert (ran.code, "name another folder with --report" in ran.err) == (2, True)
    assert not Path("images").exists()


def test_a_report_that_cannot_be_written_any_more_hides_nothing(run: Run, plugin: Plugin) -> None:
    plugin("""
import shutil
from pathlib import Path

@hookimpl
def post_flash(build):
    shutil.rmtree("report")
    Path("report").touch()
""")
    ran = run("fleet", "AZJN-0001", "--out", "images", "--report", "report", "--json")
    assert (ran.code, outcomes(ran), ran.json["report"]) == (0, {"AZJN-0001": "done"}, None)
    assert "cannot write the report" in ran.err


def a_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("precious")
    return path


@pytest.mark.parametrize(
    "planted", one_of(["notes/file", "1-3/file", "file", "1-3/Linux_for_Tegra"])
)
def test_what_is_no_lane_is_not_removed_as_one(run: Run, tmp_path: Path, planted: str) -> None:
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    sandbox.create(1.0)
    kept = a_file(sandbox.dir / "Linux_for_Tegra.lanes" / planted)
    if planted.endswith("Linux_for_Tegra"):  # a link to another BSP, whose images are its own
        kept = a_file(tmp_path / "other/bootloader/system.img")
        (sandbox.dir / "Linux_for_Tegra.lanes" / planted).unlink()
        (sandbox.dir / "Linux_for_Tegra.lanes" / planted).symlink_to(tmp_path / "other")
    assert run("image", "--serial", "AZJN-0001").code == 0
    ran = run("fleet", "AZJN-0002")
    assert (ran.code, "move away whatever is there" in ran.err) == (3, True)
    assert kept.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_nobody_may_look_into_is_refused(run: Run) -> None:
    Path("closed").mkdir(mode=0)
    ran = run("fleet", "AZJN-0001", "--out", "closed/images")
    assert (ran.code, "cannot write into" in ran.err) == (2, True)


def test_an_interrupt_after_the_last_device_hides_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree = shutil.rmtree

    def interrupted(path: Path, ignore_errors: bool = False) -> None:
        rmtree(path, ignore_errors)
        if not ignore_errors and path.name == ".azaion-fleet":
            raise KeyboardInterrupt

    monkeypatch.setattr("azaion_imagebuild.fleet.destinations.shutil.rmtree", interrupted)
    ran = run("fleet", "AZJN-0001", "--out", "images", "--json")
    assert outcomes(ran) == {"AZJN-0001": "done"}
    assert Path(ran.json["report"]).is_file()


def test_an_interrupt_at_any_other_moment_is_one_line_of_json(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("azaion_imagebuild.identity.serial_list._lines", interrupted)
    ran = run("fleet", "AZJN-0001", "--out", "images", "--json")
    assert (ran.code, ran.json["outcome"], ran.json["exit_code"]) == (130, "interrupted", 130)
