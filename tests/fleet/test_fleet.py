"""A fleet: many devices to their end, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from thorough import one_of, thorough
from world import Ran, Run, add_usb_device, outcomes, replace_script, tool_started

from azaion_imagebuild import images
from azaion_imagebuild.errors import InterruptedBuild, PreflightError
from azaion_imagebuild.fleet.destinations import InPlace, UsbLane
from azaion_imagebuild.fleet.device_watch import DeviceWatch
from azaion_imagebuild.fleet.plan import Plan
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.placeholder import placeholder
from azaion_imagebuild.identity.serial_list import Listed
from azaion_imagebuild.l4t.base_image import stamp_base
from azaion_imagebuild.ledger import Ledger
from azaion_imagebuild.ledger.chain import check
from azaion_imagebuild.ledger.engine import FILE
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.operations import stamp as stamps
from azaion_imagebuild.sandbox import Accounts, Sandbox
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import AdminApiSettings, BspSettings, Settings

TEN = "AZJN-0001..AZJN-0010"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state/azaion-imagebuild"


def report(ran: Ran) -> Any:
    return json.loads(ran.out)


def password_in(image: Path) -> Secret:
    entry = images.read_file(image, DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    assert (entry.mode, entry.uid) == (0o600, os.geteuid() or 1000)
    return device_conf.parse(entry.data).password


def email(serial: str) -> str:
    return f"azaion-jetson-{serial.rpartition('-')[2].lower()}@azaion.com"


def opens_its_account(accounts: Accounts, image: Path) -> bool:
    return accounts.login(email(image.stem), password_in(image).reveal())


def test_every_device_gets_an_image_with_its_own_identity(run: Run, state: Path) -> None:
    ran = run("fleet", TEN, "--out", "images", "--json", "--jobs", "3")
    assert ran.code == 0, ran.err
    found = report(ran)
    assert (found["outcome"], found["total"], found["done"]) == ("done", 10, 10)
    made = sorted(Path("images").iterdir())
    assert [path.name for path in made] == [f"AZJN-{n:04d}.img" for n in range(1, 11)]
    accounts = Sandbox(state / "sandbox").accounts
    assert all(opens_its_account(accounts, image) for image in made)
    assert len({password_in(image).reveal() for image in made}) == 10
    assert all(image.stat().st_mode & 0o777 == 0o600 for image in made)
    for record in found["records"]:
        assert record["image"] == str(Path("images", f"{record['serial']}.img").absolute())
        assert set(record["steps"]) >= {"provision_identity", "build_image", "verify_image"}
        assert "digest_image" not in record["steps"], "an image is read for each device"
    assert {record["image_sha256"] for record in found["records"]} == {None}
    assert len({record["base_sha256"] for record in found["records"]} - {None}) == 1
    assert run("ledger", "verify").code == 0


def test_the_same_command_again_does_what_is_left_and_no_more(run: Run, state: Path) -> None:
    run("fleet", TEN, "--out", "images")
    Path("images/AZJN-0003.img").unlink()
    Path("images/AZJN-0004.img").write_bytes(b"overwritten")
    image = Path("images/AZJN-0005.img")
    kept = password_in(image)
    again = run("fleet", TEN, "--out", "images", "--json")
    assert [serial for serial, outcome in outcomes(again).items() if outcome == "done"] == [
        "AZJN-0003",
        "AZJN-0004",
    ]
    assert report(again)["done_before"] == 8
    assert password_in(image) == kept
    accounts = Sandbox(state / "sandbox").accounts
    assert all(opens_its_account(accounts, each) for each in Path("images").iterdir())
    everything = run("fleet", TEN, "--out", "images", "--json", "--again")
    assert report(everything)["done"] == 10
    assert password_in(image) != kept


def test_an_image_whose_account_has_moved_on_is_made_again(run: Run) -> None:
    run("fleet", TEN, "--out", "images")
    assert run("image", "--serial", "AZJN-0002", "--flash", "0").code == 0  # another password
    again = run("fleet", TEN, "--out", "images", "--json")
    assert outcomes(again)["AZJN-0002"] == "done"
    assert report(again)["done_before"] == 9


def snapshot(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_plan_shows_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    Path("list.txt").write_text(f"{TEN}\n")
    before = snapshot(tmp_path)
    planned = run("fleet", "list.txt", "--out", "images", "--plan", "--json")
    assert planned.code == 0
    assert report(planned)["todo"] == [f"AZJN-{n:04d}" for n in range(1, 11)]
    assert snapshot(tmp_path) == before
    run("fleet", "AZJN-0001..AZJN-0004", "--out", "images")
    before = snapshot(tmp_path)
    found = report(run("fleet", "list.txt", "--out", "images", "--plan", "--json"))
    assert (len(found["todo"]), len(found["done_before"])) == (6, 4)
    assert found["space_needed"] > 0
    assert found["seconds"] is not None
    assert snapshot(tmp_path) == before


def test_two_serials_of_one_account_stop_the_fleet_before_it_begins(run: Run, state: Path) -> None:
    Path("list.txt").write_text("AZJN-0001\nXYZ-0001\nAZJN-0002\n")
    ran = run("fleet", "list.txt", "--out", "images")
    assert ran.code == 3
    assert ran.err.count("AZJN-0001 (list.txt, line 1) and XYZ-0001 (list.txt, line 2) share") == 1
    assert not list(Sandbox(state / "sandbox").accounts.list())


def test_a_device_that_the_ledger_speaks_against_stops_no_other(run: Run) -> None:
    run("image", "--serial", "XYZ-0002")
    ran = run("fleet", "AZJN-0001..AZJN-0003", "--out", "images", "--json")
    assert ran.code == 10
    assert outcomes(ran) == {"AZJN-0001": "done", "AZJN-0002": "failed", "AZJN-0003": "done"}
    assert "belongs to XYZ-0002" in report(ran)["records"][1]["error"]


def test_a_bad_list_is_refused_whole(run: Run) -> None:
    Path("list.txt").write_text("AZJN-0001\nnonsense\n")
    ran = run("fleet", "list.txt", "--out", "images")
    assert ran.code == 2
    assert "list.txt, line 2" in ran.err
    assert not Path("images").exists()


PLUGIN = """
from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import ProvisioningError

@hookimpl(tryfirst=True)
def provision_identity(build):
    if build.serial in {bad}:
        raise ProvisioningError("the API said no", hint="ask it why")
"""


@pytest.fixture
def refused() -> list[str]:
    bad = ["AZJN-0002", "AZJN-0005"]
    Path("site").mkdir()
    Path("site/refuse.py").write_text(PLUGIN.format(bad=bad))
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')
    return bad


def test_one_failure_does_not_stop_the_others(run: Run, refused: list[str]) -> None:
    ran = run("fleet", TEN, "--out", "images", "--json")
    assert ran.code == 10
    found = report(ran)
    assert (found["done"], found["failed"], found["exit_code"]) == (8, 2, 10)
    failed = [record for record in found["records"] if record["outcome"] == "failed"]
    assert [record["serial"] for record in failed] == refused
    assert [(each["error"], each["exit_code"]) for each in failed] == [("the API said no", 4)] * 2
    assert all(serial in ran.err for serial in refused)
    assert not any(Path("images", f"{serial}.img").exists() for serial in refused)


@pytest.mark.parametrize(("flag", "failures"), [("--fail-fast", 1), ("--max-failures=2", 2)])
def test_failures_can_end_a_fleet(run: Run, refused: list[str], flag: str, failures: int) -> None:
    ran = run("fleet", TEN, "--out", "images", "--json", "--jobs", "1", flag)
    found = report(ran)
    assert (ran.code, found["failed"]) == (10, failures)
    assert found["not_started"] == (8 if failures == 1 else 5)


def test_a_base_that_was_built_before_needs_no_bsp(run: Run) -> None:
    assert run("base", "--out", "base.img").code == 0
    ran = run("fleet", "AZJN-0001..AZJN-0003", "--image", "base.img", "--out", "images", "--json")
    assert ran.code == 0, ran.err
    assert report(ran)["done"] == 3
    assert run("stamp", "base.img", "--serial", "AZJN-0007").code == 0
    ran = run("fleet", "AZJN-0004", "--image", "base.img", "--out", "images")
    assert (ran.code, "holds an identity" in ran.err) == (8, True)


def test_a_base_of_another_user_need_only_be_readable(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: str | Path, flags: int, *args: Any, **named: Any) -> int:
        if str(path) == "base.img" and flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *args, **named)

    assert run("base", "--out", "base.img").code == 0
    before = Path("base.img").read_bytes()
    monkeypatch.setattr(os, "open", refuse)
    ran = run("fleet", "AZJN-0001", "--image", "base.img", "--out", "images")
    assert (ran.code, ran.err.count("error: ")) == (0, 0), ran.err
    assert Path("base.img").read_bytes() == before
    ran = run("stamp", "base.img", "--serial", "AZJN-0002")
    assert (ran.code, "cannot open base.img for writing" in ran.err) == (2, True)


def test_without_flashing_images_go_to_the_state_folder(run: Run, state: Path) -> None:
    assert run("fleet", "AZJN-0001", "--flash", "0").code == 0
    assert (state / "images/AZJN-0001.img").is_file()


SLOW = """
import os, time
from azaion_imagebuild import hookimpl

@hookimpl(tryfirst=True)
def provision_identity(build):
    time.sleep(0.3)
    while os.path.exists("held"):
        open("holding", "w").close()
        time.sleep(0.01)
"""


@pytest.fixture
def slow() -> None:
    Path("site").mkdir()
    Path("site/slow.py").write_text(SLOW)
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')


def said_of_a_signal(fleet: subprocess.Popen[str]) -> str:
    """Wait for the line by which a fleet says that it has heeded a signal."""
    assert fleet.stderr is not None
    return next(line for line in fleet.stderr if "nothing new begins" in line or "stopping" in line)


@pytest.mark.parametrize(
    "signals", one_of([[signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGTERM]])
)
def test_an_interrupted_fleet_says_what_is_left_and_goes_on_later(
    run: Run, slow: None, state: Path, signals: list[signal.Signals]
) -> None:
    argv = ("fleet", "AZJN-0001..AZJN-0020", "--out", "images", "--json", "--jobs", "2")
    with tool_started(*argv) as fleet:
        while len(list(Path("images").glob("*.img"))) < 2:
            time.sleep(0.01)
        Path("held").touch()  # until every signal was heeded: two that come at once are one
        while not Path("holding").exists():
            time.sleep(0.01)
        for each in signals:
            fleet.send_signal(each)
            said_of_a_signal(fleet)
        Path("held").unlink()
        out, err = fleet.communicate(timeout=60)
    found = json.loads(out)
    assert (fleet.returncode, found["outcome"]) == (130, "interrupted"), err
    assert found["done"] >= 2
    assert found["not_started"] > 10
    if signals == [signal.SIGINT]:
        assert found["failed"] == 0
    assert not list(Path("images").glob(".azaion*"))
    Path("imagebuild.toml").unlink()
    assert run(*argv).code == 0
    accounts = Sandbox(state / "sandbox").accounts
    assert all(opens_its_account(accounts, image) for image in Path("images").glob("*.img"))
    assert len(accounts.list()) == 20


@thorough
def test_a_fleet_that_is_killed_again_and_again_ends_well(run: Run, state: Path) -> None:
    argv = ("fleet", "AZJN-0001..AZJN-0030", "--out", "images", "--jobs", "3")
    moment = random.Random(7)  # noqa: S311 - no secret
    for _ in range(3):
        with tool_started(*argv) as fleet:
            time.sleep(moment.uniform(0.4, 1.2))
            fleet.kill()
            fleet.communicate()
    ran = run(*argv, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["total"] == 30
    accounts = Sandbox(state / "sandbox").accounts
    made = sorted(Path("images").iterdir())
    assert [image.name for image in made] == [f"AZJN-{n:04d}.img" for n in range(1, 31)]
    assert all(opens_its_account(accounts, image) for image in made)
    assert len(accounts.list()) == 30
    with Ledger(f"sqlite:///{state / FILE}") as ledger:
        assert list(check(ledger)) == []
        done = [entry.serial for entry in ledger.attempts() if entry.outcome == "done"]
    assert sorted(done) == sorted(set(done))


def test_images_do_not_go_where_everybody_may_write(run: Run) -> None:
    Path("images").mkdir()
    Path("images").chmod(0o777)
    ran = run("fleet", "AZJN-0001", "--out", "images")
    assert (ran.code, "everybody may write /" in ran.err) == (2, True)
    assert f"hint: chmod o-w {Path('images').absolute()}; or" in ran.err
    assert not list(Path("images").iterdir())


def test_a_fleet_keeps_an_image_that_holds_another_devices_identity(run: Run) -> None:
    assert run("fleet", "AZJN-0002", "--out", "images").code == 0
    Path("images/AZJN-0002.img").rename("images/AZJN-0001.img")
    before = Path("images/AZJN-0001.img").read_bytes()
    ran = run("fleet", "AZJN-0001..AZJN-0003", "--out", "images", "--json")
    assert outcomes(ran) == {"AZJN-0001": "failed", "AZJN-0002": "done", "AZJN-0003": "done"}
    assert "azaion-jetson-0002@azaion.com" in ran.err
    assert Path("images/AZJN-0001.img").read_bytes() == before


def test_two_fleets_do_not_write_into_one_folder(run: Run, slow: None) -> None:
    argv = ("fleet", "AZJN-0001..AZJN-0020", "--out", "images", "--jobs", "1")
    with tool_started(*argv) as fleet:
        while not Path("images").exists():
            time.sleep(0.01)
        Path("imagebuild.toml").write_text("[build]\nlock_wait = 0\n")
        ran = run("fleet", "AZJN-0030", "--out", "images")
        assert ran.code == 3
        assert "is in use by process" in ran.err
        fleet.terminate()
        fleet.communicate()


def test_the_label_of_a_device_that_failed_can_be_scanned_again(run: Run, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "azaion_imagebuild", "fleet", "-", "--out", "images", "--json"]
    in_the_way = Path("images/AZJN-0001.img/file")
    in_the_way.parent.mkdir(parents=True, mode=0o700)
    in_the_way.parent.parent.chmod(0o700)
    in_the_way.touch()
    ours, terminal = pty.openpty()
    said = tmp_path / "said"
    with said.open("w") as stderr:
        fleet = subprocess.Popen(
            argv, stdin=terminal, stdout=subprocess.PIPE, stderr=stderr, text=True
        )

    def scan(label: bytes, until: str) -> None:
        os.write(ours, label)
        deadline = time.monotonic() + 60
        while until not in said.read_text():
            assert fleet.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.01)

    scan(b"AZJN-0001\n", "FAIL  AZJN-0001")
    shutil.rmtree(in_the_way.parent)
    scan(b"AZJN-0001\n", "PASS  AZJN-0001")
    scan(b"AZJN-0001\n", "AZJN-0001 is done already")
    os.close(ours)  # the terminal is gone
    out, _ = fleet.communicate(timeout=60)
    os.close(terminal)
    assert "Traceback" not in said.read_text()
    (record,) = json.loads(out)["records"]
    assert (fleet.returncode, record["outcome"]) == (0, "done"), said.read_text()
    tried = [each["outcome"] for each in run("ledger", "list", "--json").json]
    assert tried == ["failed", "done"]


def test_labels_are_scanned_one_by_one(run: Run, state: Path) -> None:
    argv = [sys.executable, "-m", "azaion_imagebuild", "fleet", "-", "--out", "images", "--json"]
    ours, terminal = pty.openpty()
    fleet = subprocess.Popen(
        argv, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.write(ours, b"AZJN-0001\nbogus\nAZJN-0001\nXYZ-0001\n")
    while not Path("images/AZJN-0001.img").exists():  # done while the scanner is still in hand
        assert fleet.poll() is None
        time.sleep(0.01)
    os.write(ours, b"AZJN-0002\n\x04")
    out, err = fleet.communicate(timeout=60)
    os.close(ours)
    os.close(terminal)
    found = json.loads(out)
    made = [each["serial"] for each in found["records"] if each["outcome"] == "done"]
    assert made == ["AZJN-0001", "AZJN-0002"]
    assert "'bogus' is not a serial" in err
    assert "XYZ-0001" in err
    accounts = Sandbox(state / "sandbox").accounts
    assert all(opens_its_account(accounts, image) for image in Path("images").glob("*.img"))


INITRD = """[bsp]
method = "initrd"
external_device = "nvme0n1p1"
partition_xml = "tools/kernel_flash/flash_l4t_external.xml"
"""


ZSTD = f"""{INITRD}environment = {{ ZSTD = "1" }}
"""
"""Packs as R36.4 and newer do."""


@pytest.mark.parametrize("config", one_of(["", INITRD, *([ZSTD] if shutil.which("zstd") else [])]))
def test_a_fleet_flashes_every_device_with_its_own_identity(
    run: Run, state: Path, config: str
) -> None:
    Path("imagebuild.toml").write_text(config)
    ran = run("fleet", "AZJN-0001..AZJN-0005", "--jobs", "3", "--json")
    assert ran.code == 0, ran.err
    records = report(ran)["records"]
    assert all(each["flashed"] and each["smoke"] == "logged in" for each in records)
    assert {each["usb_instance"] for each in records} == {"0-1", "0-2", "0-3"}
    sandbox = Sandbox(state / "sandbox")
    on_devices = {}
    for instance in ("0-1", "0-2", "0-3"):
        password = password_in(sandbox.device_at(instance))
        last = [each for each in records if each["usb_instance"] == instance][-1]
        assert sandbox.accounts.login(last["email"], password.reveal())
        on_devices[instance] = password.reveal().encode()
    assert len(set(on_devices.values())) == 3
    assert not sandbox.bsp.with_name(f"{sandbox.bsp.name}.lanes").exists()
    for path in state.rglob("*"):
        if path.is_file() and path.parent.name != "devices":
            content = path.read_bytes()
            assert not any(password in content for password in on_devices.values()), path
    again = run("fleet", "AZJN-0001..AZJN-0005", "--jobs", "3", "--json")
    assert (again.code, report(again)["done_before"]) == (0, 5)


def test_a_csv_says_which_device_is_at_which_port(run: Run) -> None:
    Path("list.csv").write_text("serial,usb_instance\nAZJN-0001,0-2\nAZJN-0002,0-1\nAZJN-0003,\n")
    ran = run("fleet", "list.csv", "--jobs", "2", "--json")
    assert ran.code == 0, ran.err
    at = {each["serial"]: each["usb_instance"] for each in report(ran)["records"]}
    assert (at["AZJN-0001"], at["AZJN-0002"]) == ("0-2", "0-1")
    Path("list.csv").write_text("serial,usb_instance\nAZJN-0004,1-9\n")
    ran = run("fleet", "list.csv")
    assert ran.code == 3
    assert "AZJN-0004 (list.csv, line 2) is for the USB instance '1-9'" in ran.err


def test_a_device_that_died_while_flashing_is_not_repeated(run: Run, state: Path) -> None:
    sandbox = Sandbox(state / "sandbox")
    sandbox.create(1.0)
    hold = 'if [[ $1 == -r ]]; then echo $$ > ../../../held; sleep 60; fi; ./flash.sh.real "$@"'
    replace_script(sandbox.bsp / "flash.sh", hold)
    with tool_started("fleet", "AZJN-0001..AZJN-0002", "--jobs", "1") as fleet:
        held = sandbox.dir / "held"
        while not (held.exists() and held.read_text().strip()):
            assert fleet.poll() is None
            time.sleep(0.01)
        fleet.kill()
        fleet.communicate()
        os.killpg(int(held.read_text()), signal.SIGKILL)
    (sandbox.bsp / "flash.sh.real").replace(sandbox.bsp / "flash.sh")
    ran = run("fleet", "AZJN-0001..AZJN-0002", "--jobs", "1", "--json")
    assert ran.code == 10
    assert outcomes(ran) == {"AZJN-0001": "unknown", "AZJN-0002": "done"}
    assert "AZJN-0001" in ran.err
    run("ledger", "resolve", "--sandbox", "AZJN-0001", "failed", "--reason", "looked at it")
    ran = run("fleet", "AZJN-0001..AZJN-0002", "--jobs", "1", "--json")
    assert outcomes(ran) == {"AZJN-0001": "done", "AZJN-0002": "done before"}


def plug_in(sysfs: Path, ecid: str) -> None:
    add_usb_device(sysfs, "1-3", "0955", "7523")
    (sysfs / "1-3/serial").write_text(f"{ecid}\n")


def never() -> bool:
    return False


@pytest.mark.parametrize("ecid", ["0x80012344705DE0", ""])
def test_a_device_gets_one_identity_until_it_was_unplugged(tmp_path: Path, ecid: str) -> None:
    watch, sysfs = DeviceWatch(), tmp_path / "sysfs"
    plug_in(sysfs, ecid)
    device = watch.next_device(sysfs, "1-3", 0.0, never)
    watch.had_its_turn("1-3", device)
    with pytest.raises(PreflightError, match="no new device") as refused:
        watch.next_device(sysfs, "1-3", 0.0, never)
    assert "unplug the one that was flashed" in refused.value.hint
    shutil.rmtree(sysfs / "1-3")
    with pytest.raises(PreflightError):
        watch.next_device(sysfs, "1-3", 0.0, never)
    plug_in(sysfs, ecid)
    if ecid:  # the very same device came back
        with pytest.raises(PreflightError):
            watch.next_device(sysfs, "1-3", 0.0, never)
        (sysfs / "1-3/serial").write_text("0x80012344705DE1\n")
    assert watch.next_device(sysfs, "1-3", 0.0, never).instance == "1-3"


def test_a_lane_refuses_a_device_of_another_board_and_waits_for_the_next(
    bsp: Path, sysfs: Path
) -> None:
    (sysfs / "1-3/idProduct").write_text("7323\n")
    bsp_settings = BspSettings(dir=bsp, sysfs_usb=sysfs, device_wait=0.0)
    settings = Settings(bsp=bsp_settings, admin_api=AdminApiSettings(url="http://127.0.0.1:1"))
    lane: Any = SimpleNamespace(usb_instance="1-3")
    blank: Any = None
    place = UsbLane(lane=lane, blank=blank, settings=settings, sandbox=False, watch=DeviceWatch(),
                    stopped=never)  # fmt: skip
    for words in ("is a Jetson Orin NX 16GB, but jetson-orin-nano-devkit", "no new device"):
        with pytest.raises(PreflightError, match=words):  # noqa: SIM117
            with place.ready(Listed(serial="AZJN-0001", where="here")):
                pytest.fail("it was ready")


def test_waiting_for_a_device_ends_when_nothing_new_shall_begin(tmp_path: Path) -> None:
    with pytest.raises(InterruptedBuild):
        DeviceWatch().next_device(tmp_path, "1-3", 60.0, lambda: True)


def test_a_plan_is_of_real_devices_unless_it_says_sandbox() -> None:
    assert Plan(serials=(), todo=()).as_json()["sandbox"] is False


def test_an_image_in_place_holds_a_placeholder_of_any_size_again(run: Run) -> None:
    Path("imagebuild.toml").write_text("[image]\nplaceholder_size = 1024\n")
    assert run("base", "--out", "base.img").code == 0
    api = AdminApiSettings(url="http://127.0.0.1:1")
    settings = Settings(admin_api=api)
    blank = stamps.base_at(Path("base.img"), settings)
    place = InPlace(name="lane 1", blank=blank, settings=settings)
    with place.ready(Listed(serial="AZJN-0001", where="here")) as (build, image):
        conf = f"AZAION_DEVICE_EMAIL={email('AZJN-0001')}\nAZAION_DEVICE_PASSWORD={'ab' * 16}\n"
        stamp_base(build, image.image, conf.encode().ljust(1024, b"\n"))
        assert password_in(Path("base.img")) == Secret("ab" * 16)
    entry = images.read_file(Path("base.img"), DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    assert entry.data == placeholder(1024)
