"""What an attacker or an unlucky operator can do to a fleet, its lanes and its ledger.

Each test plays one attack on real parts: processes and signals, terminals, sockets, full disks.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from world import Ran, Run

from azaion_imagebuild.stamping import copy_image

SHM = Path("/dev/shm")

Plugin = Callable[[str], None]


@pytest.fixture
def plugin() -> Plugin:
    """Make a plug-in of this site, and the imagebuild.toml that names it."""

    def make_plugin(text: str) -> None:
        Path("site").mkdir()
        Path("site/mine.py").write_text(f"from azaion_imagebuild import hookimpl\n{text}")
        Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')

    return make_plugin


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another filesystem than ``tmp_path``."""
    if not SHM.is_dir() or SHM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other filesystem")
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder)


def outcomes(ran: Ran) -> dict[str, str]:
    found: dict[str, Any] = json.loads(ran.out)
    return {record["serial"]: record["outcome"] for record in found["records"]}


def test_a_device_whose_account_got_another_password_is_not_said_to_be_done(run: Run) -> None:
    assert run("fleet", "AZJN-0001..AZJN-0002", "--jobs", "1").code == 0
    assert run("image", "--serial", "AZJN-0001", "--flash", "0").code == 0  # locks the device out
    ran = run("fleet", "AZJN-0001..AZJN-0002", "--jobs", "1", "--json")
    assert outcomes(ran) == {"AZJN-0001": "done", "AZJN-0002": "done before"}


def test_images_may_go_to_another_filesystem_than_the_base(run: Run, elsewhere: Path) -> None:
    ran = run("fleet", "AZJN-0001..AZJN-0002", "--out", elsewhere / "images")
    assert ran.code == 0, ran.err
    sparse = elsewhere / "sparse"
    with sparse.open("wb") as stream:
        stream.write(b"first")
        stream.seek(5 << 20)
        stream.write(b"last")
    copy_image(sparse, Path("copy"))
    assert Path("copy").read_bytes() == sparse.read_bytes()
    assert Path("copy").stat().st_blocks * 512 < 1 << 20
