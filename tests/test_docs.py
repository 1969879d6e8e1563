"""What README and docs/ show is run; what they say is held against the code."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pages import NEEDS_HARDWARE, PAGES, ROOT, Bench, blocks, inline_commands
from world import Run

import azaion_imagebuild
from azaion_imagebuild import cli, hookspecs
from azaion_imagebuild.configuration import load
from azaion_imagebuild.errors import ExitCode, UsageError
from azaion_imagebuild.resources import shipped
from azaion_imagebuild.sandbox.loader import loader

README = ROOT / "README.md"
TEXT = README.read_text()
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A checkout beside a reference BSP, an admin API, and a Loader of what was flashed."""
    with ExitStack() as opened:

        def loader_url() -> str:
            bsp: Path = request.getfixturevalue("bsp")
            device = loader(bsp.parent / "device.img", request.getfixturevalue("api_url"))
            return opened.enter_context(device).url

        def rootfs() -> str:
            request.getfixturevalue("rootfs_dir")
            return str(tmp_path / "rootfs")

        bench = Bench(tmp_path, {})
        bench.places |= {
            "/srv/l4t/Linux_for_Tegra": lambda: str(request.getfixturevalue("bsp")),
            "https://admin.internal.example.com": lambda: str(request.getfixturevalue("api_url")),
            "/srv/images/orin-nano/rootfs-staging": rootfs,
            "http://azjn-0042.local:8080": loader_url,
            "/opt/azaion-imagebuild": lambda: str(bench.checkout),
            "/etc/azaion-imagebuild": lambda: str(tmp_path / "etc"),
        }
        yield bench


@every_page
def test_what_a_page_shows_works_from_its_top_to_its_end(page: Path, bench: Bench) -> None:
    bench.play(page)


def test_few_blocks_need_hardware_and_readme_says_how_they_begin() -> None:
    asking = [block for page in PAGES for block in blocks(page, "sh") if block.needs_hardware]
    assert 0 < len(asking) <= 5
    assert f"`{NEEDS_HARDWARE}`" in TEXT


@every_page
def test_every_block_is_of_a_language_that_is_looked_at(page: Path) -> None:
    assert page.read_text().count("```") == 2 * len(blocks(page)), "a fence that is not understood"
    for block in blocks(page):
        assert block.language in {"sh", "text", "toml", "python", "make", "csv", "json"}, block.where
    indented = re.findall(r"\n\n    (?:sudo |make |azaion-imagebuild )", page.read_text())
    assert not indented, "use a fenced block, which a test runs"


@every_page
def test_a_command_in_a_sentence_is_one_with_flags_that_there_are(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in inline_commands(page):
        words = command.removeprefix("sudo ").split()
        if words[0] == "make" and len(words) > 1 and words[1].isalpha():
            assert words[1] in targets, command
        if words[0] != "azaion-imagebuild" or len(words) < 2 or re.search(r"[\[<]", command):
            continue
        try:
            cli._parser().parse_args(shlex.split(command)[1:])
        except UsageError as error:
            assert "are required" in error.message or "is required" in error.message, command
        except SystemExit as ended:  # --help, --version
            assert ended.code == 0


@every_page
def test_a_pages_settings_are_settings(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "toml"):
        Path("imagebuild.toml").write_text(block.text)
        load({}, {}, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")
def test_the_readmes_makefile_works_and_runs_nothing_of_a_serial(bench: Bench) -> None:
    (block,) = blocks(README, "make")
    bsp, api = (bench.of_here(each) for each in list(bench.places)[:2])
    Path("Makefile").write_text(f"L4T := {bsp}\nAPI := {api}\n{bench.of_here(block.text)}")
    done = subprocess.run(["make", "image-AZJN-0042"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "DONE: AZJN-0042" in done.stderr
    hostile = subprocess.run(["make", "image-AZJN-0042;touch trap #"], check=False)
    assert hostile.returncode == 2
    assert not Path("trap").exists()


def test_the_readmes_python_call_builds_an_image() -> None:
    (block,) = blocks(README, "python")
    done = subprocess.run([sys.executable, "-c", block.text], check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()


def test_every_command_is_in_the_readme_and_every_exit_code() -> None:
    parser = cli._parser()
    (commands,) = (a for a in parser._actions if a.dest == "command" or a.choices)
    assert commands.choices is not None
    for command in commands.choices:
        assert f"`azaion-imagebuild {command}" in TEXT, command
    for code in set(ExitCode):
        assert f"`{int(code)}` " in TEXT, code
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


@every_page
def test_every_file_that_a_page_points_to_is_there(page: Path) -> None:
    _assert_targets(page)


def test_every_file_that_developing_points_to_is_there() -> None:
    _assert_targets(ROOT / "DEVELOPING.md")
    assert shipped("templates").is_dir()


def _assert_targets(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (document.parent / target).exists(), target
    folders = "templates|hooks|docs|tests|tools|benchmarks|azaion_imagebuild"
    for target in re.findall(rf"`((?:{folders})/[\w/-]*(?:\.\w+)?)`", text):
        if target.endswith((".py", ".toml", ".md", ".sh", "/")):
            assert (ROOT / target).exists(), target
