"""Commands as hands expect them: short flags, words without a flag, dry runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from world import Run

from azaion_imagebuild.sandbox import Accounts


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
