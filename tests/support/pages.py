"""README and the pages below docs/ as what they show: blocks to run, words to hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import azaion_imagebuild

ROOT = Path(azaion_imagebuild.__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
KINDS = ("tutorial.md", "how-to", "reference", "explanation")
"""What a page is for (Diátaxis): a page or a folder of docs/ each."""
NEEDS_HARDWARE = "# needs hardware"
"""How a block begins that no test can run; README says so."""

CI = ("groovy", "yaml")
"""Languages of pipelines: Jenkins's and GitLab's. Their commands are run."""

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_BENCHMARK = re.compile(r"(\S*/)?python benchmarks/(\w+\.py)(.*)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: ``sh`` is run, ``text`` after it is what it says, a title names a file."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def needs_hardware(self) -> bool:
        return self.text.startswith(NEEDS_HARDWARE)


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, in turn."""
    text = page.read_text()
    every = [
        Block(
            page=page.name,
            line=text.count("\n", 0, found.start()) + 1,
            language=found[1],
            title=found[2] or "",
            text=found[3],
        )
        for found in _BLOCK.finditer(text)
    ]
    return [block for block in every if language in (None, block.language)]


def commands_of_ci(block: Block) -> str:
    """Return a pipeline's shell commands, after the variables that it sets by default."""
    if block.language == "groovy":
        values = re.findall(r"string\(name: '(\w+)', defaultValue: '([^']*)'", block.text)
        commands = re.findall(r"\bsh '([^']+)'", block.text)
    else:
        variables, script = re.split(r"^  script:\n", block.text, flags=re.MULTILINE)
        values = re.findall(r"^    ([A-Z]+): (\S+)$", variables, re.MULTILINE)
        commands = re.findall(r"^    - (.+)$", script.partition("\n  artifacts")[0], re.MULTILINE)
    assert values, block.where
    assert commands, block.where
    return "\n".join([*(f"export {name}={value}" for name, value in values), *commands])


def inline_commands(page: Path) -> Iterator[str]:
    """Yield what is in `backquotes`, outside of blocks."""
    for found in re.finditer(r"`([^`\n]+)`", _BLOCK.sub("", page.read_text())):
        yield found[1].replace("\\|", "|")


@dataclass
class Bench:
    """A stranger's checkout, as the pages speak of it, and what they call otherwise here."""

    tmp_path: Path
    places: dict[str, Callable[[], str]]
    """What a page says → what stands for it here; asked for only when a page says it."""
    _known: dict[str, str] = field(default_factory=dict)

    @cached_property
    def checkout(self) -> Path:
        """A folder in which `make image` finds all as in a checkout that was set up."""
        folder = self.tmp_path / "azaion-imagebuild"
        venv = folder / ".venv"
        venv.mkdir(parents=True)
        for each in ROOT.iterdir():
            if not each.name.startswith(".") and each.name != "site":
                (folder / each.name).symlink_to(each)
        for name in ("bin", "lib", "pyvenv.cfg"):
            (venv / name).symlink_to(Path(sys.prefix) / name)
        (venv / ".where").write_text(f"{folder.resolve()}\n")
        (venv / ".image").touch()
        sudo = self.tmp_path / "bin" / "sudo"
        sudo.parent.mkdir()
        sudo.write_text('#!/bin/sh\nexec env "$@"\n')
        sudo.chmod(0o755)
        return folder

    def of_here(self, text: str) -> str:
        """Return a page's text with the places of this test."""
        for said, there in self.places.items():
            if said in text and said not in self._known:
                self._known[said] = there()
            text = text.replace(said, self._known.get(said, said))
        return text

    def play(self, page: Path) -> None:
        """Run what a page shows, from its top to its end, and hold it to what it says comes out."""
        said = ""
        for block in blocks(page):
            if "sudo " in block.text and os.geteuid() != 0:
                return  # the rest of the page builds on it
            if block.needs_hardware:
                said = ""
            elif block.title:
                path = self.checkout / self.of_here(block.title)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # a link into the real checkout
                path.write_text(self.of_here(block.text))
                if block.language in CI:
                    said = self._run(replace(block, text=commands_of_ci(block)))
            elif block.language == "sh":
                said = self._run(block)
            elif block.language == "text":
                shown = re.escape(self.of_here(block.text).strip()).replace("…", ".*")
                assert re.search(shown, said, re.DOTALL), f"{block.where} is not in:\n{said}"

    def _run(self, block: Block) -> str:
        if benchmark := _BENCHMARK.search(block.text):
            return self._asked_for_help(block, *benchmark.groups()[1:])
        text = self.of_here(block.text)  # first: it may set variables
        text = text.replace("make test", "make --dry-run test")  # that is what runs this
        path = f"{self.tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = os.environ | {"HOME": str(self.tmp_path / "home"), "PATH": path}
        for name in ("XDG_STATE_HOME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
            environ.pop(name, None)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.checkout, env=environ, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.where}: {done.stdout}"
        return done.stdout

    def _asked_for_help(self, block: Block, script: str, arguments: str) -> str:
        """Benchmarks take minutes: they must start and know their flags."""
        done = subprocess.run([sys.executable, ROOT / "benchmarks" / script, "--help"],
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, f"{block.where}: {done.stderr}"
        for flag in re.findall(r"--[\w-]+", arguments):
            assert flag in done.stdout, f"{block.where}: {flag}"
        return done.stdout
