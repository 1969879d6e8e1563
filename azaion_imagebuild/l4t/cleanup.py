"""After a build: no copy of the secret stays in the BSP tree, nothing stays attached."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import StagingError, VerificationError
from ..model import Build, DeviceIdentity, Image
from ..system import mounts as leftovers
from . import image_files as residue


def clear_after(build: Build, identity: DeviceIdentity, image: Image, tree: Path) -> dict[str, Any]:
    """Remove the images, keep the one that was asked for, and look whether the secret is gone.

    Without flashing the image is the product and stays, its other copies do not; after flashing it
    stays when ``[image] keep`` says so.

    Returns:
        ``removed``: what was removed; ``residue``: where the password still stands (nowhere).

    Raises:
        VerificationError: the password stands in a file of the tree that was not asked for.
    """
    kept = [image.path] if build.settings.image.keep or not build.flash else []
    # The plug-in base has cleared the images of a build that stamps.
    removed = [] if build.stamps else residue.remove(tree, since=build.began, keep=kept)
    lane = build.device_instance is not None
    holders = residue.holders(tree, identity.password, build.began, linked=lane)
    found = [str(path.relative_to(tree)) for path in holders if path not in kept]
    if found:
        raise VerificationError(
            f"the device's password still stands in {', '.join(found)}",
            hint=f"remove these files of {tree}, then run the same command again: the password"
            " will be a new one",
        )
    return {"removed": removed, "residue": found}


def give_back(tree: Path) -> None:
    """Unmount and detach what a script left of the tree.

    Raises:
        StagingError: something could not be given back.
    """
    if os.geteuid() == 0 and (stuck := leftovers.give_back(tree)):
        raise StagingError(
            f"{', '.join(stuck)} could not be given back",
            hint="umount it or detach it by losetup -d",
        )
