"""What README and docs/ show is run; what they say is compared with the code."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from pages import CI, KINDS, NEEDS_HARDWARE, PAGES, ROOT, Bench, blocks, inline_commands
from thorough import one_of

import azaion_imagebuild
from azaion_imagebuild.cli import main as cli
from azaion_imagebuild.cli.parser import parser
from azaion_imagebuild.config.loading import load
from azaion_imagebuild.errors import ExitCode, UsageError
from azaion_imagebuild.identity.placeholder import is_placeholder
from azaion_imagebuild.ledger import schema
from azaion_imagebuild.ledger.entry import OUTCOMES
from azaion_imagebuild.model import RECORD_FIELDS
from azaion_imagebuild.pipeline import hookspecs
from azaion_imagebuild.sandbox.loader import loader
from azaion_imagebuild.settings import PLACEHOLDER_SIZE
from azaion_imagebuild.shipped import shipped

README = ROOT / "README.md"
TEXT = README.read_text()
LANGUAGES = {"sh", "text", "toml", "python", "make", "csv", "json", "bitbake", *CI}
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


@pytest.mark.parametrize(
    "page", one_of(PAGES, kept=PAGES.index(README)), ids=lambda page: page.stem
)
def test_what_a_page_shows_works_from_its_top_to_its_end(page: Path, bench: Bench) -> None:
    if any("age-keygen" in block.text for block in blocks(page, "sh")) and not shutil.which("age"):
        pytest.skip("needs age")
    bench.play(page)


@every_page
def test_a_page_has_a_kind_and_begins_with_who_needs_it(page: Path) -> None:
    if page.name in ("README.md", "index.md"):  # they say where everything is
        return
    assert page.relative_to(ROOT / "docs").parts[0] in KINDS
    assert re.match(r"# .+\n\nFor .+\.\n\n", page.read_text()), "# title, then: For …."


def test_few_blocks_need_hardware_and_readme_says_how_they_begin() -> None:
    asking = [block for page in PAGES for block in blocks(page, "sh") if block.needs_hardware]
    assert 0 < len(asking) <= 6
    assert f"`{NEEDS_HARDWARE}`" in TEXT


@every_page
def test_every_block_is_of_a_language_that_is_looked_at(page: Path) -> None:
    assert page.read_text().count("```") == 2 * len(blocks(page)), "a fence that is not understood"
    for block in blocks(page):
        assert block.language in LANGUAGES, block.where
    indented = re.findall(r"\n\n    (?:sudo |make |azaion-imagebuild )", page.read_text())
    assert not indented, "use a fenced block, which a test runs"


@every_page
def test_a_command_in_a_sentence_is_one_with_flags_that_there_are(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in inline_commands(page):
        words = command.removeprefix("sudo ").split()
        if words[0] == "make" and len(words) > 1 and words[1].isalpha():
            assert words[1] in targets, command
        if words[0] != "azaion-imagebuild" or len(words) < 2 or re.search(r"[\[<{]", command):
            continue
        assert not _misunderstood(shlex.split(command.partition(" > ")[0])[1:]), command


def _misunderstood(argv: list[str]) -> bool:
    """Tell whether the command line does not know a word of it; one may be left out."""
    try:
        parser().parse_args(argv)
    except UsageError as error:
        return "required" not in error.message
    except SystemExit:  # --help
        return False
    return False


@every_page
def test_a_pages_settings_are_settings(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "toml"):
        if "[build-system]" in block.text:  # the pyproject.toml of somebody's plug-in
            continue
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


def test_what_is_shown_of_plain_python_runs() -> None:
    (block,) = blocks(ROOT / "docs/reference/python.md", "python")
    done = subprocess.run([sys.executable, "-c", block.text], check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *more = done.stdout.splitlines()
    assert Path(first.split()[-1]).is_file()
    assert [line.split()[0] for line in more] == ["azaion-jetson-0042@azaion.com", "8"]


def test_the_readme_is_short_and_has_every_exit_code() -> None:
    assert len(TEXT.splitlines()) <= 120
    for code in set(ExitCode):
        assert f"`{int(code)}` " in TEXT, code
        assert re.search(rf"\b{int(code)} \w", parser().epilog or ""), code


def test_the_recipe_of_yocto_makes_a_placeholder_with_room_for_an_identity() -> None:
    (recipe,) = blocks(ROOT / "docs/how-to/ci.md", "bitbake")
    (line,) = re.findall(r"(printf .*) > ", recipe.text)
    made = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout
    assert is_placeholder(made)
    assert len(made) == PLACEHOLDER_SIZE


def names_in(page: str) -> set[str]:
    """Return the names in the first cells of a page's tables."""
    cells = re.findall(r"^\| (`[^|]*`) \|", (ROOT / page).read_text(), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_the_reference_pages_have_every_name() -> None:
    assert names_in("docs/reference/exit-codes.md") == {str(int(code)) for code in ExitCode}
    assert names_in("docs/reference/record.md") >= set(RECORD_FIELDS)
    columns = {column.name for column in schema.rows.columns}
    assert names_in("docs/reference/ledger.md") == columns | set(OUTCOMES)


def test_the_glossary_is_sorted() -> None:
    words = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs/reference/glossary.md").read_text(), re.M)
    assert words[2:] == sorted(words[2:], key=str.lower)


def test_the_command_reference_is_what_the_command_line_says() -> None:
    tool = [sys.executable, "tools/write_command_reference.py"]
    written = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=True)
    assert written.stdout == (ROOT / "docs/reference/commands.md").read_text(), (
        "run .venv/bin/python tools/write_command_reference.py > docs/reference/commands.md"
    )


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


def test_every_file_that_a_page_for_developers_points_to_is_there() -> None:
    for name in ("DEVELOPING.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md"):
        _assert_targets(ROOT / name)
    assert shipped("templates").is_dir()


def _assert_targets(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (document.parent / target).exists(), target
    folders = "templates|hooks|docs|tests|tools|benchmarks|azaion_imagebuild"
    for target in re.findall(rf"(?<!\*\*)`((?:{folders})/[\w/-]*(?:\.\w+)?)`", text):
        if target.endswith((".py", ".toml", ".md", ".sh", "/")):
            assert (ROOT / target).exists(), target


@cache
def _said_by_the_code() -> str:
    """Every text of the code, one a line; what is filled in is `…`."""
    said = []
    for path in [*(ROOT / "azaion_imagebuild").rglob("*.py"), *(ROOT / "hooks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                said.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…"
                                    for part in node.values))  # fmt: skip
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    return "\n".join(said)


FILLED_IN = {"POST /users": "…", "(409)": "(…)", "no user …": "no …", "etc/passwd": "etc/…",
             "unknown key": "unknown …", "unknown section": "unknown …",
             "unknown variable": "unknown …"}  # fmt: skip
"""What the tables say instead of `…`, where it helps to see it."""


def test_every_message_of_a_table_of_troubles_is_one_of_the_code() -> None:
    _, _, text = (
        (ROOT / "docs/how-to/troubleshooting.md").read_text().partition("# Troubleshooting")
    )
    tables = re.findall(r"\| ((?:symptom \| )?it says) \|.*\n\|[ -|]+\n((?:\|.*\n)+)", text)
    cells = [row.split(" | ")["|" in title] for title, rows in tables for row in rows.splitlines()]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 8
    for message in messages:
        plain = message
        for shown, said in FILLED_IN.items():
            plain = plain.replace(shown, said)
        for piece in filter(None, (each.strip() for each in plain.split("…"))):
            assert piece in _said_by_the_code(), (message, piece)


@every_page
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    for file, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text()):
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"


def test_every_demand_of_the_runbook_is_shown_by_a_command_a_test_or_a_page() -> None:
    text = (ROOT / "docs/explanation/runbook.md").read_text()
    rows = [row for row in re.findall(r"^\|(.*)\|$", text, re.MULTILINE) if "---" not in row]
    rows = [row for row in rows if row.split(" | ")[0].strip() != "the runbook"]
    assert len(rows) > 40
    for row in rows:
        demand, _, shown = row.partition(" | ")
        assert len(demand.strip()) > 10, row
        assert re.search(r"`tests/[\w/]+\.py::|`azaion-imagebuild \w|`make image|\]\(", shown), row


def test_the_reference_is_that_of_the_settings() -> None:
    tool = [sys.executable, "tools/write_template.py"]
    for page, more in (
        ("templates/imagebuild.toml", []),
        ("docs/reference/configuration.md", ["--page"]),
    ):
        written = subprocess.run(
            [*tool, *more], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert written.stdout == (ROOT / page).read_text(), f"write {page} again"


def test_the_hooks_guide_is_that_of_the_hooks() -> None:
    tool = [sys.executable, "tools/write_hooks_guide.py", "--check"]
    assert subprocess.run(tool, cwd=ROOT, check=False).returncode == 0, f"run {tool[1]}"
