"""The commands: one file for each, with its flags, its help and its function (``COMMAND``)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..parser import Command

NAMES = (
    "image",
    "base",
    "stamp",
    "fleet",
    "submit",
    "station",
    "page",
    "clean",
    "doctor",
    "provision",
    "verify",
    "smoke",
    "rotate",
    "hooks",
    "ledger",
    "sandbox",
    "completion",
    "help",
)
"""Every command, in the order of ``--help``: the name of its file in this folder."""


def load(name: str) -> Command:
    """Import one command; the files of the others are left alone."""
    command: Command = import_module(f".{name}", __package__).COMMAND
    return command
