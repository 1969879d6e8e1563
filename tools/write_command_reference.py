"""Write the command reference, docs/reference/commands.md, from the help of the command line.

usage: .venv/bin/python tools/write_command_reference.py > docs/reference/commands.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from write_man_page import DEFAULT_GROUPS, is_hidden

from azaion_imagebuild.cli.parser import PROGRAM, Command, every_command, parser, walk

HEAD = f"""\
# Commands

For anyone who looks up a command or a flag. Each command's `--help` says the same.

In a checkout the command is `.venv/bin/{PROGRAM}`, after the first `make image`. A flag
overrides its variable, and the variable overrides `imagebuild.toml`
([Configuration](configuration.md)). Each command ends with one of the [exit codes](exit-codes.md).
"""


def main() -> None:
    """Print the page."""
    print("\n".join(page()))


def page() -> Iterator[str]:
    """Yield the lines of the page (Markdown)."""
    commands = {command.name: command for command in every_command()}
    shared: dict[str, argparse._ArgumentGroup] = {}
    yield HEAD
    yield from ("| command | what it does |", "| --- | --- |")
    for name, command in commands.items():
        yield f"| [`{PROGRAM} {name}`](#{anchor(name)}) | {cell(command.summary)} |"
    for name, own in walk(parser()):
        yield from section(commands[name], own, shared)
    yield from ("", "## Shared options")
    for title, group in shared.items():
        yield from ("", f"### {title}", "", *table(group))


def section(
    command: Command, own: argparse.ArgumentParser, shared: dict[str, argparse._ArgumentGroup]
) -> Iterator[str]:
    """Yield the reference of one command; groups of flags that others have go to shared."""
    yield from ("", f"## {command.name}", "", command.about, "")
    if command.verbs:
        yield " · ".join(f"[{each.name}](#{anchor(each.name)})" for each in command.verbs)
    else:
        yield f"`{PROGRAM} {command.name} {command.usage}`"
    also = []
    for group in own._action_groups:
        if group.title in DEFAULT_GROUPS:
            yield from ([""] if (rows := list(table(group))) else [])
            yield from rows
        elif group._group_actions:
            title = str(group.title)
            shared.setdefault(title, group)
            also.append(f"[{title}](#{anchor(title)})")
    if also:
        yield from ("", f"Also: {', '.join(also)}.")
    if command.examples:
        yield from ("", f"Example{'s' if command.examples[1:] else ''}:", "")
        yield from (f"- `{PROGRAM} {example}`" for example in command.examples)


def table(group: argparse._ArgumentGroup) -> Iterator[str]:
    """Yield a table of a group's flags and arguments; nothing if it has none."""
    rows = [row(action) for action in group._group_actions if not is_hidden(action)]
    if rows:
        yield from ("| flag or argument | meaning |", "| --- | --- |", *rows)


def row(action: argparse.Action) -> str:
    """Return the table's row of a flag or an argument."""
    value = str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))
    if action.choices is not None and action.metavar is None:
        value = "|".join(map(str, action.choices))
    if "|" in value:  # in a table a bar would need a backslash, which mkdocs then shows
        value = f"{{{value.replace('|', ',')}}}"
    takes = "" if action.nargs == 0 else value
    names = ", ".join(action.option_strings)
    return f"| `{cell(' '.join(filter(None, (names, takes))))}` | {cell(action.help or '')} |"


def anchor(heading: str) -> str:
    """Return the link target of a heading."""
    kept = (c for c in heading.lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


def cell(text: str) -> str:
    """Return a text for a table: a bar in it does not end the cell."""
    return text.replace("|", r"\|")


if __name__ == "__main__":
    main()
