"""Write the man page, docs/azaion-imagebuild.1, from the help of the command line.

usage: .venv/bin/python tools/write_man_page.py > docs/azaion-imagebuild.1
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator

from azaion_imagebuild import __version__
from azaion_imagebuild.cli.parser import ABOUT, Command, every_command, parser, walk
from azaion_imagebuild.errors import ExitCode

MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.USAGE: "the command line, the environment or the configuration is wrong",
    ExitCode.PREFLIGHT: "a check before the start found a problem; nothing was changed",
    ExitCode.PROVISIONING: "the admin API did not create or update the account",
    ExitCode.STAGING: "reading or writing in the root filesystem failed",
    ExitCode.IMAGE_BUILD: "NVIDIA's scripts built no image",
    ExitCode.FLASH: "the device was not flashed with the proven image",
    ExitCode.VERIFICATION: "what was read back does not match this device",
    ExitCode.LEDGER: "the ledger cannot be read or written, or its hash chain is broken",
    ExitCode.FLEET_INCOMPLETE: "some devices of the fleet are not done",
    ExitCode.BUG: "a bug of azaion-imagebuild, with a traceback",
    ExitCode.INTERRUPTED: "interrupted",
}
FILES = {
    "imagebuild.toml": "Settings, read from the current folder unless --config names another file."
    " A template with every key is installed as share/azaion-imagebuild/imagebuild.toml.",
    "~/.local/state/azaion-imagebuild": "Logs, the ledger and the sandbox ([build] state_dir).",
    "/etc/azaion/device.conf": "On the device: its e-mail address and password, mode 0600.",
}
ENVIRONMENT = {
    "AZAION_IMAGEBUILD_API_URL, AZAION_IMAGEBUILD_BSP, ...": "Every key of imagebuild.toml"
    " has a variable; the template names it. A variable that is set but empty is an error.",
    "AZAION_IMAGEBUILD_CONFIG": "The same as --config.",
}
DEFAULT_GROUPS = ("positional arguments", "options", "optional arguments", "commands")


def main() -> None:
    """Print the man page."""
    print("\n".join(page()))


def page() -> Iterator[str]:
    """Yield the lines of the man page (man(7))."""
    commands = {command.name: command for command in every_command()}
    yield f'.TH AZAION-IMAGEBUILD 1 "" "azaion-imagebuild {__version__}" "User Commands"'
    yield from ("." + line for line in ("nh", "ad l"))
    yield from (".SH NAME", r"azaion\-imagebuild \- give every NVIDIA Jetson its own identity")
    yield from (".SH SYNOPSIS", r".B azaion\-imagebuild", r"\fICOMMAND\fR [\fIoptions\fR]")
    yield from (".SH DESCRIPTION", *paragraph(ABOUT))
    yield ".SH COMMANDS"
    shared: dict[str, argparse._ArgumentGroup] = {}
    for name, own in walk(parser()):
        yield from command_section(commands[name], own, shared)
    yield ".SH OPTIONS"
    yield "Options that several commands share."
    for title, group in shared.items():
        yield f".SS {quoted(title)}"
        yield from options(group)
    yield ".SH EXIT STATUS"
    for code in ExitCode:
        yield from item(rf"\fB{int(code)}\fR", MEANINGS[code])
    for heading, entries in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        yield f".SH {heading}"
        for name, text in entries.items():
            yield from item(rf"\fB{escaped(name)}\fR", text)
    yield ".SH EXAMPLES"
    yield ".nf"
    for command in commands.values():
        yield from (rf"azaion\-imagebuild {escaped(example)}" for example in command.examples)
    yield ".fi"


def command_section(
    command: Command,
    parser: argparse.ArgumentParser,
    shared: dict[str, argparse._ArgumentGroup],
) -> Iterator[str]:
    """Yield the help of one command; groups of options that others have, too, go to shared."""
    yield f".SS {quoted(command.name)}"
    yield rf"\fBazaion\-imagebuild {escaped(command.name)}\fR {escaped(command.usage)}"
    yield from (".PP", *paragraph(command.about))
    also = []
    for group in parser._action_groups:
        if group.title in DEFAULT_GROUPS:
            yield from options(group)
        elif group._group_actions:
            title = str(group.title)
            if written(shared.setdefault(title, group)) != written(group):
                raise ValueError(f"{command.name}: {title!r} has other options elsewhere")
            also.append(title)
    if also:
        yield from (".PP", *paragraph(f"See also OPTIONS: {', '.join(also)}."))


def written(group: argparse._ArgumentGroup) -> list[str]:
    """Return a group of options as it is written."""
    return list(options(group))


def options(group: argparse._ArgumentGroup) -> Iterator[str]:
    """Yield the options and arguments of a group."""
    for action in group._group_actions:
        if is_hidden(action):
            continue
        value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
        if action.choices is not None and action.metavar is None:
            value = "|".join(map(str, action.choices))
        names = ", ".join(rf"\fB{escaped(name)}\fR" for name in action.option_strings)
        takes = rf"\fI{escaped(str(value))}\fR" if action.nargs != 0 else ""
        yield from item(" ".join(filter(None, (names, takes))), action.help or "")


def is_hidden(action: argparse.Action) -> bool:
    """Tell whether a reference leaves an argument out."""
    if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
        return True
    return action.help == argparse.SUPPRESS


def item(tag: str, text: str) -> tuple[str, ...]:
    """Return a tagged paragraph."""
    return ".TP", tag, *paragraph(text)


def paragraph(text: str) -> list[str]:
    """Return a text as lines that roff refills; none starts like a request."""
    lines = textwrap.wrap(escaped(text), 78, break_on_hyphens=False, break_long_words=False)
    return [rf"\&{line}" if line.startswith((".", "'")) else line for line in lines]


def quoted(heading: str) -> str:
    """Quote a heading of several words."""
    return f'"{escaped(heading)}"'


def escaped(text: str) -> str:
    """Escape text for roff: it stays literal, and a hyphen stays a hyphen."""
    return text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")


if __name__ == "__main__":
    main()
