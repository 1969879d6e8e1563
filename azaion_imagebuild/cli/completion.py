"""The completion scripts of shells: they are static, so that Tab starts no Python."""

from __future__ import annotations

import argparse

from .parser import walk

SHELLS = ("bash", "zsh", "fish")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that ``shell`` sources; it completes files and folders, too."""
    import shtab  # imported late: no other command needs it

    kinds = {
        "FILE": shtab.FILE,
        "IMAGE": shtab.FILE,
        "SERIALS": shtab.FILE,
        "TARGET": shtab.FILE,
        "DIR": shtab.DIRECTORY,
    }
    for _, command in [("", parser), *walk(parser)]:
        several = {action.dest: action for action in command._actions}
        if "verdict" in several:  # shells know the first argument only
            several["serials"].choices = several["verdict"].choices
        for action in command._actions:
            if isinstance(action.metavar, str) and action.metavar in kinds:
                action.complete = kinds[action.metavar]  # type: ignore[attr-defined]
            if isinstance(action, argparse._SubParsersAction):
                for each in action._choices_actions:  # a menu has room for one line
                    action.choices[each.dest].description = each.help
    return shtab.complete(parser, shell)
