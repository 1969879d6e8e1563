"""`make image` as BSP build scripts call it: what comes from outside is taken literally."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from making import make
from thorough import one_of, thorough

import azaion_imagebuild

ROOT = Path(azaion_imagebuild.__file__).parent.parent
TOOL = [sys.executable, "-c", "from azaion_imagebuild.__main__ import main; main()"]
"""What the console script does."""


def test_make_alone_lists_the_targets() -> None:
    done = make()
    assert done.returncode == 0
    for target in ("image", "fleet", "test", "check", "docs", "deb", "clean"):
        assert f"make {target}" in done.stdout


def test_one_device_from_make_with_one_line_of_json(tmp_path: Path) -> None:
    done = make("image", "SERIAL=AZJN-0042", "JSON=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert '"outcome": "done"' in done.stdout


@thorough
def test_a_fleet_from_make_takes_its_list_literally(tmp_path: Path) -> None:
    done = make("fleet", "SERIALS=AZJN-0001..AZJN-0003", f"OUT={tmp_path}/images", "JSON=1")
    assert done.returncode == 0, done.stderr
    assert '"done": 3' in done.stdout
    nasty = make("fleet", "SERIALS=--plan; touch $(pwned) `id`", f"OUT={tmp_path}/images")
    assert (nasty.returncode, "is not a serial" in nasty.stderr) == (2, True)
    assert make("fleet").returncode == 2


def test_a_misspelt_variable_builds_nothing(tmp_path: Path) -> None:
    done = make("image", "SERIAL=AZJN-0042", "FLAHS=0", 'X";touch pwned;"=1', cwd=tmp_path)
    assert done.returncode == 2
    error, hint, *_ = done.stderr.splitlines()
    assert error.startswith("error: unknown: ")
    assert "FLAHS" in error
    assert " FLASH " in hint
    assert "attempt" not in done.stderr
    assert not list(ROOT.glob("*pwned*"))


@thorough
def test_what_another_make_hands_on_is_its_own_affair() -> None:
    done = make("image", "SERIAL=AZJN-0042", "KERNEL=of-the-bsp", MAKELEVEL="1")
    assert done.returncode == 0, done.stderr


def test_make_turns_every_failure_into_2_and_the_line_says_which() -> None:
    done = make("image", "SERIAL=AZJN-0042", "BSP=/nowhere", "API_URL=http://127.0.0.1:1", "JSON=1")
    assert done.returncode == 2
    assert '"exit_code": 3' in done.stdout


@pytest.mark.parametrize(
    "serial",
    one_of(
        [
            "../../x",
            "AZJN-0042; touch {trap}",
            "$(shell touch {trap})",
            "`touch {trap}`",
            "$(touch {trap})",
            "' ; touch {trap} '",
            "--help",
            "",
            "$",
            "a\nb-1",
        ]
    ),
)
@pytest.mark.parametrize("way", one_of(["argument", "variable"]))
def test_no_serial_runs_anything(tmp_path: Path, serial: str, way: str) -> None:
    text = serial.format(trap=tmp_path / "trap")
    done = make("image", f"SERIAL={text}") if way == "argument" else make("image", SERIAL=text)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert not (tmp_path / "trap").exists()


@thorough
def test_flash_0_of_the_environment_counts_too() -> None:
    done = make("image", "SERIAL=AZJN-0042", "JSON=1", FLASH="0")
    assert '"flashed": false' in done.stdout, done.stderr


@pytest.mark.parametrize("word", one_of(["0", "false", "No", "off"]))
def test_a_variable_that_says_no_is_off(word: str) -> None:
    done = make("image", "SERIAL=AZJN-0042", f"JSON={word}", f"FLASH={word}", f"FUSE={word}")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "no (FLASH=0)" in done.stderr


@pytest.mark.parametrize("word", one_of(["1", "true", "Yes", "on"]))
def test_a_variable_that_says_yes_is_on(word: str) -> None:
    done = make("image", "SERIAL=AZJN-0042", f"JSON={word}", f"FLASH={word}")
    assert '"flashed": true' in done.stdout, done.stderr


@pytest.mark.parametrize("name", one_of(["JSON", "FLASH", "FUSE"]))
@pytest.mark.parametrize("word", one_of(["perhaps", "", "2", "yes no", "`touch pwned`"]))
def test_a_variable_that_says_neither_yes_nor_no_builds_nothing(name: str, word: str) -> None:
    done = make("image", "SERIAL=AZJN-0042", f"{name}={word}")
    assert done.returncode == 2
    error, hint, *_ = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert "is not yes or no" in error or "is set, but empty" in error
    assert hint.startswith("hint: ")
    assert "attempt" not in done.stderr
    assert not list(ROOT.glob("*pwned*"))


@thorough
def test_the_python_of_the_caller_changes_nothing(tmp_path: Path) -> None:
    for name in ("json", "msgspec", "azaion_imagebuild", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__name__} of the caller')")
    done = make("image", "SERIAL=AZJN-0042", PYTHONINSPECT="1",
                PYTHONPATH=str(tmp_path), PYTHONHOME=str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr


@thorough
def test_the_packages_of_a_foreign_python_path_come_last(tmp_path: Path) -> None:
    for name in ("json", "msgspec", "pluggy", "requests"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__name__} of the caller')")
    done = subprocess.run([*TOOL, "image", "--serial", "AZJN-0042", "--flash=0"],
                          env=os.environ | {"PYTHONPATH": str(tmp_path)},
                          check=False, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_set_up_installs_into_its_own_environment_whatever_the_caller_has(tmp_path: Path) -> None:
    """A stand-in for Python writes down what pip would be told; the real one needs a network."""
    python = tmp_path / "python3"
    python.write_text("""#!/bin/bash
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
if [ "$1 $2" = "-m pip" ]; then env | grep -E "^(PIP_|PYTHON)" | sort > told; fi
exit 0
""")
    python.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    foreign = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    done = subprocess.run(
        ["bash", str(ROOT / "tools/set-up.sh"), str(python), ".venv", ".", "image"],
        env={"PATH": os.environ["PATH"], "PIP_USER": "1", "PIP_INDEX_URL": "https://mirror.example",
             **dict.fromkeys(foreign, "/of/the/caller")},
        cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "told").read_text()
    assert told == "PIP_INDEX_URL=https://mirror.example\nPIP_USER=0\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_an_environment_of_root_is_one_clear_error_for_another_user() -> None:
    nobody = 65534
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(ROOT / "tools", folder / "tools")
        shutil.copy(ROOT / "Makefile", folder)
        (folder / "pyproject.toml").touch()
        os.chown(folder, nobody, nobody)
        packages = folder / ".venv/lib"
        packages.mkdir(parents=True)
        for number in range(100):
            (packages / f"{number}.py").touch()
        python = folder / "python3"
        python.write_text("#!/bin/bash\n")
        python.chmod(0o755)
        script = ["bash", "tools/set-up.sh", str(python), ".venv", ".", "image"]
        for argv in (script, ["make", "clean"]):
            done = subprocess.run(argv, cwd=folder, user=nobody, check=False, capture_output=True,
                                  text=True, env={"PATH": os.environ["PATH"]})  # fmt: skip
            assert done.returncode == 2, done.stderr
            lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ")]
            assert lines == [
                "error: .venv belongs to root",
                f"hint: sudo rm -rf {folder}/.venv, then run the same command again",
            ]
        assert len(list(packages.iterdir())) == 100


@thorough
def test_fuse_is_taken_literally_and_refused_for_a_fleet(tmp_path: Path) -> None:
    done = make("image", "SERIAL=AZJN-0042", "FUSE=1")
    assert "set [fuse] command" in done.stderr
    nasty = make("image", "SERIAL=AZJN-0042", f"FUSE=$(shell touch {tmp_path}/trap)")
    assert (nasty.returncode, "is not yes or no" in nasty.stderr) == (2, True)
    assert not (tmp_path / "trap").exists()
    fleet = make("fleet", "SERIALS=AZJN-0001", f"OUT={tmp_path}/images", FUSE="1")
    assert (fleet.returncode, "burn no fuses" in fleet.stderr) == (2, True)


def test_e2fsprogs_that_are_missing_name_their_package(tmp_path: Path) -> None:
    for tool in ("bash", "sh", "make", "env"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}" if tool != "make" else "/usr/bin/make")
    makefile = (ROOT / "Makefile").read_text().replace(":/usr/sbin:/sbin", "")
    (tmp_path / "Makefile").write_text(makefile.replace("/bin/bash", str(tmp_path / "bash")))
    done = make("-C", str(tmp_path), "-o", ".venv/.image", "image", "SERIAL=A-1",
                makefile="Makefile", cwd=tmp_path, PATH=str(tmp_path))  # fmt: skip
    assert done.returncode == 2
    assert "sudo apt-get install e2fsprogs" in done.stderr


def test_the_workflow_runs_what_runs_everywhere_and_pins_what_it_uses() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "bash .ci/run" in text
    assert os.access(ROOT / ".ci/run", os.R_OK)
    assert "permissions:\n  contents: read\n" in text
    used = re.findall(r"uses: (.*)", text)
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v[\d.]+", each) for each in used)
