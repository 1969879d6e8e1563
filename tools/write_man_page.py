"""Write docs/azaion-imagebuild.1, the man page: what the command line says of itself.

usage: .venv/bin/python tools/write_man_page.py > docs/azaion-imagebuild.1
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator

from azaion_imagebuild import __version__
from azaion_imagebuild.cli import grammar, manual
from azaion_imagebuild.errors import ExitCode

MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.USAGE: "the command line, the environment or the configuration is wrong",
    ExitCode.PREFLIGHT: "a look before the start found something wrong; nothing was changed",
    ExitCode.PROVISIONING: "the admin API did not create or update the account",
    ExitCode.STAGING: "reading or writing in the root filesystem failed",
    ExitCode.IMAGE_BUILD: "NVIDIA's script built no image",
    ExitCode.FLASH: "the proven image did not reach the device",
    ExitCode.VERIFICATION: "what was read back is not what this device must carry",
    ExitCode.LEDGER: "the ledger cannot be written or read, or its chain is broken",
    ExitCode.FLEET_INCOMPLETE: "some device of the fleet is not done",
    ExitCode.BUG: "a bug, with its traceback",
    ExitCode.INTERRUPTED: "interrupted",
}
FILES = {
    "imagebuild.toml": "Settings, read from the working folder unless --config names another file."
    " A template with every key is installed as share/azaion-imagebuild/imagebuild.toml.",
    "~/.local/state/azaion-imagebuild": "Logs, the ledger and the sandbox ([build] state_dir).",
    "/etc/azaion/device.conf": "On the device: its e-mail address and password, mode 0600.",
}
ENVIRONMENT = {
    "AZAION_IMAGEBUILD_API_URL, AZAION_IMAGEBUILD_BSP, ...": "Each key of imagebuild.toml has a"
    " variable, which the template names. A variable that is set but empty is an error.",
    "AZAION_IMAGEBUILD_CONFIG": "As --config.",
}
DEFAULT_GROUPS = ("positional arguments", "options", "optional arguments", "commands")


def main() -> None:
    """Print the man page."""
    print("\n".join(page(grammar.parser())))


def page(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines of the man page (man(7))."""
    yield f'.TH AZAION-IMAGEBUILD 1 "" "azaion-imagebuild {__version__}" "User Commands"'
    yield from ("." + line for line in ("nh", "ad l"))
    yield from (".SH NAME", r"azaion\-imagebuild \- an identity for every NVIDIA Jetson")
    yield from (".SH SYNOPSIS", r".B azaion\-imagebuild", r"\fICOMMAND\fR [\fIoptions\fR]")
    yield from (".SH DESCRIPTION", *paragraph(manual.ABOUT))
    yield ".SH COMMANDS"
    shared: dict[str, argparse._ArgumentGroup] = {}
    for name, command in manual.commands(parser):
        yield from command_section(name, command, shared)
    yield ".SH OPTIONS"
    yield "Most commands take these, too; each says which."
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
    for entry in manual.ENTRIES.values():
        yield from (rf"azaion\-imagebuild {escaped(example)}" for example in entry.examples)
    yield ".fi"


def command_section(
    name: str, command: argparse.ArgumentParser, shared: dict[str, argparse._ArgumentGroup]
) -> Iterator[str]:
    """Yield what is said of one command; its groups of options that others have go to shared."""
    usage = manual.ENTRIES[name].usage
    yield f".SS {quoted(name)}"
    yield rf"\fBazaion\-imagebuild {escaped(name)}\fR {escaped(usage)}"
    yield from (".PP", *paragraph(manual.ENTRIES[name].about))
    also = []
    for group in command._action_groups:
        if group.title in DEFAULT_GROUPS:
            yield from options(group)
        elif group._group_actions:
            title = str(group.title)
            if written(shared.setdefault(title, group)) != written(group):
                raise ValueError(f"{name}: the options of {title!r} are not those of others")
            also.append(title)
    if also:
        yield from (".PP", *paragraph(f"Also, see OPTIONS: {', '.join(also)}."))


def written(group: argparse._ArgumentGroup) -> list[str]:
    """Return how a group of options is written."""
    return list(options(group))


def options(group: argparse._ArgumentGroup) -> Iterator[str]:
    """Yield the options and arguments of a group."""
    for action in group._group_actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
        if action.choices is not None and action.metavar is None:
            value = "|".join(map(str, action.choices))
        names = ", ".join(rf"\fB{escaped(name)}\fR" for name in action.option_strings)
        takes = rf"\fI{escaped(str(value))}\fR" if action.nargs != 0 else ""
        yield from item(" ".join(filter(None, (names, takes))), action.help or "")


def item(tag: str, text: str) -> tuple[str, ...]:
    """Return a tagged paragraph."""
    return ".TP", tag, *paragraph(text)


def paragraph(text: str) -> list[str]:
    """Return a text as lines that roff fills again; none begins like a request."""
    lines = textwrap.wrap(escaped(text), 78, break_on_hyphens=False, break_long_words=False)
    return [rf"\&{line}" if line.startswith((".", "'")) else line for line in lines]


def quoted(heading: str) -> str:
    """Return a heading of several words."""
    return f'"{escaped(heading)}"'


def escaped(text: str) -> str:
    """Return text that roff takes literally, a hyphen as a hyphen."""
    return text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")


if __name__ == "__main__":
    main()
