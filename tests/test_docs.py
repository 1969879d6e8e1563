"""What README shows is run; what it says of commands and exit codes is held against the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from world import Run

import azaion_imagebuild
from azaion_imagebuild import cli, hookspecs
from azaion_imagebuild.errors import ExitCode
from azaion_imagebuild.resources import shipped

ROOT = Path(azaion_imagebuild.__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readmes_sandbox_commands_work_in_turn(tmp_path: Path) -> None:
    environ = os.environ | {"HOME": str(tmp_path)}
    environ.pop("XDG_STATE_HOME")
    make = f"make --no-print-directory -o .venv/.image RUN={Path(sys.executable).parent} image"
    image, again, looks = blocks("sh")[:3]
    assert image == again
    for line in [image, *looks.splitlines()]:
        command = line.partition("   #")[0].replace(".venv/bin", str(Path(sys.executable).parent))
        command = command.replace("make image", make)
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environ, check=False,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
        assert "make image" in line or done.stdout
    assert "Mode:  0600" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")
def test_the_readmes_real_command_and_its_makefile_work(bsp: Path, api_url: str) -> None:
    ready = f"-o .venv/.image RUN={Path(sys.executable).parent}"
    for text in (blocks("sh")[3], blocks("make")[0]):
        text = text.replace("/opt/azaion-imagebuild", str(ROOT)).replace("sudo ", "")
        text = text.replace("/srv/l4t/Linux_for_Tegra", str(bsp))
        text = text.replace("https://admin.internal.example.com", api_url)
        if text.startswith("image-%"):
            text = text.replace(f"-C {ROOT} image", f"-C {ROOT} {ready} image")
            assert ready in text
            Path("Makefile").write_text(f"L4T := {bsp}\nAPI := {api_url}\n{text}")
            command, cwd = "make image-AZJN-0042", Path.cwd()
            hostile = subprocess.run(["make", "image-AZJN-0042;touch trap #"], check=False)
            assert hostile.returncode == 2
            assert not Path("trap").exists()
        else:
            command, cwd = text.replace("make image", f"make {ready} image"), ROOT
        done = subprocess.run(["bash", "-c", command], cwd=cwd, check=False,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "DONE: AZJN-0042" in done.stderr


def test_the_readmes_stamping_commands_work_in_turn() -> None:
    (text,) = (block for block in blocks("sh") if "azaion-imagebuild base" in block)
    for command in text.splitlines():
        words = command.replace("azaion-imagebuild", f"{sys.executable} -m azaion_imagebuild", 1)
        done = subprocess.run(words.split(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
    assert "OK: AZJN-0042.img" in done.stderr


def test_the_readmes_plug_in_is_a_plug_in(run: Run) -> None:
    folder = Path("factory-hooks")
    folder.mkdir()
    (folder / "label.py").write_text(blocks("python")[1])
    (folder / "today.txt").write_text("AZJN-0042\n")
    Path("imagebuild.toml").write_text(blocks("toml")[2])
    listed = run("image", "--serial", "AZJN-0042", "--json")
    assert listed.code == 0, listed.err
    assert listed.json["shift"] == "early"
    other = run("image", "--serial", "AZJN-0043", "--json")
    assert (other.code, other.json["error"]) == (3, "AZJN-0043 is not on today's list")


def test_the_readmes_python_call_builds_an_image() -> None:
    done = subprocess.run([sys.executable, "-c", blocks("python")[0]], check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()


def test_the_readmes_settings_are_settings(tmp_path: Path) -> None:
    from azaion_imagebuild.configuration import load

    for text in blocks("toml"):
        Path("imagebuild.toml").write_text(text)
        load({}, {}, None)


def test_every_command_is_in_the_readme_and_every_exit_code(run: Run) -> None:
    parser = cli._parser()
    (commands,) = (a for a in parser._actions if a.dest == "command" or a.choices)
    assert commands.choices is not None
    for command in commands.choices:
        assert f"`azaion-imagebuild {command}" in README, command
    used = set(ExitCode)
    for code in used:
        assert f"`{int(code)}` " in README, code
        assert re.search(rf"\b{int(code)} \w", parser.epilog or ""), code


def test_help_and_version_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, words in (["--help"], "commands:"), (["image", "--help"], "--serial"), (
        ["--version"], azaion_imagebuild.__version__,
    ):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            cli.run(argv)
        assert caught.value.code == 0
        assert words in capsys.readouterr().out


def test_the_hooks_of_the_page_are_the_hooks_of_the_table() -> None:
    declared = [
        name for name, value in vars(hookspecs).items() if hasattr(value, "azaion_imagebuild_spec")
    ]
    assert tuple(declared) == hookspecs.EVERY_STEP


def test_every_file_that_documents_point_to_is_there() -> None:
    for document in (ROOT / "README.md", ROOT / "DEVELOPING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("https://") or (ROOT / target).exists(), target
        folders = "templates|hooks|docs|tests|benchmarks|azaion_imagebuild"
        for target in re.findall(rf"`((?:{folders})/[\w/-]*(?:\.\w+)?)`", document.read_text()):
            if target.endswith((".py", ".toml", ".md", ".sh", "/")):
                assert (ROOT / target).exists(), target
    assert shipped("templates").is_dir()
