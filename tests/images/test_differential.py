"""A small part of the campaigns in fuzz/: what is proven reads alike, whatever is damaged."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from thorough import thorough

FUZZ = Path(__file__).parents[2] / "fuzz"
needs_libsparse = pytest.mark.skipif(shutil.which("simg2img") is None, reason="needs simg2img")


def fuzzed(script: str, *argv: object) -> str:
    done = subprocess.run(
        [sys.executable, FUZZ / script, *map(str, argv), "--keep", "kept"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        ("ext4", 8),
        pytest.param("tar", 200, marks=thorough),
        pytest.param("ext4", 200, marks=thorough),
        pytest.param("sparse", 200, marks=[thorough, needs_libsparse]),
    ],
)
def test_damaged_images_that_are_proven_read_alike(kind: str, cases: int) -> None:
    said = fuzzed("differential.py", kind, "--cases", cases, "--seed", 7)
    seen = dict(re.findall(r"'(proven|refused)': (\d+)", said))
    assert set(seen) == {"proven", "refused"}, said


@pytest.mark.parametrize("cases", [100, pytest.param(10_000, marks=thorough)])
def test_no_reader_is_stopped_by_damaged_input(cases: int) -> None:
    said = fuzzed("fuzz_readers.py", "--cases", cases, "--seed", 7)
    assert len(re.findall(", 0 faults", said)) == len(said.splitlines()) > 20


@thorough
def test_builds_that_are_killed_at_their_end_tell_the_truth() -> None:
    done = subprocess.run(
        [sys.executable, FUZZ / "kill_campaign.py", "--builds", "10", "--seed", "7"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
