"""Stations: many processes, one PostgreSQL, and what happens when some of them die."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest
from msgspec import structs
from page_clients import client_of
from postgres import Postgres
from stations import ROOT, Factory, serials, until
from terminal import at_a_terminal
from thorough import one_of, thorough
from world import Run

from azaion_imagebuild.errors import LedgerError, PreflightError
from azaion_imagebuild.ledger import Entry, Ledger, this_process
from azaion_imagebuild.ledger.entry import now
from azaion_imagebuild.ledger.process_id import this_host
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.settings import LedgerSettings
from azaion_imagebuild.stations import tables
from azaion_imagebuild.stations.claim import Claim, Lost
from azaion_imagebuild.stations.jobs import Job, put
from azaion_imagebuild.stations.roster import Station, stations
from azaion_imagebuild.stations.takeover import MOST_LOST, sign_on_alone, take_over

ONE = "AZJN-0001"
PASSWORD = "word-of-the-database"


@pytest.fixture
def factory(postgres: Postgres, api_url: str, base: Path) -> Iterator[Factory]:
    postgres.empty()
    url = postgres.url.replace("azaion@", f"azaion:{PASSWORD}@")
    factory = Factory(url=url, api_url=api_url, base=base).build()
    with factory.ledger:
        yield factory


def board(run: Run) -> Any:
    return run("station", "status", "--json").json


# --- the queue


def test_a_list_is_queued_once(run: Run, factory: Factory) -> None:
    first = run("submit", "AZJN-0001..AZJN-0003", "--json")
    assert (first.code, first.json["queued"]) == (0, serials(3))
    Path("list.txt").write_text("AZJN-0002\nAZJN-0004\n")
    again = run("submit", "list.txt", "--station", "S1", "--json").json
    assert again["queued"] == ["AZJN-0004"]
    assert again["queued_before"] == {"AZJN-0002": "waits"}
    shown = {each["queue"]: each for each in board(run)["queues"]}
    assert shown["devices"]["waiting"] == 3
    assert (shown["devices@S1"]["station"], shown["devices@S1"]["served_by"]) == ("S1", [])
    assert "served by NOBODY" in run("station", "status").out


def test_what_is_done_unknown_or_another_devices_is_not_queued(run: Run, factory: Factory) -> None:
    with Ledger(factory.url) as ledger:
        ledger.write(entry("AZJN-0001", outcome="done"))
        ledger.write(entry("AZJN-0002", outcome="unknown", step="flash", error="jammed"))
        ledger.write(entry("XYZ-0003", outcome="done", account="created", flashed=True))
    ran = run("submit", "AZJN-0001..AZJN-0004", "--json")
    assert ran.code == 10
    found = ran.json
    assert found["queued"] == ["AZJN-0004"]
    assert (found["done_before"], found["unknown"]) == (["AZJN-0001"], {"AZJN-0002": "jammed"})
    assert "belongs to XYZ-0003" in found["refused"][0]["error"]
    again = run("submit", "AZJN-0001..AZJN-0002", "--again", "--json")
    assert again.json["queued"] == serials(2)


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["submit", ONE], "no database is set"),
        (["submit", ONE, "--database", "sqlite:///ledger.sqlite3"], "is not in PostgreSQL"),
        (["station", "--name", "S1", "--database", "sqlite://"], "is not in PostgreSQL"),
        (["station", "--jobs", "2"], "the station has no name"),
        (["station", "--name", "S 1"], "invalid station name"),
        (["station", "--name", "S1", "--jobs", "0"], "--jobs is less than 1"),
        (["station", "status"], "no database is set"),
        (["station", "reassign"], "give either the name of a station or --dead"),
        (["submit", ONE, "--station", "S@1"], "invalid station name"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    run: Run, argv: list[str], error: str
) -> None:
    ran = run(*argv)
    assert (ran.code, error in ran.err) == (2, True), ran.err


def test_without_the_extra_it_says_what_to_install(
    run: Run, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    ran = run("submit", ONE)
    assert (ran.code, "azaion-imagebuild[station]" in ran.err) == (2, True)


def test_two_serials_of_one_account_queue_nothing(run: Run, factory: Factory) -> None:
    Path("list.txt").write_text("AZJN-0001\nXYZ-0001\n")
    ran = run("submit", "list.txt")
    assert (ran.code, "share the account" in ran.err) == (3, True)
    assert board(run)["queues"] == []


def test_a_look_makes_no_table(run: Run, factory: Factory, postgres: Postgres) -> None:
    assert "nothing is queued" in run("station", "status").out
    assert run("station", "reassign", "--dead").code == 0
    assert "station" not in postgres.psql("SELECT relname FROM pg_class WHERE relkind = 'r'")


def test_a_database_that_is_not_there_is_said(
    run: Run, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = "postgresql://nobody:secretword@127.0.0.1:1/x"
    monkeypatch.setenv("AZAION_IMAGEBUILD_DATABASE", gone)
    station = ["station", "--name", "S1", "--image", factory.base]
    for argv in (["submit", ONE], ["station", "status"], station):
        ran = run(*argv)
        assert ran.code == 9
        assert "secretword" not in ran.err


# --- stations


def test_stations_make_what_is_queued_and_end_when_told(run: Run, factory: Factory) -> None:
    run("submit", "AZJN-0001..AZJN-0004")
    run("submit", "AZJN-0005..AZJN-0006", "--station", "S2")
    with factory.station("S1") as one, factory.station("S2") as two:
        until(lambda: len(factory.attempts()) == 6 and factory.is_idle(), "six devices")
        (line,) = (line for line in run("station", "status").out.splitlines() if "S1" in line)
        assert "alive" in line
        told = [factory.stop(one), factory.stop(two)]
    assert [each["outcome"] for each in told] == ["stopped", "stopped"]
    assert told[0]["done"] + told[1]["done"] == 6
    assert {
        entry.station for entry in factory.attempts().values() if entry.serial > "AZJN-0004"
    } == {"S2"}
    assert factory.flashed() == dict.fromkeys(serials(6), 1)
    assert not any(board(run).values())
    assert run("submit", "AZJN-0001..AZJN-0006", "--json").json["done_before"] == serials(6)


@thorough
def test_a_station_without_flashing_writes_images(run: Run, factory: Factory) -> None:
    run("submit", "AZJN-0001..AZJN-0002")
    with factory.station("S1", "--out", "images") as station:
        until(lambda: factory.outcomes()["done"] == 2, "two images")
        factory.stop(station)
    assert [path.name for path in sorted(Path("images").iterdir())] == [
        "AZJN-0001.img",
        "AZJN-0002.img",
    ]
    assert run("verify", "images/AZJN-0001.img", "--serial", ONE).code == 0


def test_a_label_scanned_at_a_station_is_answered_and_made_before_the_queue(
    run: Run, factory: Factory
) -> None:
    with Ledger(factory.url) as ledger:
        ledger.write(entry("AZJN-0008", outcome="done"))
        ledger.write(entry("AZJN-0009", outcome="unknown", step="flash", error="jammed"))
    factory.hold("flash")
    with factory.station("S1", lanes=1, stdin=subprocess.PIPE) as station:
        assert station.stdin is not None

        def scan(line: str, answer: str) -> None:
            assert station.stdin is not None
            station.stdin.write(f"{line}\n")
            station.stdin.flush()
            until(lambda: re.search(answer, factory.log("S1"), re.MULTILINE), answer)

        station.stdin.write("serial,usb_instance\n")
        scan("AZJN-0001", "^AZJN-0001 accepted for lane 1$")
        until(lambda: factory.flashed(), "the flash")
        run("submit", "AZJN-0011..AZJN-0013")
        scan("AZJN-0002", "^AZJN-0002 accepted; waiting for a free lane$")
        scan("AZJN-0001", r"^AZJN-0001 is being made \(scanned [0-9]+ s ago\)$")
        scan("AZJN-0011", "^AZJN-0011 is queued already: waits$")
        scan("AZJN-0008", "^AZJN-0008 is done already$")
        scan("AZJN-0009", "^error: AZJN-0009 is unknown: jammed$")
        assert "station resolve --reason … AZJN-0009 done (or failed)" in factory.log("S1")
        scan("AZJN", "^error: 'AZJN' is not a serial$")
        scan("AZJN-0003,1-7", "^error: AZJN-0003 is for the USB instance '1-7', which has no lane$")
        assert "hint: the lanes are: lane 1; " in factory.log("S1")
        factory.go_on("flash")
        until(lambda: factory.outcomes()["done"] == 6, "five devices and the one before")
        assert factory.stop(station)["done"] == 5
    made = [line.split()[0] for line in factory.noted("flashed")]
    assert made[:2] == ["AZJN-0001", "AZJN-0002"]
    assert "PASS  AZJN-0002  lane 1" in factory.log("S1")


@thorough
def test_a_page_feeds_a_station_and_is_told_the_truth_after_a_kill(factory: Factory) -> None:
    factory.build(dead_after=10.0, page_socket='"page/page.sock"')
    factory.hold("flash")
    with factory.station("S1", lanes=1) as station, client_of(Path("page/page.sock")) as page:
        page.until("opened")
        until(lambda: "starting" not in page.scan("AZJN")["hint"], "a station that takes labels")
        assert page.scan(ONE)["message"] == "AZJN-0001 accepted for lane 1"
        page.until("started", step="flash", serial=ONE)
        factory.kill(station)
        page.ends()
    factory.go_on("flash")
    with factory.station("S1", lanes=1) as station, client_of(Path("page/page.sock")) as page:
        assert page.until("hello")["station"] == "S1"
        day = page.until("day")
        assert (day["unknown"], [each["serial"] for each in day["not_done"]]) == (1, [ONE])
        until(lambda: "starting" not in page.scan("AZJN")["hint"], "a station that takes labels")
        assert "AZJN-0001 is unknown" in page.scan(ONE)["message"]
        assert page.scan("AZJN-0002")["answer"] in ("accepted", "waiting")
        page.until("device", serial="AZJN-0002", outcome="done")
        page.until("day", passed=1, unknown=1)
        assert factory.stop(station)["done"] == 1
        page.ends()
    assert not any(each.encode() in page.raw for each in factory.noted("passwords"))


@thorough
def test_a_station_at_a_terminal_shows_its_lanes_and_leaves_nothing_behind(
    run: Run, factory: Factory
) -> None:
    argv = ("station", "--name", "S1", "--jobs", "2", "--image", str(factory.base))
    with at_a_terminal(*argv, PYTHONPATH=str(ROOT)) as bench:
        bench.until("ready: scan a label; end with Ctrl-C")
        bench.until("label: ")
        bench.read(1.0)
        assert bench.lines[-3:] == ["lane 1  free", "lane 2  free", "label:"]
        assert bench.read(2.5) == ""
        bench.type("AZJN-0001\nAZJN-00")
        bench.until("AZJN-0001 accepted for lane 1")
        bench.until("PASS  AZJN-0001  lane 1")
        bench.until("ready for the next label")
        assert bench.lines[-1] == "label: AZJN-00"
        bench.type("\x03")
        assert bench.ends() == 0
        assert bench.shows_echo
    assert not [line for line in bench.lines if line.startswith(("lane ", "label:"))]


@thorough
def test_a_station_asks_for_no_label_while_one_waits(run: Run, factory: Factory) -> None:
    factory.hold("flash")
    argv = ("station", "--name", "S1", "--jobs", "1", "--image", str(factory.base))
    with at_a_terminal(*argv, PYTHONPATH=str(ROOT)) as bench:
        bench.until("label: ")
        bench.type("AZJN-0001\nAZJN-0002\n")
        bench.until("AZJN-0002 accepted; waiting for a free lane")
        factory.go_on("flash")
        bench.until("PASS  AZJN-0002")
        bench.until("ready for the next label", after=bench.text.index("PASS  AZJN-0002"))
        assert bench.text.count("ready for the next label") == 1


@thorough
def test_a_station_keeps_each_credential_in_its_escrow(
    run: Run, factory: Factory, accounts: Accounts
) -> None:
    key = pyrage.x25519.Identity.generate()
    with Path("imagebuild.toml").open("a") as settings:
        settings.write(f'[escrow]\nrecipients = ["{key.to_public()}"]\ndir = "escrow"\n')
    run("submit", "AZJN-0001..AZJN-0003")
    with factory.station("S1") as station:
        until(lambda: factory.outcomes()["done"] == 3, "three devices")
        factory.stop(station)
    for serial, row in factory.attempts().items():
        (path,) = Path("escrow", serial).iterdir()
        assert path.name == f"{row.attempt}.age"
        conf = (factory.line / f"{serial}.conf").read_bytes().rstrip(b"\n")
        assert pyrage.decrypt(path.read_bytes(), [key]).rstrip(b"\n") == conf
        assert factory.opens_its_account(accounts, serial)


@thorough
def test_three_stations_one_killed_the_database_restarted(
    run: Run, factory: Factory, postgres: Postgres, accounts: Accounts
) -> None:
    factory.build(dead_after=10.0)
    count = 30
    run("submit", f"AZJN-0001..AZJN-{count:04}")
    with contextlib.ExitStack() as working:
        one, two, three = (
            working.enter_context(factory.station(name, "--debug")) for name in ("S1", "S2", "S3")
        )
        until(lambda: len(factory.flashed()) > 5, "the first devices")
        until(lambda: len(factory.status()["stations"]) == 3, "all to have signed on")
        factory.hold("flash")
        until(lambda: is_flashing(factory, "S2"), "S2 to flash")
        factory.kill(two)
        postgres.restart()
        factory.go_on("flash")
        until(lambda: sum(factory.flashed().values()) > 15, "devices after the restart")
        until(lambda: sum(ended(factory)) == count and factory.is_idle(), "every device")
        told = [factory.stop(one), factory.stop(three)]
    assert set(factory.flashed().values()) == {1}
    rows = factory.attempts()
    done = [serial for serial in rows if rows[serial].outcome == "done"]
    assert all(factory.opens_its_account(accounts, serial) for serial in done)
    unknown = [row for row in rows.values() if row.outcome == "unknown"]
    assert unknown
    assert all("S2 was lost during flash" in (row.error or "") for row in unknown)
    shown = {each["serial"]: each["outcome"] for each in board(run)["undone"]}
    assert shown == {row.serial: "unknown" for row in unknown}
    assert sum(each["done"] for each in told) + len(unknown) <= count
    dump = postgres.dump()
    passwords = factory.noted("passwords")
    assert len(passwords) >= count
    told_all = dump + factory.log("S1") + factory.log("S3")
    assert not any(password in told_all for password in (*passwords, PASSWORD))


def is_flashing(factory: Factory, station: str) -> bool:
    return any(
        (row.station, row.step, row.outcome) == (station, "flash", "started")
        for row in factory.attempts().values()
    )


def ended(factory: Factory) -> tuple[int, int]:
    found = factory.outcomes()
    return found["done"], found["unknown"]


@thorough
def test_a_frozen_flash_is_unknown_and_its_end_is_not_believed(run: Run, factory: Factory) -> None:
    factory.build(dead_after=2.0)
    factory.hold("flash")
    run("submit", ONE)
    with factory.station("S1") as frozen:
        until(lambda: factory.flashed()[ONE], "a flash")
        frozen.send_signal(signal.SIGSTOP)
        with factory.station("S2") as other:
            until(lambda: factory.outcomes()["unknown"], "S2 to take over")
            factory.go_on("flash")
            frozen.send_signal(signal.SIGCONT)
            until(lambda: "registers again" in factory.log("S1"), "S1 to notice")
            run("submit", "AZJN-0002..AZJN-0005")
            until(lambda: factory.outcomes()["done"] == 4, "both to go on")
            told = factory.stop(frozen)
            factory.stop(other)
    assert (told["unknown"], factory.flashed()[ONE]) == (1, 1)
    row = factory.attempts()[ONE]
    assert (row.outcome, row.flashed) == ("unknown", False)
    assert "station S1 was declared dead" in (row.error or "")
    assert "flashed its device" in (row.error or "")
    assert list(run("submit", ONE, "--json").json["unknown"]) == [ONE]


@thorough
def test_a_frozen_station_cannot_spoil_what_another_has_made_since(
    run: Run, factory: Factory
) -> None:
    factory.build(dead_after=2.0)
    factory.hold("provision")
    run("submit", ONE)
    with factory.station("S1") as frozen:
        until(lambda: f"provision {ONE}" in factory.noted("reached"), "S1 to provision")
        frozen.send_signal(signal.SIGSTOP)
        factory.go_on("provision")
        with factory.station("S2") as other:
            until(lambda: factory.outcomes()["done"] == 1, "S2 to make it")
            assert factory.attempts()[ONE].station == "S2"
            frozen.send_signal(signal.SIGCONT)
            until(lambda: factory.outcomes()["unknown"] == 1, "S1 to own up")
            factory.stop(other)
    assert factory.flashed()[ONE] == 1  # the account has S1's password now, the device S2's
    assert "may have that attempt's password" in (factory.attempts()[ONE].error or "")


@thorough
def test_a_station_that_is_started_again_takes_up_what_it_left(run: Run, factory: Factory) -> None:
    factory.hold("provision")
    run("submit", "AZJN-0001..AZJN-0002")
    with factory.station("S1") as killed:
        until(lambda: len(factory.noted("reached")) == 2, "two devices")
        factory.kill(killed)
        assert [each["serial"] for each in board(run)["running"]] == serials(2)
        factory.go_on("provision")
        with factory.station("S1") as again:
            until(lambda: factory.outcomes()["done"] == 2, "both devices")
            twin = run("station", "--name", "S1", "--image", factory.base, "--state-dir", "other")
            assert (twin.code, "a station S1 is at work" in twin.err) == (2, True)
            factory.stop(again)
    assert "took over from S1: AZJN-0001 is queued: its station S1 was lost" in factory.log("S1")
    assert factory.flashed() == dict.fromkeys(serials(2), 1)


@thorough
def test_a_signal_lets_running_devices_end_and_two_give_them_back(
    run: Run, factory: Factory
) -> None:
    factory.build(dead_after=6.0)
    factory.hold("flash")
    run("submit", "AZJN-0001..AZJN-0003")
    with factory.station("S1", lanes=1) as station:
        until(lambda: factory.flashed(), "a flash")
        station.terminate()
        time.sleep(7)  # longer than dead_after: it still shows signs of life
        assert not board(run)["orphans"]
        factory.go_on("flash")
        out, _ = station.communicate(timeout=60)
    assert (station.returncode, json.loads(out)["done"]) == (0, 1)
    factory.hold("provision")
    with factory.station("S1", lanes=1) as station:
        until(lambda: len(factory.noted("reached")) == 3, "the next device")
        station.terminate()
        until(lambda: "stopping" in factory.log("S1").splitlines()[-1], "the first signal")
        station.terminate()
        until(lambda: "stopping the running devices" in factory.log("S1"), "the second one")
        factory.go_on("provision")
        out, _ = station.communicate(timeout=60)
    told = json.loads(out)
    assert (station.returncode, told["outcome"], told["given_back"]) == (130, "interrupted", 1)
    assert board(run)["queues"][0]["waiting"] == 2
    with factory.station("S1") as station:
        until(lambda: factory.outcomes()["done"] == 3, "the rest")
        factory.stop(station)
    assert factory.flashed() == dict.fromkeys(serials(3), 1)


@thorough
def test_what_the_api_refuses_is_tried_again_and_a_flash_never(run: Run, factory: Factory) -> None:
    factory.build(retries=2, retry_wait=0.1)
    (factory.line / "refuse").touch()
    run("submit", ONE)
    with factory.station("S1") as station:
        until(lambda: factory.status()["undone"] and factory.is_idle(), "the last try")
        assert factory.noted("refused") == [ONE] * 3
        (failed,) = board(run)["undone"]
        assert (failed["outcome"], failed["error"]) == ("failed", "the API said no")
        assert (failed["exit_code"], failed["station"]) == (4, "S1")
        (factory.line / "refuse").unlink()
        (factory.line / "jam").touch()
        assert run("submit", ONE, "--json").json["queued"] == [ONE]
        until(lambda: factory.flashed()[ONE] and factory.is_idle(), "the flash")
        (failed,) = board(run)["undone"]
        assert (failed["step"], failed["error"]) == ("flash", "the line is jammed")
        assert factory.stop(station)["failed"] == 2
    assert factory.flashed()[ONE] == 1


@thorough
def test_what_waits_for_a_station_that_never_comes_goes_to_the_others(
    run: Run, factory: Factory
) -> None:
    run("submit", "AZJN-0001..AZJN-0002", "--station", "S9")
    assert run("station", "reassign", "S8").code == 2
    with factory.station("S1") as station:
        until(lambda: factory.status()["stations"], "S1")
        assert run("station", "reassign", "S9", "--json").json["moved"] == serials(2)
        until(lambda: factory.outcomes()["done"] == 2, "both devices")
        run("submit", "AZJN-0003", "--station", "S9")
        assert run("station", "reassign", "--dead", "--json").json["moved"] == ["AZJN-0003"]
        until(lambda: factory.outcomes()["done"] == 3, "the third")
        factory.stop(station)


@thorough
def test_an_operator_decides_on_an_orphaned_flash(run: Run, factory: Factory) -> None:
    factory.hold("flash")
    run("submit", "AZJN-0001..AZJN-0002")
    with factory.station("S1") as station:
        until(lambda: len(factory.flashed()) == 2, "two flashes")
        refused = run("station", "resolve", ONE, "done", "--reason", "looked")
        assert (refused.code, "is being made by station S1" in refused.err) == (2, True)
        factory.kill(station)
    taken = run("station", "reassign", "S1", "--json").json["taken"]
    assert [(each["serial"], each["outcome"]) for each in taken] == [
        ("AZJN-0001", "unknown"),
        ("AZJN-0002", "unknown"),
    ]
    assert run("station", "resolve", ONE, "done", "--reason", "it logs in").code == 0
    assert run("station", "resolve", "AZJN-0002", "failed", "--reason", "dark").code == 0
    assert board(run)["undone"] == []
    again = run("submit", "AZJN-0001..AZJN-0002", "--json").json
    assert (again["done_before"], again["queued"]) == ([ONE], ["AZJN-0002"])


@thorough
def test_a_job_that_was_fetched_unseen_goes_back_into_the_queue(
    run: Run, factory: Factory, postgres: Postgres
) -> None:
    factory.build(dead_after=2.0)
    with factory.station("S1") as station:
        until(lambda: factory.status()["stations"], "S1")
        factory.hold("provision")
        run("submit", "AZJN-0001..AZJN-0003")
        until(lambda: len(factory.noted("reached")) == 2, "two lanes")
        postgres.psql(  # as if the answer to its fetch had been lost
            "UPDATE procrastinate_jobs SET status = 'doing',"
            " worker_id = (SELECT worker FROM station) WHERE status = 'todo'"
        )
        factory.go_on("provision")
        until(lambda: factory.outcomes()["done"] == 3, "all three")
        factory.stop(station)


@thorough
def test_ended_jobs_are_purged(run: Run, factory: Factory, postgres: Postgres) -> None:
    (factory.line / "refuse").touch()
    factory.build(retries=0, keep=24)
    run("submit", "AZJN-0001..AZJN-0002")
    with factory.station("S1") as station:
        until(lambda: len(factory.status()["undone"]) == 2, "two failures")
        factory.stop(station)
    postgres.psql(
        "UPDATE procrastinate_events SET at = at - interval '25 hours' WHERE job_id ="
        " (SELECT min(id) FROM procrastinate_jobs)"
    )
    with factory.station("S1") as station:
        until(lambda: len(factory.status()["undone"]) == 1, "the old one to go")
        factory.stop(station)
    assert board(run)["undone"][0]["serial"] == "AZJN-0002"


@thorough
def test_a_device_at_a_usb_instance_is_made_on_its_lane(
    run: Run, factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("imagebuild.toml").unlink()  # the sandbox, with the reference BSP's lanes
    monkeypatch.setenv("AZAION_IMAGEBUILD_DATABASE", factory.url)
    Path("list.csv").write_text("serial,usb_instance\nAZJN-0001,0-2\nAZJN-0002,9\n")
    refused = run("submit", "list.csv", "--sandbox")
    assert (refused.code, "names a USB instance" in refused.err) == (2, True)
    assert run("submit", "list.csv", "--sandbox", "--station", "S1").code == 0
    with factory.station("S1", base=False) as station:
        until(lambda: factory.outcomes()["done"] == 1, "a device")
        until(lambda: factory.status()["undone"], "the other")
        factory.stop(station)
    assert {row.device for row in factory.attempts().values()} == {
        "jetson-orin-nano-devkit at USB 0-2"
    }
    (waits,) = board(run)["undone"]
    assert (waits["serial"], waits["outcome"]) == ("AZJN-0002", "waits for another try")
    assert waits["error"] == "station S1 has no lane at the USB instance 9"


# --- claims and takeovers, one by one


def entry(serial: str = ONE, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "attempt": f"attempt-{serial}",
        "serial": serial,
        "email": f"azaion-jetson-{serial.rpartition('-')[2].lower()}@azaion.com",
        "sandbox": False,
        "step": "provision_identity",
        "outcome": "started",
        "at": now(),
        "host": "elsewhere",
        "process": this_process(),
    }
    return Entry(**fields | changes)


@pytest.fixture
def ledger(postgres: Postgres) -> Iterator[Ledger]:
    postgres.empty()
    with Ledger(postgres.url) as opened:
        tables.prepare(opened)
        yield opened


def signed_on(ledger: Ledger, name: str = "S1") -> Station:
    station = Station(
        name=name,
        worker=0,
        sandbox=False,
        host=this_host(),
        process=this_process(),
        operator="a test",
        dead_after=60.0,
        lanes={},
    )
    return sign_on_alone(ledger, station)[0]


def claimed(ledger: Ledger, postgres: Postgres, **changes: Any) -> Claim:
    """Return the claim of a station on the only job."""
    station = signed_on(ledger)
    job = structs.replace(Job(serial=ONE, sandbox=False, after=0), **changes)
    with ledger.writing() as pen:
        put(pen.connection, [job])
    number = postgres.psql(
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT worker FROM station)"
        " RETURNING id"
    )
    return Claim(
        ledger=ledger, job=job, id=int(number), worker=station.worker, station="S1", lane="1"
    )


def silence(postgres: Postgres) -> None:
    """Let every station look dead."""
    postgres.psql("DELETE FROM procrastinate_workers")


def test_what_was_made_since_it_was_queued_is_not_made_again(
    ledger: Ledger, postgres: Postgres
) -> None:
    claim = claimed(ledger, postgres)
    ledger.write(entry(attempt="by hand", outcome="done", flashed=True))
    with pytest.raises(PreflightError, match="was made or flashed since it was queued"):
        claim.begin(entry(), LedgerSettings())
    meant = dataclasses.replace(claim, job=structs.replace(claim.job, after=ledger.head().row))
    meant.begin(entry(), LedgerSettings())


def test_yes_at_the_submission_is_yes_at_the_station(ledger: Ledger, postgres: Postgres) -> None:
    ledger.write(entry(attempt="before", outcome="done", flashed=True))
    policy = LedgerSettings(reprovision="confirm")
    claim = claimed(ledger, postgres, after=1)
    with pytest.raises(PreflightError, match="was flashed on"):
        claim.begin(entry(), policy)
    dataclasses.replace(claim, job=structs.replace(claim.job, confirmed=True)).begin(
        entry(), policy
    )


def test_a_claim_ends_with_the_job_and_with_an_operators_word(
    ledger: Ledger, postgres: Postgres
) -> None:
    claim = claimed(ledger, postgres)
    claim.begin(entry(), LedgerSettings())
    claim.write(entry(step="flash"))
    ledger.write(entry(step="resolve", outcome="failed"))
    with pytest.raises(Lost):
        claim.write(entry(step="flash", outcome="done", account="created", flashed=True))
    receipt = ledger.head()
    assert claim.write(entry(outcome="failed")) == receipt  # it says so once
    _, last, _ = list(ledger.rows())[-1]
    assert (last.outcome, last.flashed) == ("unknown", False)


@pytest.mark.parametrize(
    ("late", "said"),
    [
        ({"outcome": "done", "image": "AZJN-0001.img"}, "it continued to the end"),
        ({"step": "flash"}, "it got to flash"),
    ],
)
def test_a_lost_claim_that_nobody_has_taken_up_can_be_made_again(
    ledger: Ledger, postgres: Postgres, late: dict[str, Any], said: str
) -> None:
    claim = claimed(ledger, postgres)
    claim.begin(entry(), LedgerSettings())
    silence(postgres)
    take_over(ledger)
    with pytest.raises(Lost):
        claim.write(entry(account="created", **late))
    _, last, _ = list(ledger.rows())[-1]
    assert (last.outcome, claim.overtaken, said in (last.error or "")) == ("failed", False, True)
    second = signed_on(ledger, "S2").worker
    number = postgres.psql(
        f"UPDATE procrastinate_jobs SET status = 'doing', worker_id = {second} RETURNING id"  # noqa: S608
    )
    again = dataclasses.replace(claim, id=int(number), worker=second, farewell=None)
    again.begin(entry(attempt="again"), LedgerSettings())


@pytest.mark.parametrize(
    ("rows", "outcome", "last"),
    one_of(
        [
            ([], "queued", None),
            ([{}], "queued", "failed"),
            ([{}, {"step": "flash"}], "unknown", "unknown"),
            ([{}, {"step": "flash"}, {"outcome": "done", "flashed": True}], "done", "done"),
            ([{}, {"outcome": "failed"}], "queued", "failed"),
            ([{}, {"step": "flash", "outcome": "failed"}], "failed", "failed"),
        ]
    ),
)
def test_what_a_dead_station_was_doing(
    ledger: Ledger, postgres: Postgres, rows: list[dict[str, Any]], outcome: str, last: str | None
) -> None:
    claim = claimed(ledger, postgres)
    for number, row in enumerate(rows):
        if number == 0:
            claim.begin(entry(**row), LedgerSettings())
        else:
            claim.write(entry(**row))
    assert take_over(ledger) == []
    silence(postgres)
    (taken,) = take_over(ledger)
    assert (taken.serial, taken.outcome) == (ONE, outcome)
    assert take_over(ledger) == []
    found = [row for _, row, _ in ledger.rows(ONE)]
    assert (found[-1].outcome if found else None) == last
    jobs = postgres.psql("SELECT id, status, args->>'lost' FROM procrastinate_jobs").splitlines()
    number = claim.id
    assert jobs == {
        "queued": [f"{number + 1}|todo|1"],
        "done": [],
    }.get(outcome, [f"{number}|failed|0"])
    with pytest.raises(Lost):
        claim.begin(entry(attempt="late"), LedgerSettings())


def test_a_device_over_which_stations_die_is_left_alone(ledger: Ledger, postgres: Postgres) -> None:
    claimed(ledger, postgres, lost=MOST_LOST - 1)
    silence(postgres)
    (taken,) = take_over(ledger)
    assert (taken.outcome, taken.reason) == ("failed", "3 stations died while making it")


def test_a_database_that_has_just_started_makes_nobody_dead(
    ledger: Ledger, postgres: Postgres
) -> None:
    signed_on(ledger)
    postgres.psql("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
    with ledger.reading() as connection:
        (station,) = stations(connection)
    assert station.silent is not None
    assert station.silent < 3600  # as long as the server runs, at most


def test_the_tables_of_a_newer_version_are_not_touched(ledger: Ledger, postgres: Postgres) -> None:
    postgres.psql("UPDATE station_schema SET version = 99")
    with pytest.raises(LedgerError, match="newer version"):
        tables.prepare(ledger)


def test_the_queues_own_tables_are_brought_to_its_version(
    ledger: Ledger, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from procrastinate.schema import SchemaManager

    old = Path(SchemaManager.get_migrations_path()) / "newest"
    steps = tmp_path / "migrations"
    steps.mkdir()
    (steps / old.name.replace("newest", "00.00.00_01_old.sql")).write_text("SELECT nonsense")
    (steps / "99.00.00_01_new.sql").write_text("CREATE TABLE new AS SELECT 5 % 3 AS found")
    monkeypatch.setattr(SchemaManager, "get_migrations_path", lambda: str(steps))
    tables.prepare(ledger)
    tables.prepare(ledger)
    assert postgres.psql("SELECT found FROM new") == "2\n"


@thorough
def test_the_guides_plug_in_refuses_one_device_of_a_station(run: Run, factory: Factory) -> None:
    guide = (ROOT / "docs/how-to/plugins.md").read_text()
    found = re.search(r'```python title="factory-hooks/label.py"\n(.*?)```', guide, re.DOTALL)
    assert found is not None
    (factory.line / "label.py").write_text(found[1])
    (factory.line / "today.txt").write_text(ONE)
    run("submit", "AZJN-0001..AZJN-0002")
    with factory.station("S1") as station:
        until(factory.flashed, "one device")
        until(lambda: "not on today's list" in factory.log("S1"), "one refusal")
        factory.stop(station)
    assert factory.flashed() == {ONE: 1}
    assert "not on today's list" in factory.log("S1")
    assert "BASE" not in factory.log("S1")
