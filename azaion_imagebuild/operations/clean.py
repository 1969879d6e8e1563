"""Removing what ``FLASH=0`` left in a BSP, after the site's own flash procedure."""

from __future__ import annotations

from ..errors import UsageError
from ..l4t import cleanup
from ..settings import Settings
from ..system.locks import locked


def clean_bsp(settings: Settings) -> list[str]:
    """Remove every image from the BSP, prove that no credential is left, and return the names.

    Raises:
        UsageError: no BSP is set, or it is not one.
        PreflightError: a build is at work in it.
        StagingError: something is mounted there and cannot be released.
        VerificationError: a credential was found in another file.
    """
    tree = settings.bsp.dir
    if tree is None:
        raise UsageError("no BSP is set", hint="give the Linux_for_Tegra folder by --bsp")
    if not (tree / "flash.sh").is_file():
        raise UsageError(
            f"'{tree}' is not a BSP: it has no flash.sh",
            hint="give the Linux_for_Tegra folder itself by --bsp",
        )
    tree = tree.resolve()
    with locked([tree], settings.build.lock_wait):
        return cleanup.clean(tree)
