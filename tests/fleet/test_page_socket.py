"""The page's socket: it shows a run and takes scans, and can neither stop nor slow it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from page_clients import HELD, client_of, connect, end, fleet, pages
from thorough import thorough
from world import Run, tool_started

from azaion_imagebuild.fleet import events
from azaion_imagebuild.fleet.page_socket import MOST_CLIENTS
from azaion_imagebuild.fleet.scans import Answer, accepted
from azaion_imagebuild.ledger import Entry, Ledger
from azaion_imagebuild.pipeline.events import Event, said, started


@pytest.fixture
def line(run: Run) -> None:
    """A site whose devices wait in the flash as long as ``hold`` is there."""
    Path("line").mkdir()
    Path("line/line.py").write_text(HELD)
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["line"]\n[build]\nstate_dir = "state"\n')
    assert run("base").code == 0


def device(lane: str, serial: str, outcome: str = "done") -> Event:
    record = {"serial": serial, "outcome": outcome, "lane": lane, "seconds": 1.0, "flashed": True,
              "device": "APX", "error": "loose", "hint": "plug it in", "step": "flash"}  # fmt: skip
    return events.ended(record)


def of_lane(event: Event, lane: str, serial: str) -> Event:
    return event.with_fields({"lane": lane, "serial": serial})


def test_a_client_hears_what_is_and_what_happens(tmp_path: Path) -> None:
    with pages(tmp_path) as (shown, path):
        shown(events.opened(["1-1", "1-2"]))
        shown(events.assigned("1-1", "AZJN-0001"))
        shown(of_lane(started("build_image"), "1-1", "AZJN-0001"))
        with client_of(path) as client:
            hello = client.until("hello")
            assert (hello["run"], hello["sandbox"]) == ("fleet", True)
            assert client.until("opened")["lanes"] == ["1-1", "1-2"]
            assert client.until("assigned")["serial"] == "AZJN-0001"
            assert client.until("started")["step"] == "build_image"
            assert client.until("day")["last"] == []
            shown(device("1-1", "AZJN-0001", "failed"))
            ended = client.until("device")
            assert (ended["error"], ended["hint"]) == ("loose", "plug it in")
            day = client.until("day")
            assert (day["passed"], day["failed"], day["yield"]) == (0, 1, 0.0)
            shown(device("1-1", "AZJN-0001"))
            day = client.until("day", passed=1)
            assert (day["failed"], day["yield"], day["hour"]) == (0, 1.0, 1)  # a device counts once
    assert not path.exists()


def test_no_device_waits_while_the_day_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def unknown(ledger: Ledger, *, sandbox: bool) -> list[Entry]:
        reading.set()
        assert go_on.wait(60)
        return []

    monkeypatch.setattr(Ledger, "unknown", unknown)
    with pages(tmp_path) as (shown, path), client_of(path) as client:
        assert reading.wait(60)
        shown(device("1-1", "AZJN-0001"))  # else it would wait for ever
        go_on.set()
        assert client.until("day", passed=1)["last"][0]["serial"] == "AZJN-0001"


def test_of_the_steps_that_passed_meanwhile_only_the_last_is_sent(tmp_path: Path) -> None:
    with pages(tmp_path) as (shown, path), client_of(path) as client:
        client.until("day")
        for number in range(1000):
            shown(of_lane(started(f"step {number}"), "1-1", "AZJN-0001"))
        client.until("started", step="step 999")
        assert sum(each["event"] == "started" for each in client.events) < 100


def test_a_label_is_answered_by_whoever_answers_the_scanner(tmp_path: Path) -> None:
    asked: list[str] = []

    def scan(text: str) -> Answer:
        asked.append(text)
        return accepted(text, "1-3")

    with pages(tmp_path) as (shown, path), client_of(path) as client:
        answer = client.scan("AZJN-0001")
        assert (answer["answer"], answer["message"]) == ("refused", "labels are not accepted yet")
        shown.scan = scan
        assert client.scan("AZJN-0001")["message"] == "AZJN-0001 accepted for USB 1-3"
    assert asked == ["AZJN-0001"]


@pytest.mark.parametrize("line", [b"x" * 5000 + b"\n", b"[]\n", b'{"scan": 1}\n', b"\xff\n", b"{"])
def test_a_client_that_talks_nonsense_is_dropped(tmp_path: Path, line: bytes) -> None:
    with pages(tmp_path) as (_, path), client_of(path) as client, client_of(path) as other:
        client.send(line)
        client.socket.shutdown(socket.SHUT_WR)
        client.ends()
        assert other.scan("AZJN-0001")["event"] == "answer"


@thorough
def test_a_client_that_does_not_read_is_dropped_and_no_build_waits(tmp_path: Path) -> None:
    with pages(tmp_path) as (shown, path), client_of(path) as slow, client_of(path) as other:
        slow.until("day")
        other.until("day")
        longest = 0.0
        for number in range(4000):
            began = time.monotonic()
            shown(said("x" * 1000, "warning", number=number))
            longest = max(longest, time.monotonic() - began)
            if number % 100 == 0:
                other.until("said", number=number)
        other.until("said", number=3999)
        slow.ends()
        assert len(slow.raw) < 3_000_000
        assert longest < 2.0  # it waits for nobody; the machine may be busy


def test_more_clients_than_there_are_pages_are_refused(tmp_path: Path) -> None:
    with pages(tmp_path) as (_, path), ExitStack() as held:
        clients = [held.enter_context(client_of(path)) for _ in range(MOST_CLIENTS)]
        for client in clients:
            client.until("hello")
        held.enter_context(client_of(path)).ends()
        assert clients[0].scan("x")["event"] == "answer"


def test_only_its_user_can_open_the_socket(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with pages(tmp_path) as (_, path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_is_refused_unless_a_group_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    def status(path: Path) -> str:
        script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        folder = os.open(path.parent, os.O_PATH)
        short = f"/proc/self/fd/{folder}/{path.name}"
        tried = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
             "/usr/bin/python3", "-c", script, short],
            pass_fds=[folder], capture_output=True, text=True, check=False,
        )  # fmt: skip
        os.close(folder)
        return tried.stderr.strip().rpartition("\n")[2]

    with pages(tmp_path) as (_, path):
        assert "PermissionError" in status(path)
    path.parent.joinpath("page.sock.lock").unlink()
    path.parent.rmdir()
    with pages(tmp_path, page_group="nogroup") as (_, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert status(path) == ""


def test_a_second_run_is_told_that_it_has_no_page(tmp_path: Path) -> None:
    told: list[Event] = []
    with pages(tmp_path), pages(tmp_path, told):
        (warning,) = told
    assert warning.name == "warning"
    assert "no page can be served: another run has" in warning.message


def test_a_group_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    told: list[Event] = []
    with pages(tmp_path, told, page_group="no-such-group"):
        pass
    assert "this host has no group 'no-such-group'" in told[0].message


def test_what_a_killed_run_left_does_not_stop_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "page" / "page.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        folder = os.open(path.parent, os.O_PATH)
        left.bind(f"/proc/self/fd/{folder}/page.sock")
        os.close(folder)
    with socket.socket(socket.AF_UNIX) as ours, pytest.raises(ConnectionRefusedError):
        connect(ours, path)
    with pages(tmp_path) as (_, path), client_of(path) as client:
        client.until("hello")


def test_a_page_and_a_scanner_feed_one_fleet_and_no_secret_leaves_it(line: None) -> None:
    Path("fail-AZJN-0002").touch()
    with fleet() as (run, page):
        page.until("opened")
        assert page.scan("AZJN-0001")["answer"] in ("accepted", "waiting")
        assert run.stdin is not None
        run.stdin.write("AZJN-0002\n")
        run.stdin.flush()
        assert page.until("scanned", serial="AZJN-0002")["answer"] in ("accepted", "waiting")
        page.until("device", serial="AZJN-0002", outcome="failed", error="the cable is loose")
        answer = page.scan("<b>x")
        assert (answer["answer"], answer["message"]) == ("refused", "'<b>x' is not a serial")
        assert "is being made" in (again := page.scan("AZJN-0001")["message"]) or (
            "is done already" in again
        )
        page.until("day", passed=1, failed=1)
        found = end(run)
        page.ends()
    assert {each["serial"]: each["outcome"] for each in found["records"]} == {
        "AZJN-0001": "done", "AZJN-0002": "failed",
    }  # fmt: skip
    passwords = Path("passwords").read_text().split()
    assert len(passwords) == 2
    assert not any(each.encode() in page.raw for each in passwords)


@thorough
def test_a_device_that_was_being_flashed_at_a_kill_is_unknown_to_the_next_run(line: None) -> None:
    Path("hold").touch()
    with fleet() as (run, page):
        page.until("opened")
        page.scan("AZJN-0001")
        page.until("started", step="flash")
        run.kill()
        run.communicate()
        page.ends()
    Path("hold").unlink()
    with fleet() as (run, page):
        day = page.until("day")
        assert [each["serial"] for each in day["not_done"]] == ["AZJN-0001"]
        assert (day["unknown"], day["passed"]) == (1, 0)
        answer = page.scan("AZJN-0001")
        while "is starting" in answer["hint"]:
            answer = page.scan("AZJN-0001")
        assert "what it holds is unknown" in answer["message"]
        end(run)


def test_a_fleet_whose_input_has_ended_takes_no_label_from_a_page(line: None) -> None:
    Path("hold").touch()
    with fleet() as (run, page):
        page.until("opened")
        page.scan("AZJN-0001")
        page.until("started", step="flash")
        assert run.stdin is not None
        run.stdin.close()
        run.stdin = None
        taken = ["AZJN-0001"]
        for number in range(2, 500):
            answer = page.scan(f"AZJN-{number:04}")
            if answer["message"] == "this run takes no more devices":
                break
            taken.append(f"AZJN-{number:04}")
        assert answer["answer"] == "refused"
        Path("hold").unlink()
        found = end(run)
    assert [each["serial"] for each in found["records"]] == taken
    assert {each["outcome"] for each in found["records"]} == {"done"}


@thorough
def test_a_list_is_shown_and_takes_no_label(line: None) -> None:
    Path("hold").touch()
    Path("list.txt").write_text("AZJN-0001\n")
    with (
        tool_started("fleet", "list.txt", "--json") as run,
        client_of(Path("state/page/page.sock")) as page,
    ):
        page.until("started", step="flash")
        assert "works off a list" in page.scan("AZJN-0002")["hint"]
        Path("hold").unlink()
        assert end(run)["done"] == 1
