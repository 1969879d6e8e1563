"""What is done stays done: signals at the end change neither record, ledger nor exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from storms import ended, plug_in
from thorough import one_of
from world import EMAIL, SERIAL, Run, replace_script

from azaion_imagebuild.sandbox import Accounts, Sandbox

MOMENTS = {
    "post_flash": "@hookimpl\ndef post_flash(): begin()",
    "after post_flash": "@hookimpl(trylast=True)\ndef post_flash(): begin()",
    "cleanup": "@hookimpl\ndef cleanup(): begin()",
}


def last_row(run: Run, serial: str = SERIAL) -> Any:
    return json.loads(run("ledger", "show", serial, "--json").out)[-1]


@pytest.mark.parametrize("flash", one_of(["0", "1"], kept=1))
@pytest.mark.parametrize("signal", one_of(["SIGTERM", "SIGINT"]))
@pytest.mark.parametrize("moment", one_of(MOMENTS))
def test_a_device_that_is_done_is_not_interrupted(
    run: Run, moment: str, signal: str, flash: str
) -> None:
    plug_in(MOMENTS[moment], signal)
    code, record, err = ended("image", "--serial", SERIAL, "--flash", flash)
    assert (code, record["outcome"]) == (0, "done"), err
    row = last_row(run)
    assert (row["outcome"], row["flashed"], row["exit_code"]) == ("done", flash == "1", None)
    assert record["ledger"]["row"] == row["row"] if "row" in row else True


def test_a_signal_while_an_object_is_finalized_is_not_lost(run: Run) -> None:
    plug_in(
        "class Last:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "@hookimpl\ndef prepare():\n    Last()\n    time.sleep(60)"
    )
    code, record, err = ended("image", "--serial", SERIAL)
    assert (code, record["step"]) == (130, "prepare"), err


@pytest.mark.parametrize("place", ["plug-in", "command"])
def test_an_interrupt_that_python_wraps_is_one(run: Run, place: str) -> None:
    text = """
class Named:
    def __set_name__(self, owner, name):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt as error:  # as Python 3.11 itself, where it defines a class
            raise RuntimeError("Error calling __set_name__") from error
def define():
    type("Owner", (), {"named": Named()})
"""
    plug_in(text + ("define()" if place == "command" else "@hookimpl\ndef prepare(): define()"))
    code, record, err = ended("image", "--serial", SERIAL)
    assert (code, record["outcome"]) == (130, "interrupted" if place == "command" else "failed"), (
        err
    )


@pytest.mark.parametrize("signal", one_of(["TERM", "INT", "HUP"]))
def test_a_flash_that_succeeded_is_not_interrupted(run: Run, tmp_path: Path, signal: str) -> None:
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    sandbox.create(1.0)
    replace_script(  # its success is read, and it is still at work
        sandbox.bsp / "flash.sh",
        f'./flash.sh.real "$@" || exit\n[[ $1 == -r ]] || exit 0\nkill -{signal} $PPID; sleep 0.5',
    )
    code, record, err = ended("image", "--serial", SERIAL)
    assert (code, record["outcome"], record["flashed"]) == (0, "done", True), err
    assert last_row(run)["outcome"] == "done"


def test_a_flash_that_has_not_succeeded_is_interrupted(run: Run, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    sandbox.create(1.0)
    replace_script(
        sandbox.bsp / "flash.sh",
        '[[ $1 != -r ]] || { kill -TERM $PPID; sleep 60; }; ./flash.sh.real "$@"',
    )
    code, record, err = ended("image", "--serial", SERIAL)
    assert (code, record["step"]) == (130, "flash"), err
    assert (last_row(run)["outcome"], last_row(run)["exit_code"]) == ("failed", 130)


def test_a_build_that_failed_says_so_whatever_comes_then(run: Run) -> None:
    plug_in(
        "@hookimpl\ndef verify_image(): raise ImageBuildError('no', hint='no')\n"
        "@hookimpl\ndef build_failed(): begin()"
    )
    code, record, err = ended("image", "--serial", SERIAL)
    assert (code, record["exit_code"], record["step"]) == (6, 6, "verify_image"), err
    assert (last_row(run)["outcome"], last_row(run)["exit_code"]) == ("failed", 6)


def test_a_rotation_that_has_begun_to_write_is_finished(
    run: Run, accounts: Accounts, api_url: str
) -> None:
    accounts.create(EMAIL, "old", "CompanionPC")
    plug_in("@hookimpl\ndef post_provision(): begin()")
    argv = ("--serial", SERIAL, "--api-url", api_url, "--device-conf", "new.conf")
    code, record, err = ended("rotate", *argv)
    assert (code, record["outcome"], last_row(run)["outcome"]) == (0, "done", "done"), err
    assert accounts.login(EMAIL, Path("new.conf").read_text().split("PASSWORD=")[1].strip())
