"""Scanned labels: each is answered at once, and what the answers say is so."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from terminal import at_a_terminal
from thorough import thorough
from world import TOOL, Run

from azaion_imagebuild.errors import PreflightError
from azaion_imagebuild.fleet.plan import Plan
from azaion_imagebuild.fleet.scan_feed import ScanFeed
from azaion_imagebuild.fleet.scans import Answer, Scans, accepted
from azaion_imagebuild.identity.serial_list import Listed
from azaion_imagebuild.pipeline.events import Event

PAUSE = """
import time
from pathlib import Path
from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import FlashError

@hookimpl(tryfirst=True)
def verify_image(build):
    while Path("hold").exists():
        time.sleep(0.01)
    if Path("fail-" + build.serial).exists():
        raise FlashError("the cable is loose", hint="plug it in again")
"""


@pytest.fixture
def held(run: Run) -> Path:
    """Devices wait in their lanes as long as this file is there."""
    Path("line").mkdir()
    Path("line/line.py").write_text(PAUSE)
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["line"]\n')
    assert run("base").code == 0
    return Path("hold")


def scans(lane: str | None = "1-3", told: list[Event] | None = None) -> Scans:
    def take(each: Listed) -> Answer:
        return accepted(each.serial, lane)

    return Scans(take, (told if told is not None else []).append)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", " \t"])
def test_a_label_is_known_again_whatever_ends_its_line(end: str) -> None:
    told: list[Event] = []
    asked = scans(told=told)
    first, second = asked.scan(f"AZJN-0903{end}"), asked.scan(f"AZJN-0903{end}")
    assert (first.kind, first.lane, first.scan) == ("accepted", "1-3", "AZJN-0903")
    assert first.message == "AZJN-0903 accepted for USB 1-3"
    assert (second.kind, second.serial) == ("double", "AZJN-0903")
    assert second.message == "AZJN-0903 is being made (scanned 0 s ago)"
    assert [(each.name, each.fields["answer"]) for each in told] == [
        ("scanned", "accepted"),
        ("scanned", "double"),
    ]


def test_a_double_scan_says_what_the_first_one_has_become() -> None:
    asked = scans(lane=None)
    assert asked.scan("AZJN-0903").message == "AZJN-0903 accepted; waiting for a free lane"
    assert "is waiting for a free lane (scanned" in asked.scan("AZJN-0903").message
    asked.begun("AZJN-0903")
    assert "is being made (scanned" in asked.scan("AZJN-0903").message
    asked.ended("AZJN-0903", done=True)
    assert "is done already (scanned" in asked.scan("AZJN-0903").message


def test_the_label_of_a_failed_device_is_accepted_again() -> None:
    asked = scans()
    asked.scan("AZJN-0903")
    asked.ended("AZJN-0903", done=False)
    assert asked.scan("AZJN-0903").kind == "accepted"


def test_a_slip_and_a_shared_account_are_refused_with_a_hint() -> None:
    asked = scans()
    slip = asked.scan("AZJN 0903")
    assert (slip.kind, slip.serial, slip.message) == (
        "refused", None, "'AZJN 0903' is not a serial",
    )  # fmt: skip
    asked.scan("AZJN-0903")
    shared = asked.scan("XYZ-0903")
    assert shared.message.endswith(
        "shares the account azaion-jetson-0903@azaion.com with AZJN-0903"
    )
    assert all(each.hint for each in asked.refused)
    assert [each.scan for each in asked.refused] == ["AZJN 0903", "XYZ-0903"]


def test_what_the_ledger_refuses_is_no_end_of_the_scans() -> None:
    def take(each: Listed) -> Answer:
        raise PreflightError(f"{each.serial} is retired", hint="take another device")

    told: list[Event] = []
    asked = Scans(take, told.append)
    assert asked.scan("AZJN-0001").kind == "refused"
    assert asked.scan("AZJN-0001").message == "AZJN-0001 is retired"


def test_a_scan_after_the_stop_is_not_promised_a_lane() -> None:
    def planned(listed: Sequence[Listed]) -> Plan:
        return Plan(serials=tuple(each.serial for each in listed), todo=tuple(listed))

    told: list[Event] = []
    feed = ScanFeed(planned, told.append)
    assert feed.scans.scan("AZJN-0001").kind == "waiting"
    feed.close()
    late = feed.scans.scan("AZJN-0002")
    assert (late.kind, late.hint) == ("refused", "start fleet - again, then scan the label")
    assert list(feed.plans) == ["AZJN-0001"]


def test_a_pipe_of_nonsense_ends_but_a_person_may_slip_for_ever() -> None:
    asked = scans()
    asked.scan_all([("nonsense", None)] * 500, attended=False)
    assert asked.count == 100
    asked.scan_all([("nonsense", None)] * 500, attended=True)
    assert asked.count == 600


def test_a_pipe_is_answered_line_by_line_as_a_terminal_is(held: Path) -> None:
    argv = [*TOOL, "fleet", "-", "--out", "images", "--jobs", "1", "--json"]
    held.touch()
    fleet = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert fleet.stdin is not None
    assert fleet.stderr is not None

    def scan(line: str, answer: str) -> None:
        assert fleet.stdin is not None
        assert fleet.stderr is not None
        fleet.stdin.write(line)
        fleet.stdin.flush()
        for said in fleet.stderr:
            if re.search(answer, said):
                return
        pytest.fail(f"no {answer} to {line}")

    scan("AZJN-0001\n", "^AZJN-0001 accepted for job 1$")
    scan("AZJN-0002  # the next one\r\n", "^AZJN-0002 accepted; waiting for a free lane$")
    scan("AZJN-0001\n", r"^AZJN-0001 is being made \(scanned [0-9] s ago\)$")
    scan("AZJN-0002\n", r"^AZJN-0002 is waiting for a free lane \(scanned")
    scan("bogus\n", "^error: 'bogus' is not a serial$")
    held.unlink()
    out, err = fleet.communicate(timeout=90)
    found = json.loads(out)
    assert {each["serial"]: each["outcome"] for each in found["records"]} == {
        "AZJN-0001": "done",
        "AZJN-0002": "done",
    }
    assert (found["failed"], [each["scan"] for each in found["refused"]]) == (0, ["bogus"])
    assert (fleet.returncode, found["outcome"]) == (10, "incomplete")  # of the list one is missing
    assert "2 of 2 are done, 1 scan refused" in err


@thorough
def test_a_pipe_may_be_a_csv_that_pins_devices_to_ports(run: Run) -> None:
    lines = "serial,usb_instance\nAZJN-0001,0-2\nAZJN-0002,0-7\nAZJN-0003,0-2\n"
    argv = [*TOOL, "fleet", "-", "--jobs", "2", "--json"]
    done = subprocess.run(argv, input=lines, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    at = {each["serial"]: each["usb_instance"] for each in found["records"]}
    assert at == {"AZJN-0001": "0-2", "AZJN-0003": "0-2"}
    assert "AZJN-0001 accepted for USB 0-2" in done.stderr
    assert "AZJN-0002 is for the USB instance '0-7', which has no lane" in done.stderr


def test_an_empty_pipe_is_an_empty_list(run: Run) -> None:
    argv = [*TOOL, "fleet", "-", "--out", "images"]
    done = subprocess.run(argv, input="\n#\n", capture_output=True, text=True, check=False)
    assert (done.returncode, "error: stdin lists no serials" in done.stderr) == (2, True)


def test_an_operator_at_a_terminal_is_answered_told_and_rung(held: Path) -> None:
    Path("fail-AZJN-0902").touch()
    with at_a_terminal("fleet", "-", "--out", "images", "--jobs", "1") as bench:
        bench.until("ready: scan a label")
        bench.type("AZJN-0901\n")
        bench.until("PASS  AZJN-0901")
        bench.until("ready for the next label")
        bench.type("AZJN-0902\n")
        bench.until("FAIL  AZJN-0902  job 1  verify_image: the cable is loose")
        bench.until("hint: plug it in again")
        bench.type("AZJN-0901\n")
        bench.until("AZJN-0901 is done already")
        bench.type("AZJN_0903\n")
        bench.until("'AZJN_0903' is not a serial")
        bench.read(0.3)
        assert bench.raw.count("\a") == 4
        bench.type("\x04")
        assert bench.ends() == 10
    assert "1 of 2 is done, 1 failed, 1 scan refused" in bench.text
    assert "Next: follow the hints, then scan the label of the one that is not done" in bench.text


@thorough
def test_no_bell_is_rung_without_a_terminal_or_with_no_bell(held: Path) -> None:
    argv = ("fleet", "-", "--out", "images", "--no-bell")
    with at_a_terminal(*argv) as bench:
        bench.until("ready: scan a label")
        bench.type("AZJN-0901\n")
        bench.until("PASS  AZJN-0901")
        bench.type("\x04")
        assert bench.ends() == 0
    assert "\a" not in bench.raw
    piped = subprocess.run([*TOOL, "fleet", "-", "--out", "images"], input="AZJN-0902\n",
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert "\a" not in piped.stderr


def test_a_scan_is_an_event_for_a_program(held: Path) -> None:
    argv = [*TOOL, "fleet", "-", "--out", "images", "--log-format", "json"]
    done = subprocess.run(argv, input="AZJN-0001\nx\n", capture_output=True, text=True, check=False)
    told: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    first, second = [each for each in told if each["event"] == "scanned"]
    assert (first["answer"], first["serial"], first["lane"]) == ("accepted", "AZJN-0001", "job 1")
    assert (second["answer"], second["scan"], second["level"]) == ("refused", "x", "error")
