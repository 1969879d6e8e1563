"""Commands as hands expect them: short flags, words without a flag, dry runs."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from thorough import thorough
from world import TOOL, Run, replace_script, tool_started

from azaion_imagebuild.ledger import Entry, Ledger
from azaion_imagebuild.sandbox import Accounts, Sandbox


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_a_serial_needs_no_flag(run: Run) -> None:
    ran = run("image", "AZJN-0042", "--no-flash", "--json")
    assert (ran.code, ran.json["serial"], ran.json["flashed"]) == (0, "AZJN-0042", False)
    both = run("image", "AZJN-0042", "--serial", "AZJN-0043")
    assert (both.code, both.errors) == (
        2,
        ["error: two serials are given: 'AZJN-0042' and 'AZJN-0043'"],
    )
    assert run("image").errors == ["error: no serial given"]


@pytest.mark.skipif(os.geteuid() != 0, reason="NVIDIA's scripts need root")
def test_a_dry_run_shows_the_steps_and_changes_nothing(
    run: Run, bsp: Path, api_url: str, accounts: Accounts, tmp_path: Path, sysfs: Path
) -> None:
    Path("imagebuild.toml").write_text(f'[bsp]\nsysfs_usb = "{sysfs}"\n')
    before, known = contents(tmp_path), len(accounts.list())
    argv = ("image", "AZJN-0042", "--bsp", bsp, "--api-url", api_url)
    ran = run(*argv, "-n")
    assert ran.code == 0, ran.err
    steps = [line.strip() for line in ran.err.splitlines() if line.startswith("  ")]
    assert steps[0].startswith("1. create the account azaion-jetson-0042@azaion.com")
    assert steps[1] == f"2. write /etc/azaion/device.conf into {bsp}/rootfs"
    assert steps[-1] == "5. flash the device in recovery mode"
    assert ran.err.splitlines()[-1] == "OK: the build could start"
    assert run(*argv, "--dry-run", "--no-flash", "--json").json["steps"][-1].startswith("keep")
    assert (contents(tmp_path), len(accounts.list())) == (before, known)


def test_a_dry_run_says_what_would_stop_the_build(run: Run, bsp: Path, api_url: str) -> None:
    (bsp / "flash.sh").unlink()
    ran = run("image", "AZJN-0042", "-n", "--no-flash", "--bsp", bsp, "--api-url", api_url)
    assert ran.code == 3
    assert ran.errors
    assert "OK" not in ran.err


def test_quiet_says_only_what_is_wrong(run: Run) -> None:
    assert run("image", "AZJN-0042", "-q").err == ""
    ran = run("image", "AZJN-0042", "-q", "--json")  # it was flashed before
    assert ran.json["outcome"] == "done"
    assert {line.partition(":")[0] for line in ran.err.splitlines()} == {"warning", "hint"}
    assert run("image", "A", "-q").errors == ["error: 'A' is not a serial"]


def test_a_word_too_many_or_wrong_is_named_once(run: Run) -> None:
    ran = run("image", "AZJN-0042", "AZJN-0043")
    assert ran.errors == ["error: unexpected: AZJN-0043"]
    assert ran.hints[0].startswith("hint: for several devices: fleet ")
    assert run("fleet", "A", "AZJN-0001").errors == ["error: 'A' is not a serial"]


def test_verbose_shows_what_scripts_print(run: Run) -> None:
    assert "    | " not in run("image", "AZJN-0042", "--no-flash").err
    for flag in ("-v", "--verbose", "--debug"):
        assert "    | " in run("image", "AZJN-0042", "--no-flash", flag).err


def test_a_fleet_takes_several_serials_lists_and_ranges(run: Run) -> None:
    Path("list.txt").write_text("AZJN-0005\nAZJN-0001\n")
    ran = run("fleet", "AZJN-0001", "AZJN-0002..AZJN-0003", "list.txt", "-n", "--json")
    assert ran.json["todo"] == ["AZJN-0001", "AZJN-0002", "AZJN-0003", "AZJN-0005"]
    assert ran.json["doubles"] == [
        {"serial": "AZJN-0001", "line": "list.txt, line 2", "first": "AZJN-0001"}
    ]
    wrong = run("fleet", "AZJN-0001", "nope.txt", "-n")
    assert (wrong.code, wrong.errors) == (2, ["error: no such file: nope.txt"])


def test_a_plan_lists_the_serials_and_the_doubles(run: Run) -> None:
    run("fleet", "AZJN-0002", "--out", "images")
    Path("list.txt").write_text("AZJN-0001\nAZJN-0002\nAZJN-0001\n")
    ran = run("fleet", "list.txt", "--out", "images", "--plan")
    assert [line.split() for line in ran.err.splitlines()[:2]] == [
        ["AZJN-0001", "to", "do"],
        ["AZJN-0002", "done", "before"],
    ]
    assert "  list.txt, line 3 is a double of list.txt, line 1" in ran.err
    assert "2 devices: 1 to do, 1 done before" in ran.err


def test_several_devices_are_resolved_at_once(run: Run) -> None:
    run("fleet", "AZJN-0001..AZJN-0003", "--out", "images")
    argv = ("ledger", "resolve", "--sandbox", "AZJN-0001", "AZJN-0003", "retired")
    ran = run(*argv, "--reason", "water", "--json")
    assert ran.code == 0, ran.err
    assert [each["serial"] for each in ran.json["resolved"]] == ["AZJN-0001", "AZJN-0003"]
    assert ran.err.count("DONE: ") == 2
    one = run("ledger", "resolve", "--sandbox", "AZJN-0002", "failed", "--reason", "x", "--json")
    assert (one.json["serial"], one.json["outcome"]) == ("AZJN-0002", "failed")


@pytest.fixture
def killed(run: Run, tmp_path: Path) -> str:
    """The serial of a device whose build was killed while it was flashed."""
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    sandbox.create(1.0)
    hold = 'if [[ $1 == -r ]]; then echo $$ > ../held; sleep 60; fi; ./flash.sh.real "$@"'
    replace_script(sandbox.bsp / "flash.sh", hold)
    with tool_started("image", "AZJN-0007") as build:
        held = sandbox.dir / "held"
        while not (held.exists() and held.read_text().strip()):
            assert build.poll() is None
            time.sleep(0.01)
        build.kill()
        build.communicate()
        os.killpg(int(held.read_text()), signal.SIGKILL)
    (sandbox.bsp / "flash.sh.real").replace(sandbox.bsp / "flash.sh")
    return "AZJN-0007"


def test_what_died_while_flashing_is_unknown_wherever_it_is_shown(run: Run, killed: str) -> None:
    assert run("image", "AZJN-0001", "--no-flash").code == 0
    listed = run("ledger", "list").out.splitlines()
    assert [line.split()[:5] for line in listed] == [
        ["WHEN", "SERIAL", "OUTCOME", "STEP", "FLASHED"],
        [listed[1].split()[0], killed, "unknown", "flash", "?"],
        [listed[2].split()[0], "AZJN-0001", "done", "post_flash", "no"],
    ]
    assert [each["serial"] for each in run("ledger", "list", "--unknown", "--json").json] == [
        killed
    ]
    fleet = run("fleet", killed, "AZJN-0001", "-q", "--json")
    assert {each["serial"]: each["outcome"] for each in fleet.json["records"]} == {
        killed: "unknown",
        "AZJN-0001": "done",
    }
    (hint,) = [each["hint"] for each in fleet.json["records"] if each["serial"] == killed]
    command = "azaion-imagebuild ledger resolve --sandbox --reason … AZJN-0007 done"
    assert command in hint
    again = run("fleet", killed, "AZJN-0001")
    assert "Next: check 1 unknown device and resolve it" in again.err
    assert "run the same command again; it builds" not in again.err
    words = command.replace("…", "looked").split()[1:]
    assert run(*words).code == 0
    assert run("ledger", "list", "--unknown", "--json").json == []


def test_a_build_that_flashed_is_told_from_one_that_did_not(run: Run) -> None:
    run("image", "AZJN-0001")
    run("image", "AZJN-0002", "--no-flash")
    told = {line.split()[1]: line.split()[4] for line in run("ledger", "list").out.splitlines()}
    assert (told["AZJN-0001"], told["AZJN-0002"]) == ("yes", "no")


def test_the_ledger_is_filtered_and_says_if_nothing_is_found(run: Run, tmp_path: Path) -> None:
    empty = run("ledger", "list")
    assert (empty.code, empty.out, empty.err) == (0, "", "the ledger is empty\n")
    run("fleet", "AZJN-0001..AZJN-0004", "--out", "images")
    run("ledger", "resolve", "--sandbox", "AZJN-0002", "failed", "--reason", "no power")

    def serials(*argv: str) -> list[str]:
        return [each["serial"] for each in run("ledger", "list", *argv, "--json").json]

    assert serials("--failed") == ["AZJN-0002"]
    assert len(serials("-n", "2")) == 2
    assert serials("AZJN-0003") == serials("--serial", "AZJN-0003") == ["AZJN-0003"]
    assert len(serials("--since", "1h")) == len(serials("--since", "2020-01-31")) == 4
    assert serials("--since", "2099-01-31") == []
    nothing = run("ledger", "list", "--since", "2099-01-31")
    assert (nothing.out, nothing.err) == ("", "no attempt in the ledger is like that\n")
    assert run("ledger", "list", "--since", "yesterday").errors == [
        "error: invalid age 'yesterday'"
    ]
    assert run("ledger", "list", "-n", "0").code == 2


@thorough
def test_a_reader_that_has_seen_enough_is_no_fault(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "state/azaion-imagebuild/ledger.sqlite3"
    run("ledger", "list")
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with Ledger(f"sqlite:///{file}") as ledger, ledger.writing() as pen:
        for number in range(3000):
            pen.write(row(f"AZJN-{number:04}"))
    line = " ".join(TOOL) + " ledger list | head -3"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 3, "")


def row(serial: str) -> Entry:
    return Entry(
        attempt=f"attempt of {serial}",
        serial=serial,
        email=f"{serial}@example.com",
        sandbox=True,
        step="post_flash",
        outcome="done",
        at="2026-11-28T06:00:00.000000Z",
    )


@pytest.mark.parametrize("more", [[], ["--no-flash"]])
def test_the_end_of_a_build_is_six_lines_of_80_columns(run: Run, more: list[str]) -> None:
    ran = run("image", "AZJN-0042", *more)
    lines = ran.err.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("  account "))
    end = lines[first:]
    assert len(end) <= 6, end
    assert end[-1].startswith("DONE in the SANDBOX: AZJN-0042")
    assert all(len(line) <= 80 for line in end if "flash_command" not in line), end
    assert ("flashed" in ran.err, "flash_command  cd " in ran.err) == (True, bool(more))


def test_a_fleet_of_images_names_their_folder(run: Run) -> None:
    ran = run("fleet", "AZJN-0001", "--out", "images")
    assert f"images: {Path('images').absolute()}" in ran.err.splitlines()
    assert "images:" not in run("fleet", "AZJN-0002").err


def test_verify_without_a_serial_says_whose_an_image_is(run: Run) -> None:
    run("fleet", "AZJN-0001", "--out", "images")
    ran = run("verify", "images/AZJN-0001.img")
    assert (ran.code, ran.err) == (
        0,
        "OK: images/AZJN-0001.img (ext4) carries azaion-jetson-0001@azaion.com, a serial that ends"
        " in -0001\n",
    )
    told = run("verify", "images/AZJN-0001.img", "--json").json
    assert (told["serial"], told["email"]) == (None, "azaion-jetson-0001@azaion.com")
    run("base", "--out", "base.img")
    blank = run("verify", "base.img")
    assert (blank.code, "placeholder" in blank.err) == (8, True), blank.err
