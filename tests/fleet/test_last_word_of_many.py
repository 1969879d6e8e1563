"""What many devices are told to be is so: a storm of signals loses no record and no exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from storms import ended, plug_in
from thorough import one_of, thorough
from world import Run

from azaion_imagebuild.sandbox import Sandbox

THREE = "AZJN-0001..AZJN-0003"
STORMS = {
    "the last device is done": "@hookimpl(trylast=True)\ndef post_flash(): begin_at_call(3)",
    "the last device is tidied up": "@hookimpl\ndef cleanup(): begin_at_call(4)",
    "the last device has its account": "@hookimpl\ndef post_provision(): begin_at_call(3)",
    "the first device is done": "@hookimpl(trylast=True)\ndef post_flash(): begin_at_call(1)",
}
"""When the storm begins; a base is tidied up, too."""


def in_the_ledger(run: Run, serial: str) -> Any:
    rows = json.loads(run("ledger", "show", serial, "--json").out)
    return rows[-1] if isinstance(rows, list) else {"outcome": "not started", "attempt": None}


def agrees_with_the_ledger(run: Run, record: dict[str, Any]) -> bool:
    row: dict[str, Any] = in_the_ledger(run, record["serial"])
    if record["outcome"] == "not started":
        return str(row["outcome"]) != "done"
    same = ("outcome", "attempt", "flashed")
    return all(record[name] == row[name] for name in same)


@pytest.mark.parametrize(
    ("moment", "signal", "images"),
    one_of(
        (moment, signal, images)
        for moment in STORMS
        for signal in ("SIGTERM", "SIGINT")
        for images in (True, False)
    ),
)
def test_a_fleet_tells_every_record_whatever_signals_come(
    run: Run, moment: str, signal: str, images: bool
) -> None:
    plug_in(STORMS[moment], signal)
    where = ("--out", "images") if images else ()
    code, told, err = ended("fleet", THREE, "--jobs", "2", *where)
    assert told["exit_code"] == code, err
    assert len(told["records"]) == told["total"] == 3
    Path("imagebuild.toml").unlink()
    assert all(agrees_with_the_ledger(run, record) for record in told["records"]), err
    done = [record for record in told["records"] if record["outcome"] == "done"]
    assert len(done) == told["done"]
    if moment.startswith("the last device is done"):
        assert (code, told["outcome"], told["done"]) == (0, "done", 3), err
    assert code == (0 if told["done"] == 3 else 130)
    assert Path(told["report"]).is_file()


@thorough
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_fleet_that_is_stopped_while_its_base_is_built_says_so(run: Run, signal: str) -> None:
    plug_in("@hookimpl\ndef prepare(): begin_at_call(1)", signal)
    code, told, err = ended("fleet", THREE, "--out", "images")
    assert (code, told["exit_code"], told["outcome"]) == (130, 130, "interrupted"), err
    Path("imagebuild.toml").unlink()
    assert in_the_ledger(run, "AZJN-0001")["outcome"] == "not started"
    assert run("fleet", THREE, "--out", "images").code == 0


@thorough
def test_a_fleet_that_cannot_tidy_up_still_tells_what_is_done(run: Run) -> None:
    plug_in(
        "import shutil\n@hookimpl\ndef cleanup():\n"
        "    calls.append(0)\n    if len(calls) == 4: shutil.rmtree('images/.azaion-fleet')"
    )
    code, told, err = ended("fleet", THREE, "--out", "images")
    assert (code, told["outcome"], told["done"]) == (0, "done", 3), err
    assert "warning: cannot write into" in err


@thorough
@pytest.mark.parametrize(
    ("number", "signal"), one_of((number, signal) for number in (1, 3) for signal in
                                 ("SIGTERM", "SIGINT", "SIGHUP")),
)  # fmt: skip
@pytest.mark.parametrize("hook", ["post_provision", "cleanup", "post_flash"])
def test_a_rotation_of_many_tells_every_record_whatever_signals_come(
    run: Run, number: int, signal: str, hook: str, tmp_path: Path
) -> None:
    assert run("fleet", THREE, "--out", "images").code == 0
    plug_in(f"@hookimpl(trylast=True)\ndef {hook}(): begin_at_call({number})", signal)
    code, told, err = ended("rotate", "--all-older-than", "0h", "--out", "new")
    assert told["exit_code"] == code, err
    Path("imagebuild.toml").unlink()
    records = told["records"]
    assert all(agrees_with_the_ledger(run, record) for record in records), err
    assert len(records) + len(told["not_started"]) == told["total"] == 3
    assert code == (0 if told["done"] == 3 else 130)
    accounts = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox").accounts
    for record in records:
        new = Path("new", f"{record['serial']}.conf").read_text()
        assert accounts.login(record["email"], new.split("PASSWORD=")[1].strip())
