from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs
from world import Run

from azaion_imagebuild.errors import UsageError
from azaion_imagebuild.pipeline import hookspecs
from azaion_imagebuild.pipeline.plugins import implementers, load_plugins
from azaion_imagebuild.settings import HooksSettings

HEAD = "from azaion_imagebuild import hookimpl\n"
Site = Callable[..., HooksSettings]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Make a folder of plug-ins out of file name → text."""

    def make(files: dict[str, str], folder: str = "site", **settings: list[str]) -> HooksSettings:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        for name, text in files.items():
            (path / name).write_text(HEAD + text)
        return structs.replace(HooksSettings(), dirs=[path], **settings)

    return make


def test_every_step_of_a_build_has_a_shipped_plug_in() -> None:
    manager = load_plugins(HooksSettings())
    for step in hookspecs.REQUIRED:
        assert implementers(manager, step), step


def test_plug_ins_are_called_in_name_order_the_sites_first(site: Site) -> None:
    step = "@hookimpl\ndef preflight(build): return [__name__]\n"
    settings = site({"zz_last.py": step, "aa_first.py": step, "_hidden.py": "raise OSError"})
    manager = load_plugins(settings)
    names = [name for name, _ in implementers(manager, "preflight")]
    assert names == ["aa_first", "zz_last", "admin_api", "bsp", "device_conf",
                     "escrow", "fuse", "smoke"]  # fmt: skip


def test_a_sites_answer_comes_before_the_shipped_one(site: Site) -> None:
    settings = site({"mine.py": "@hookimpl\ndef provision_identity(build): return 'mine'\n"})
    assert load_plugins(settings).hook.provision_identity(build=None) == "mine"


def test_a_plug_in_may_hold_dataclasses_with_postponed_annotations(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "dc").mkdir()
    (tmp_path / "dc/data.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "@dataclass\nclass A:\n    x: ClassVar[int] = 1\n    y: int = 2\n"
    )
    load_plugins(HooksSettings(dirs=[tmp_path / "dc"]))


def test_plug_ins_can_be_left_out(site: Site) -> None:
    manager = load_plugins(HooksSettings(disable=["smoke"]))
    assert [name for name, _ in implementers(manager, "post_flash")] == [
        "base",
        "device_conf",
        "residue",
    ]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("@hookimpl\ndef pre_flsh(build): pass\n", "unknown hook", "pre_flash"),
        ("@hookimpl\ndef pre_flash(bild): pass\n", "does not fit.*bild", "hookspecs.py"),
        ("def broken(:\n", "cannot be loaded: SyntaxError", "--disable odd"),
        ("import nothing_of_the_kind\n", "cannot be loaded: ModuleNotFoundError", "--disable odd"),
    ],
)
def test_a_plug_in_that_does_not_fit_fails_loudly(
    site: Site, text: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_plugins(site({"odd.py": text}))
    assert hint in caught.value.hint


def test_a_broken_plug_in_can_be_left_out(site: Site) -> None:
    load_plugins(site({"odd.py": "def broken(:\n"}, disable=["odd"]))


def test_two_plug_ins_of_one_name_are_refused(site: Site) -> None:
    with pytest.raises(UsageError, match="two plug-ins are named smoke"):
        load_plugins(site({"smoke.py": ""}))


def test_an_unknown_name_to_leave_out_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        load_plugins(HooksSettings(disable=["smok"]))
    assert caught.value.hint == "did you mean smoke?"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such plug-in folder"):
        load_plugins(HooksSettings(dirs=[tmp_path / "nothing"]))


@pytest.mark.parametrize("name", ["device_conf", "admin_api", "flash"])
def test_a_build_without_a_plug_in_for_each_step_does_not_start(name: str) -> None:
    with pytest.raises(UsageError, match="no plug-in does the step"):
        load_plugins(HooksSettings(disable=[name]))


def test_an_entry_point_is_a_plug_in_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: site-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[azaion_imagebuild]\nfrom_package = site_plugin\n")
    (tmp_path / "site_plugin.py").write_text(HEAD + "@hookimpl\ndef cleanup(build): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    manager = load_plugins(HooksSettings())
    assert [name for name, _ in implementers(manager, "cleanup")] == ["from_package", "bsp"]
    load_plugins(HooksSettings(disable=["from_package"]))


def test_the_hooks_command_lists_step_plug_in_and_file(run: Run, site: Site) -> None:
    site({"mine.py": "@hookimpl\ndef cleanup(build): pass\n"})
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["../site"]\n')
    table = run("hooks")
    assert table.code == 0
    rows = [line.split() for line in table.out.splitlines()]
    assert rows[0] == ["STEP", "PLUG-IN", "FILE"]
    assert [row[0] for row in rows[1:] if row[1] == "device_conf"] == [
        "preflight", "prepare", "pre_flash", "post_flash", "build_failed",
    ]  # fmt: skip
    (mine,) = (row for row in rows if row[1] == "mine")
    assert mine[0] == "cleanup"
    assert Path(mine[2]).is_file()
    assert {row["step"] for row in run("hooks", "--json").json} == set(hookspecs.EVERY_STEP)


def test_every_hook_says_what_it_promises() -> None:
    for step in hookspecs.EVERY_STEP:
        assert len(getattr(hookspecs, step).__doc__) > 60, step
