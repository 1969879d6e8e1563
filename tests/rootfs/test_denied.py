"""Paths that the user may not look at: a forgotten sudo is not a bug."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from thorough import one_of
from world import SERIAL, TOOL

# Root without capabilities may look where its modes let it, as everybody else.
PLAIN = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "closed"
    folder.mkdir(0o000)
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize(
    ("argv", "code"),
    one_of([
        (("image", "--serial", SERIAL, "--api-url", "http://127.0.0.1:9", "--bsp", "{}/bsp"), 3),
        (("provision", "--serial", SERIAL, "--api-url", "http://127.0.0.1:9",
          "--rootfs-dir", "{}/rootfs"), 3),
        (("doctor", "--api-url", "http://127.0.0.1:9", "--bsp", "{}/bsp"), 2),
        (("verify", "{}/image", "--serial", SERIAL), 2),
        (("stamp", "{}/image", "--serial", SERIAL), 2),
        (("ledger", "list", "--state-dir", "{}/state"), 2),
    ]),
)  # fmt: skip
def test_what_may_not_be_looked_at_is_said_once(
    closed: Path, argv: tuple[str, ...], code: int
) -> None:
    words = [word.format(closed) for word in argv]
    ran = subprocess.run([*PLAIN, *TOOL, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stderr
    problems = [line for line in ran.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    error, hint = problems
    assert error.startswith(f"error: cannot read {closed}/")
    assert error.endswith(": Permission denied")
    assert hint.startswith("hint: run the same command as root (sudo)")
    assert "Traceback" not in ran.stderr
