"""What is done stays done: signals at the end change neither record, ledger nor exit code."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from thorough import one_of
from world import EMAIL, SERIAL, TOOL, Run

from azaion_imagebuild.sandbox import Accounts

STORM = """
import os, signal, threading, time
from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import ImageBuildError
def storm():
    while True:
        os.kill(os.getpid(), signal.{signal})
        time.sleep(0.0003)
def begin():
    threading.Thread(target=storm, daemon=True).start()
    time.sleep(0.01)
"""
"""A plug-in that has the process signalled, from a moment on until it is gone."""

MOMENTS = {
    "post_flash": "@hookimpl\ndef post_flash(): begin()",
    "after post_flash": "@hookimpl(trylast=True)\ndef post_flash(): begin()",
    "cleanup": "@hookimpl\ndef cleanup(): begin()",
}


def ended(*argv: object) -> tuple[int, Any, str]:
    """Run a command in a process that heeds signals; return its exit code, record and stderr."""
    done = subprocess.run(
        ["env", "--default-signal=INT,TERM,HUP", *TOOL, *map(str, argv), "--json"],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception closing" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def plug_in(text: str, signal: str = "SIGTERM") -> None:
    Path("site").mkdir(exist_ok=True)
    Path("site/storm.py").write_text(STORM.format(signal=signal) + text + "\n")
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')


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
