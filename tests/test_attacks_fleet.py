"""What an attacker or an unlucky operator can do to a fleet, its lanes and its ledger.

Each test plays one attack on real parts: processes and signals, terminals, sockets, full disks.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from world import Ran, Run

from azaion_imagebuild import cli
from azaion_imagebuild.ledger import this_process
from azaion_imagebuild.ledger.entry import is_alive, this_host
from azaion_imagebuild.sandbox import Sandbox
from azaion_imagebuild.stamping import copy_image

A_SERIAL = "AZJN-" + "9" * 300
TOOL = (sys.executable, "-m", "azaion_imagebuild")
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


@contextlib.contextmanager
def started(*argv: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        ["env", "--default-signal=INT,TERM,HUP", *TOOL, *argv],
        stdout=subprocess.PIPE,
        text=True,
        **{"stderr": subprocess.PIPE, **options},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def outcomes(ran: Ran) -> dict[str, str]:
    found: dict[str, Any] = json.loads(ran.out)
    return {record["serial"]: record["outcome"] for record in found["records"]}


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


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed_leaves_no_device_halfway(
    run: Run, plugin: Plugin, ignored: bool
) -> None:
    plugin(SLOW)
    ours, terminal = pty.openpty()
    argv = ("fleet", "AZJN-0001..AZJN-0012", "--out", "images", "--jobs", "2", "--json")
    with started(*argv, stderr=terminal) as fleet:
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
        with started("fleet", *argv, "--api-url", url, "--json") as fleet:
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
    with started(*argv, stdin=terminal, env=environ) as fleet:
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
    [
        b"AZJN-1..AZJN-" + b"1" * 5000,  # more digits than int() takes
        b"1" * 200_000,  # longer than a field of a CSV may be
        b"\xff\n" * 1_000_000,
        b"nonsense\n" * 1_000_000,
        b"\0" * 1_000_000,
    ],
)
@pytest.mark.parametrize("piped", [False, True])
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


def test_what_stands_in_an_image_s_place_and_is_none_costs_that_device_only(run: Run) -> None:
    Path("images/AZJN-0001.img/mine").mkdir(parents=True)
    ran = run("fleet", "AZJN-0001..AZJN-0002", "--out", "images", "--json")
    assert outcomes(ran) == {"AZJN-0001": "failed", "AZJN-0002": "done"}
    assert "move away what stands there" in ran.err
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
    assert "is being built since" in second.err
    assert "ledger resolve --sandbox --reason … AZJN-0001 failed" in second.err


def test_an_attempt_that_goes_on_cannot_be_said_to_have_failed(run: Run, plugin: Plugin) -> None:
    assert run("base", "--out", "base.img").code == 0
    plugin("import time\n\n@hookimpl(tryfirst=True)\ndef provision_identity(build):\n"
           "    time.sleep(60)\n")  # fmt: skip
    resolve = ("ledger", "resolve", "--sandbox", "AZJN-0001", "failed", "--reason", "impatience")
    with started("fleet", "AZJN-0001", "--image", "base.img", "--out", "images") as fleet:
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
