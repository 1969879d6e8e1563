"""A plug-in that admits devices: asked for each of them, and never for one that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from thorough import one_of
from world import SERIAL, Run, outcomes

import azaion_imagebuild

GUIDE = Path(azaion_imagebuild.__file__).parent.parent / "docs/reference/hooks.md"
OTHER = "AZJN-0043"
IN_PREFLIGHT = """
from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import PreflightError
from azaion_imagebuild.model import Finding
@hookimpl
def preflight(build):
    {answer}
"""
ANSWERS = {
    "error": "return [Finding(message=f'{build.serial}: no', hint=f'add {build.serial}')]",
    "e-mail": "return [Finding(message=f'{build.email}: no', hint='add it')]",
    "hint": "return [Finding(message='no', hint=f'add {build.serial}')]",
    "warning": "return [Finding(message=build.serial, hint='add it', severity='warning')]",
    "raised": "raise PreflightError(f'{build.serial}: no', hint=f'add {build.serial}')",
}


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


@pytest.mark.parametrize("command", [("fleet", SERIAL, "--out", "images"), ("base", "--out", "b")])
@pytest.mark.parametrize("kind", ANSWERS)
def test_no_plug_in_shows_the_serial_that_no_device_has(
    run: Run, kind: str, command: tuple[str, ...]
) -> None:
    Path("site").mkdir()
    Path("site/gate.py").write_text(IN_PREFLIGHT.format(answer=ANSWERS[kind]))
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')
    ran = run(*command)
    shown = "\n".join(line for line in ran.err.splitlines() if not line.startswith("log: "))
    assert "BASE-0" not in shown
    assert "azaion-jetson-0@" not in shown
    assert "pre_provision, which is asked for each device" in shown
    assert ran.code == (0 if kind == "warning" else 3), shown
