"""The report of a bug: the plug-in's own file and line, and whether the device is flashed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from thorough import one_of
from world import SERIAL

from azaion_imagebuild.cli import main

Shown = Callable[..., tuple[int, str]]

HEAD = """\
import json, pathlib, subprocess
from concurrent.futures import ThreadPoolExecutor
from azaion_imagebuild import hookimpl
def helper():
    json.loads("{")  # HELPER
"""
BUGS = {
    "pathlib": "pathlib.Path('/nowhere/x').read_text()  # HERE",
    "json": "json.loads('{')  # HERE",
    "subprocess": "subprocess.run(['/nowhere/program'])  # HERE",
    "a lambda": "(lambda: {}['key'])()  # HERE",
    "sorted by a lambda": "sorted([1, 'a'], key=lambda each: each + 1)  # HERE",
    "a thread": "ThreadPoolExecutor().submit(lambda: {}['key']).result()  # HERE",
    "a comprehension": "[1 / each for each in [0]]  # HERE",
    "a generator": "list(1 / each for each in [0])  # HERE",
    "exec": "exec('1 / 0')  # HERE",
    "eval": "eval('1 / 0')  # HERE",
    "a helper": "helper()",
    "assert": "assert build.serial == 'x'  # HERE",
    "recursion": "(lambda f: f(f))(lambda f: f(f))  # HERE",
    "chained": (
        "try:\n        json.loads('{')\n    except ValueError as error:\n"
        "        raise RuntimeError('x') from error  # HERE"
    ),
    "in a handler": (
        "try:\n        json.loads('{')\n    except ValueError:\n        {}['key']  # HERE"
    ),
    "a traceback of none": "raise KeyError('x')  # HERE",
    "a name of its own": "raise type('Odd', (BaseException,), {})('x')  # HERE",
    "sys.exit": "raise SystemExit(0)  # HERE",
}
if sys.version_info >= (3, 11):
    BUGS["a group"] = "raise ExceptionGroup('x', [ValueError('a'), KeyError('b')])  # HERE"


def line_of(path: Path, bug: str) -> str:
    mark = "# HERE" if "# HERE" in bug else "# HELPER"
    lines = path.read_text().splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if mark in line)
    return f"{path.absolute()}:{number}"


def write(path: Path, step: str, bug: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}@hookimpl\ndef {step}(build):\n    {bug}\n")


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """Call the command line; its traceback is expected."""

    def call(*argv: str) -> tuple[int, str]:
        code = main.run(argv)
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("name", one_of(BUGS))
@pytest.mark.parametrize("step", ["preflight", "post_flash"])
def test_a_bug_is_reported_with_the_plug_ins_file_and_line(
    shown: Shown, name: str, step: str
) -> None:
    plugin = Path("site/bug.py")
    write(plugin, step, BUGS[name])
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')
    code, err = shown("image", "--serial", SERIAL)
    assert code == 70, err
    (error, *_) = (line for line in err.splitlines() if line.startswith("error: "))
    assert error.startswith(f"error: a bug in {line_of(plugin, BUGS[name])}, step {step}: "), err
    flashed = "is flashed already, and has its new password"
    assert (flashed in err) == (step == "post_flash")


@pytest.mark.parametrize("name", ["pathlib", "a lambda"])
def test_a_bug_of_an_installed_package_is_its_own(
    shown: Shown, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    write(packages / f"factory_bug_{len(name)}.py", "preflight", BUGS[name])
    about = packages / "factory_bug-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: factory-bug\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        f"[azaion_imagebuild]\nfactory = factory_bug_{len(name)}\n"
    )
    monkeypatch.syspath_prepend(str(packages))
    code, err = shown("image", "--serial", SERIAL)
    assert code == 70, err
    place = line_of(packages / f"factory_bug_{len(name)}.py", BUGS[name])
    assert f"error: a bug in {place}, step preflight: " in err


UNUSABLE = [
    ("preflight", "True"),
    ("preflight", "['bad']"),
    ("pre_flash", "['bad']"),
    ("pre_flash", "7"),
    ("verify_image", "7"),
    ("post_flash", "'bad'"),
    ("post_flash", "{'serial': 'X'}"),
]


@pytest.mark.parametrize(("step", "answer"), one_of(UNUSABLE, kept=2))
def test_a_plug_in_that_answers_what_cannot_be_used_is_named(
    shown: Shown, tmp_path: Path, step: str, answer: str
) -> None:
    write(Path("site/label.py"), step, f"return {answer}")
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')
    code, err = shown("image", "--serial", SERIAL)
    assert code == 70, err
    assert f", or in what label answered, step {step}: " in err
    (rootfs,) = tmp_path.rglob("Linux_for_Tegra/rootfs")
    assert not (rootfs / "etc/azaion").exists(), "nothing stays staged"
