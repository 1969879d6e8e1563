"""What the command line says of itself: --help, the man page, completion by Tab."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from thorough import one_of

import azaion_imagebuild
from azaion_imagebuild.cli import commands
from azaion_imagebuild.cli import main as cli
from azaion_imagebuild.cli.completion import SHELLS
from azaion_imagebuild.cli.parser import every_command, parser, walk

ROOT = Path(azaion_imagebuild.__file__).parent.parent
COMMANDS = dict(walk(parser()))
HELP = {command.name: command for command in every_command()}
BASH = r"""source ./script
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p "$1" | sed 's/.*-F \([^ ]*\) .*/\1/')
$function "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""
WORDS = [
    (["stam"], "stamp"),
    (["image", "--bo"], "--board"),
    (["image", "--inject", ""], "stamp"),
    (["ledger", "res"], "resolve"),
    (["ledger", "resolve", "AZJN-0042", ""], "retired"),
    (["verify", "some"], "some.img"),
    (["completion", "z"], "zsh"),
]


def ran(*argv: str, **environ: str) -> str:
    done = subprocess.run(argv, env=os.environ | environ, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.fixture(params=one_of(SHELLS))
def shell(request: pytest.FixtureRequest) -> str:
    """A shell that is installed here; its script is the file ``script``."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    script = ran(sys.executable, "-m", "azaion_imagebuild", "completion", name)
    Path("script").write_text(script)
    Path("some.img").touch()
    return name


def test_tab_completes_commands_flags_choices_and_files(shell: str) -> None:
    for words, wanted in WORDS:
        if shell == "bash":
            found = ran("bash", "--norc", "-c", BASH, "x", "azaion-imagebuild", *words).split()
        elif shell == "fish":
            line = " ".join(["azaion-imagebuild", *words])
            told = ran("fish", "--no-config", "-c", f"source ./script; complete -C '{line}'")
            found = [each.partition("\t")[0] for each in told.splitlines()]
        else:
            Path("script").rename("_azaion-imagebuild")
            load = "autoload -Uz compinit; compinit -D; autoload +X _azaion-imagebuild"
            lines = f"fpath=($PWD $fpath); {load}; print $_comps[azaion-imagebuild]"
            assert ran("zsh", "-f", "-c", lines) == "_azaion-imagebuild\n"
            return  # its completion needs a terminal
        assert wanted in found, (words, found)


def test_every_command_says_what_it_does_and_shows_how() -> None:
    assert set(COMMANDS) == set(HELP)
    for name, command in COMMANDS.items():
        text = command.format_help()
        entry = HELP[name]
        assert f"usage: azaion-imagebuild {name} {entry.usage}\n" in text
        assert entry.examples
        for line in text.splitlines():
            known = any(line.strip() == f"azaion-imagebuild {each}" for each in entry.examples)
            assert len(line) <= 80 or known or line.startswith("usage:"), line


def test_every_example_is_a_command_line() -> None:
    for entry in HELP.values():
        for example in entry.examples:
            parser().parse_args(shlex.split(example.partition(" > ")[0]))


def test_every_command_has_a_function_that_does_it() -> None:
    groups = {name for name, command in HELP.items() if command.verbs}
    assert groups == {"station", "ledger"}
    for name in set(COMMANDS) - groups:
        assert COMMANDS[name].get_default("command") is HELP[name]
        assert callable(HELP[name].run)


def test_every_file_of_the_commands_is_a_command() -> None:
    files = {path.stem for path in Path(commands.__file__).parent.glob("[!_]*.py")}
    assert files == set(commands.NAMES) == {name.split()[0] for name in HELP}


def test_a_call_is_parsed_by_the_command_that_is_called_alone() -> None:
    for command in (name for name, command in HELP.items() if command.run):
        nouns = {command, command.split()[0]}
        assert set(dict(walk(parser(command.split())))) == nouns


def test_a_word_that_is_no_command_is_shown_all_of_them() -> None:
    for words in (["imag"], ["--help"], ["--", "image"]):
        assert set(dict(walk(parser(words)))) == set(COMMANDS)
    found = set(dict(walk(parser(["station", "-h"]))))
    assert found == {"station", *(name for name in COMMANDS if name.startswith("station "))}


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a wrong command line is told, on one line."""
    assert cli.run([*argv]) == 2
    return " | ".join(capsys.readouterr().err.splitlines())


def test_a_wrong_command_line_is_told_where_the_right_one_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listed = "azaion-imagebuild --help lists the commands"
    near = f"unknown command 'imag' | hint: did you mean image? {listed}"
    assert said(capsys, "imag").endswith(near)
    assert said(capsys, "frobnicate").endswith(f"unknown command 'frobnicate' | hint: {listed}")
    early = said(capsys, "--state-dir=x", "image")
    assert early.startswith("error: --state-dir must come after the command | hint: azaion")
    for words in (("ledger", "show"), ("image",), ("station", "status")):
        late = said(capsys, *words, "--bogus")
        assert f"azaion-imagebuild {' '.join(words)} --help lists" in late


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["image", "--ap-url", "x"], "--api-url"),
        (["image", "--dryrun"], "--dry-run"),
        (["fleet", "--job=3", "A-1"], "--jobs"),
        (["station", "run", "--nme", "S1"], "--name"),
        (["ledger", "lst"], "list"),
        (["ledger", "resolve", "A-1", "dne", "--reason", "x"], "done"),
    ],
)
def test_a_misspelt_flag_or_choice_is_told_what_was_meant(
    capsys: pytest.CaptureFixture[str], words: list[str], meant: str
) -> None:
    told = said(capsys, *words)
    assert f"hint: did you mean {meant}? azaion-imagebuild {words[0]}" in told, told


@pytest.mark.parametrize("words", [["fleet", "A-1"], ["station", "run"]], ids="-".join)
def test_lanes_is_another_name_of_jobs(words: list[str]) -> None:
    assert parser().parse_args([*words, "--lanes", "2"]).jobs == 2


def test_help_shows_what_the_flag_help_shows(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["image"], ["ledger", "list"]):
        with pytest.raises(SystemExit):
            cli.run([*words, "--help"])
        by_flag = capsys.readouterr().out
        assert cli.run(["help", *words]) == 0
        assert capsys.readouterr().out == by_flag
    assert "did you mean image?" in said(capsys, "help", "imag")


def test_a_capital_v_says_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["-V"])
    assert capsys.readouterr().out == f"azaion-imagebuild {azaion_imagebuild.__version__}\n"


IGNORED = {
    "base": {"--flash", "--no-flash", "--usb-instance", "--keep-image", "--inject", "--rebuild"},
    "fleet": {"--usb-instance", "--keep-image", "--inject", "--lanes"},
    "station run": {"--usb-instance", "--keep-image", "--inject", "--lanes"},
    "doctor": {"--keep-image", "--rebuild"},
}


def test_a_flag_that_a_command_ignores_is_not_offered_by_it() -> None:
    for name, ignored in IGNORED.items():
        text = COMMANDS[name].format_help()
        assert not [flag for flag in ignored if f"  {flag} " in text], name
    assert "--fuse" not in COMMANDS["fleet"].format_help()


def test_every_argument_has_a_help() -> None:
    for name, command in COMMANDS.items():
        for action in command._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert action.help, (name, action.dest)


def test_the_man_page_is_what_the_command_line_says() -> None:
    page = ROOT / "docs/azaion-imagebuild.1"
    told = ran(sys.executable, str(ROOT / "tools/write_man_page.py"))
    assert told == page.read_text(), (
        "run .venv/bin/python tools/write_man_page.py > docs/azaion-imagebuild.1"
    )


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_man_page_is_shown_without_a_warning() -> None:
    page = str(ROOT / "docs/azaion-imagebuild.1")
    shown = ran("groff", "-man", "-Tutf8", "-ww", "-rLL=100n", "-P-c", page)
    assert "--api-url URL" in shown
    assert "NVIDIA's scripts" in shown
