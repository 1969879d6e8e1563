"""An image's own file name: whatever it is, the checks see the image and no options in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from thorough import one_of
from world import Run

NAMES = ["a?offset=4096.img", "?.img", "-f.img", "a b.img", "a\\b.img", "a'\"b.img", "a$(id)`b.img",
         "a%20b.img", "a\nb.img", "å.img", "a;b&c|d.img", "a?b?c=1&d.img", "#a.img", "a=b,c.img",
         os.fsdecode(b"\xff.img")]  # fmt: skip


@pytest.mark.parametrize("name", one_of(NAMES))
def test_an_image_with_an_odd_name_is_stamped_and_proven(run: Run, name: str) -> None:
    assert run("base", "--out", "base.img").code == 0
    path = Path(name).absolute()
    Path("base.img").rename(path)
    stamped = run("stamp", path, "--serial", "AZJN-0042")
    assert stamped.code == 0, stamped.err
    assert run("verify", path, "--serial", "AZJN-0042").code == 0
    path.rename("plain.img")
    damage = ["debugfs", "-w", "-R", "set_inode_field /etc/passwd links_count 7", "plain.img"]
    subprocess.run(damage, check=True, capture_output=True)
    Path("plain.img").rename(path)
    damaged = run("verify", path, "--serial", "AZJN-0042", "--json")
    assert damaged.code == 8
    assert "e2fsck finds" in damaged.json["findings"][0]["error"]
