"""completion: print a shell completion script."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import completion, stdout
from ..parser import Command, parser

if TYPE_CHECKING:
    from ..console import Console


def add_flags(complete: argparse.ArgumentParser) -> None:
    complete.add_argument("shell", choices=completion.SHELLS, help="the shell to complete for")


def run(args: argparse.Namespace, console: Console) -> int:
    with stdout.stream() as stream:
        stream.write(f"{completion.script(parser(), args.shell)}\n")
    return 0


COMMAND = Command(
    name="completion",
    summary="print a shell completion script",
    usage="{bash,zsh,fish}",
    about="Prints a script that completes this command with the Tab key. In bash, add this line to"
    ' ~/.bashrc: eval "$(azaion-imagebuild completion bash)". For zsh, put the file into a folder'
    " of $fpath.",
    examples=(
        "completion zsh > ~/.zfunc/_azaion-imagebuild",
        "completion fish > ~/.config/fish/completions/azaion-imagebuild.fish",
    ),
    add_flags=add_flags,
    run=run,
)
