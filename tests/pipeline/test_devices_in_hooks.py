"""A plug-in that admits devices: asked for each of them, and never for one that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from thorough import one_of
from world import SERIAL, Run, outcomes

import azaion_imagebuild

GUIDE = Path(azaion_imagebuild.__file__).parent.parent / "docs/how-to/plugins.md"
OTHER = "AZJN-0043"
GATE = """
from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import PreflightError
from azaion_imagebuild.model import Finding
@hookimpl
def {step}(build):
    {answer}
"""
REFUSALS = {
    "error": "return [Finding(message=f'{build.serial}: no', hint=f'add {build.serial}')]",
    "e-mail": "return [Finding(message=f'{build.email}: no', hint='add it')]",
    "unnamed": "return [Finding(message='no', hint='add it')]",
    "raised": "raise PreflightError(f'{build.serial}: no', hint=f'add {build.serial}')",
}


def gate(step: str, answer: str) -> None:
    """Install a plug-in with one step."""
    Path("site").mkdir()
    Path("site/gate.py").write_text(GATE.format(step=step, answer=answer))
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')


def the_guides_example() -> None:
    """Install the first plug-in of the page, with one device on its list."""
    found = re.search(
        r'```python title="factory-hooks/label.py"\n(.*?)```', GUIDE.read_text(), re.S
    )
    assert found is not None
    folder = Path("factory-hooks")
    folder.mkdir()
    (folder / "label.py").write_text(found[1])
    (folder / "today.txt").write_text(f"{SERIAL}\n")
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["factory-hooks"]\n')


@pytest.mark.parametrize(
    "argv",
    one_of([
        (("image", "--serial", OTHER),),
        (("rotate", "--serial", OTHER, "--device-conf", "new.conf"),),
        (("stamp", f"images/{OTHER}.img", "--serial", OTHER, "--replace"),),
    ]),
)  # fmt: skip
def test_the_guides_plug_in_refuses_a_device_in_every_command(
    run: Run, argv: tuple[str, ...]
) -> None:
    if argv[0] != "image":
        assert run("fleet", OTHER, "--out", "images").code == 0
    the_guides_example()
    ran = run(*argv, "--json")
    assert (ran.code, ran.errors) == (3, [f"error: {OTHER} is not on today's list"])
    admitted = run("image", "--serial", SERIAL, "--json")
    assert (admitted.code, admitted.json["shift"]) == (0, "early")


@pytest.mark.parametrize("where", one_of([(("--out", "images"),), ((),)]))
def test_the_guides_plug_in_refuses_one_device_of_a_fleet(run: Run, where: tuple[str, ...]) -> None:
    the_guides_example()
    ran = run("fleet", f"{SERIAL}..{OTHER}", *where, "--json")
    assert outcomes(ran) == {SERIAL: "done", OTHER: "failed"}
    assert "not on today's list" in ran.err
    assert "BASE" not in ran.err + ran.out


def test_a_refused_device_of_a_fleet_keeps_the_image_that_it_has(run: Run) -> None:
    assert run("fleet", OTHER, "--out", "images").code == 0
    image = Path(f"images/{OTHER}.img")
    before = image.read_bytes()
    the_guides_example()
    assert outcomes(run("fleet", OTHER, "--out", "images", "--again", "--json")) == {
        OTHER: "failed"
    }
    assert image.read_bytes() == before


@pytest.mark.parametrize("refusal", one_of(REFUSALS.values()))
def test_nobody_asks_a_sites_plug_in_without_a_device(run: Run, refusal: str) -> None:
    gate("preflight", refusal)
    assert run("base", "--out", "b").code == 0
    assert run("doctor").code == 0
    ran = run("fleet", SERIAL, "--out", "images", "--json")
    assert outcomes(ran) == {SERIAL: "failed"}
    assert "BASE-0" not in ran.err + ran.out


def test_a_device_that_is_called_like_the_base_is_asked_about(run: Run) -> None:
    gate("preflight", REFUSALS["error"])
    ran = run("image", "--serial", "BASE-0")
    assert (ran.code, ran.errors) == (3, ["error: BASE-0: no"])


@pytest.mark.parametrize("step", one_of(["prepare", "cleanup"]))
def test_no_plug_in_shows_the_serial_that_no_device_has(run: Run, step: str) -> None:
    gate(step, REFUSALS["raised"])
    ran = run("base", "--out", "b")
    assert "BASE-0" not in ran.err
    assert "the base image: no" in ran.err
    assert "preflight, which is asked for each of them" in ran.err
