"""The folder where this tool keeps logs, the ledger, the sandbox and the escrow."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from ..errors import UsageError
from ..settings import ENV_PREFIX, Settings


def state_dir_of(settings: Settings) -> Path:
    """Return that folder: the configured one, or the user's default.

    A relative XDG_STATE_HOME is ignored, as its specification requires, and a relative or empty
    HOME, too: the ledger must not depend on the current folder.

    Raises:
        UsageError: none is set, and this user has no home folder.
    """
    if settings.build.state_dir is not None:
        return settings.build.state_dir
    xdg = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not xdg.is_absolute():
        parts = xdg.parts[1:] if xdg.parts[:1] == ("~",) else (".local", "state")
        xdg = _home().joinpath(*parts)
    return xdg / "azaion-imagebuild"


def _home() -> Path:
    home = Path(os.environ.get("HOME", ""))
    with contextlib.suppress(KeyError):  # this user is not in /etc/passwd
        home = home if home.is_absolute() else Path(pwd.getpwuid(os.getuid()).pw_dir)
    if not home.is_absolute():
        raise UsageError("this user has no home folder", hint=f"set {ENV_PREFIX}STATE_DIR")
    return home
