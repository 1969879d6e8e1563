"""The sandbox works for every caller, whatever the host is set to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from thorough import one_of

from azaion_imagebuild.cli.main import run
from azaion_imagebuild.sandbox.bsp import create_bsp


@pytest.fixture(params=one_of([0o000, 0o022, 0o027, 0o077], kept=3), ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_build_ends_well_the_first_and_the_second_time(umask: int) -> None:
    for method in ("flash", "initrd", "flash"):
        assert run(["image", "--serial", "AZJN-0042", "--method", method]) == 0


@pytest.mark.parametrize(
    "name", one_of(["a b", "a?b", "100%", "a%20b", "a#b", "a'b", "$(touch x)"], kept=6)
)
def test_a_build_works_in_a_folder_of_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / name))
    for way in (["image"], ["image", "--inject=stamp"], ["fleet", "--out=images"]):
        serial = ["AZJN-0042"] if way[0] == "fleet" else ["--serial=AZJN-0042"]
        assert run([*way, *serial]) == 0
    assert run(["ledger", "show", "AZJN-0042"]) == 0


def test_the_reference_bsp_has_the_modes_of_nvidias_whatever_the_umask(
    umask: int, tmp_path: Path
) -> None:
    bsp = create_bsp(tmp_path / "Linux_for_Tegra")
    modes = {
        str(path.relative_to(bsp)): stat.S_IMODE(path.lstat().st_mode)
        for path in (bsp, *bsp.rglob("*"))
        if path.name != ".azaion-sandbox"
    }
    assert modes.pop("rootfs/etc/shadow") == 0o640
    assert modes.pop("rootfs/tmp") == 0o1777
    assert set(modes.values()) == {0o755, 0o644}
    assert modes["flash.sh"] == modes["rootfs/usr/bin/azaion-loader"] == 0o755
    assert modes["rootfs/etc/passwd"] == 0o644
