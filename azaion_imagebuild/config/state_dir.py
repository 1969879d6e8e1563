"""The folder where this tool keeps logs, the ledger, the sandbox and the escrow."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError
from ..settings import ENV_PREFIX, Settings


def state_dir_of(settings: Settings) -> Path:
    """Return that folder: the configured one, or the user's default.

    A relative XDG_STATE_HOME is ignored, as its specification requires: the ledger must not depend
    on the current folder.

    Raises:
        UsageError: none is set, and this user has no home folder.
    """
    if settings.build.state_dir is not None:
        return settings.build.state_dir
    xdg = Path(os.environ.get("XDG_STATE_HOME", ""))
    home = xdg if xdg.is_absolute() or xdg.parts[:1] == ("~",) else Path("~/.local/state")
    try:
        return home.expanduser() / "azaion-imagebuild"
    except RuntimeError:
        raise UsageError(
            "this user has no home folder", hint=f"set {ENV_PREFIX}STATE_DIR"
        ) from None
