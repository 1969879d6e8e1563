"""The parser: the program's help, and the commands from the files of :mod:`.commands`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .. import __version__
from ..errors import UsageError
from . import commands

if TYPE_CHECKING:
    from .console import Console

PROGRAM = "azaion-imagebuild"
ABOUT = (
    "Gives every NVIDIA Jetson its own identity during the image build, and proves it before"
    " flashing: creates the device's account at the admin API, writes /etc/azaion/device.conf into"
    " the root filesystem, runs NVIDIA's scripts to build the image, reads the finished image back,"
    " and flashes it only if it carries exactly this device's identity."
)
EPILOG = (
    f"Run {PROGRAM} COMMAND --help for details. Settings come from flags, then from"
    " AZAION_IMAGEBUILD_* variables, then from imagebuild.toml. Exit codes: 0 done, 2 usage,"
    " 3 preflight, 4 provisioning, 5 staging, 6 image build, 7 flash, 8 verification, 9 ledger,"
    " 10 fleet incomplete, 70 a bug, 130 interrupted."
)


class Command(Struct, frozen=True, kw_only=True):
    """A command: its help, its flags and its function; or a group of commands."""

    name: str
    """As typed: ``image``, ``ledger show``."""
    summary: str
    """Its line in the list of commands."""
    usage: str
    """Its arguments, for the usage line."""
    about: str
    examples: tuple[str, ...]
    """Command lines without the program's name."""
    add_flags: Callable[[argparse.ArgumentParser], None] | None = None
    run: Callable[[argparse.Namespace, Console], int] | None = None
    """Runs it and returns the exit code. Heavy libraries are imported here, not by the file."""
    verbs: tuple[Command, ...] = ()
    """The commands of a group: ``ledger list``, ``ledger show``."""
    default_verb: str = ""
    """The verb to assume when an option follows the group's name."""


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the called command, or of all commands if none is called.

    The ``command`` of a parsed line is its :class:`Command`.
    """
    called = argv[:1] if argv and argv[0] in commands.NAMES else commands.NAMES
    whole = _Parser(
        prog=PROGRAM, description=ABOUT, epilog=EPILOG, allow_abbrev=False, formatter_class=Help
    )
    whole.add_argument("-V", "--version", action="version", version=f"%(prog)s {__version__}")
    whole.called = _add(whole, [commands.load(name) for name in called], argv)
    whole.flags = [
        flag
        for _, each in walk(whole)
        for action in each._actions
        for flag in action.option_strings
    ]
    return whole


def _add(
    parser: argparse.ArgumentParser, table: Sequence[Command], argv: Sequence[str]
) -> str | None:
    """Add the called command of a table and return its name; add all if none is called."""
    # only the called one: adding arguments takes time
    called = [each for each in table if each.name.split()[-1:] == list(argv[:1])]
    places = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, prog=parser.prog
    )
    name = called[0].name if called else None
    for command in called or table:
        own = places.add_parser(
            command.name.split()[-1],
            help=command.summary,
            usage=f"%(prog)s {command.usage}",
            description=command.about,
            epilog=_examples(command),
            allow_abbrev=False,
            formatter_class=Help,
        )
        if command.verbs:
            name = _add(own, command.verbs, argv[1:] if called else ()) or name
        if command.add_flags is not None:
            own.set_defaults(command=command, debug=False)
            command.add_flags(own)
    return name


def _examples(command: Command) -> str:
    title = "examples:" if command.examples[1:] else "example:"
    return "\n".join([title, *(f"  {PROGRAM} {example}" for example in command.examples)])


def check_first(argv: Sequence[str]) -> None:
    """Check that the line starts with a command.

    Raises:
        UsageError: it starts with an option of a command, or with an unknown word.
    """
    first = argv[0] if argv else "--help"
    if first.startswith("-") and first not in ("-h", "--help", "-V", "--version", "--"):
        raise UsageError(
            f"{first.partition('=')[0]} must come after the command",
            hint=f"{PROGRAM} COMMAND {first.partition('=')[0]} ...",
        )
    if not first.startswith("-") and first not in commands.NAMES:
        raise _unknown(first)


def _unknown(word: str) -> UsageError:
    meant = _meant(word, commands.NAMES)
    return UsageError(
        f"unknown command {word!a}", hint=f"{meant}{PROGRAM} --help lists the commands"
    )


def _meant(word: str, known: Sequence[str]) -> str:
    """Return the question whether something near was meant, or nothing."""
    from difflib import get_close_matches  # imported late: only a typing error needs it

    near = get_close_matches(word, known, n=1, cutoff=0.7)
    return f"did you mean {near[0]}? " if near else ""


def with_verb(argv: Sequence[str]) -> Sequence[str]:
    """Complete a line by the group's default verb: ``station --name S1`` runs ``station run``."""
    if len(argv) < 2 or argv[0] not in commands.NAMES:
        return argv
    verb = commands.load(argv[0]).default_verb
    is_flag = argv[1].startswith("-") and argv[1] not in ("-h", "--help")
    return [argv[0], verb, *argv[1:]] if verb and is_flag else argv


def walk(
    parser: argparse.ArgumentParser, within: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield (name, parser) of every command, and of every verb after its group."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f"{within}{name}", command
                yield from walk(command, f"{within}{name} ")


def every_command() -> Iterator[Command]:
    """Yield every command, each group followed by its verbs, in the order of ``--help``."""
    for name in commands.NAMES:
        command = commands.load(name)
        yield command
        yield from command.verbs


class Help(argparse.HelpFormatter):
    """argparse's layout, with space for the longest command; examples keep their lines."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # they are indented again
            self._action_max_length += self._indent_increment

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        lines = text.splitlines()
        return "\n".join(
            line if line.startswith("  ") else fill(line, width, indent) for line in lines
        )


class _Parser(argparse.ArgumentParser):
    """argparse, with our errors and exit codes."""

    called: str | None = None
    """The called command: what its parser does not know, the main parser reports."""
    flags: Sequence[str] = ()
    """Those of the called command."""

    def error(self, message: str) -> Any:
        prog = f"{self.prog} {self.called or ''}".strip()
        meant = ""
        if found := _UNKNOWN.fullmatch(message):
            flag = found["flag"]
            message, meant = f"unknown flag {flag}", _meant(flag, self.flags)
        elif message.startswith(_TOO_MANY):
            message = f"unexpected: {message[len(_TOO_MANY) :]}"
            meant = "for several devices: fleet A-1 A-2. " if self.called == "image" else ""
        elif found := _NO_CHOICE.search(message):
            meant = _meant(found["word"], _QUOTED.findall(found["choices"]))
        raise UsageError(message, hint=f"{meant}{prog} --help lists its arguments")


_TOO_MANY = "unrecognized arguments: "
_UNKNOWN = re.compile(_TOO_MANY + r"(?:.* )?(?P<flag>--?[a-zA-Z][\w-]*).*", re.DOTALL)
_NO_CHOICE = re.compile(r"invalid choice: '(?P<word>.*)' \(choose from (?P<choices>.*)\)")
_QUOTED = re.compile(r"[\w-]+")
"""Some Pythons quote the choices, some do not."""
