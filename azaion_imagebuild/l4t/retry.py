"""An image that was proven, but whose account could not be changed: kept for the next attempt.

Building takes minutes, and the same command again would build the same. The identity is taken out
of it: nobody knows whether its password is valid. The next attempt writes its own in that place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import OperatorError
from ..identity import device_conf
from ..identity.placeholder import padded
from ..images import format_of
from ..images.slot import ensure_packed_slot
from ..images.stamp import MakeSlot, blank, opened_images, stamp
from ..model import DEVICE_CONF, LUKS, Build, DeviceIdentity, Image, Ownership, StagedFile
from ..system.files import read_plain
from .image_files import RETRY_NOTE, present_images
from .origin import origin_of


def keep_for_retry(build: Build, image: Image, staged: Sequence[StagedFile]) -> tuple[Path, ...]:
    """Take the identity out of a proven image, and note it; return the files that are kept.

    Nothing is kept of an encrypted image, of a base that is stamped (it stays anyway), and where
    plug-ins have staged more than device.conf, which may differ in the next attempt.
    """
    tree = build.bsp_dir
    alone = [each.path for each in staged] == [DEVICE_CONF]
    if tree is None or build.stamps or image.format == LUKS or not alone:
        return ()
    kept = (image.path, *image.also)
    try:
        for path in image.aside:  # it reaches no device
            path.unlink()
        owner = staged[0].ownership
        for path in kept:
            blank(path, build.settings.build.lock_wait, _slot_maker(owner))
        of = origin_of(build, owner)
        names = [str(path.relative_to(tree)) for path in kept]
        note = {"serial": build.serial, "of": of, "image": names}
        (tree / RETRY_NOTE).write_text(json.dumps(note))
    except (OperatorError, OSError, ValueError):
        return ()
    return kept


def _slot_maker(owner: Ownership) -> MakeSlot:
    """Return what gives a packed archive a slot for the device.conf that it has."""
    return lambda path, descriptor: ensure_packed_slot(
        path, descriptor, (owner.uid, owner.gid), size=1
    )


def is_kept(tree: Path) -> bool:
    """Tell whether a tree holds an image that waits for the next attempt."""
    return (tree / RETRY_NOTE).is_file()


def kept_image(
    build: Build, identity: DeviceIdentity, staged: Sequence[StagedFile]
) -> Image | None:
    """Return the image that an earlier attempt left, with this identity; None: build one."""
    tree = build.bsp_dir
    if tree is None or build.settings.image.rebuild or not is_kept(tree):
        return None
    try:
        image = _noted(build, tree, staged)
        (tree / RETRY_NOTE).unlink()  # whatever happens next, it is not used again
        if image is None or not _carries(build, image, identity, staged[0]):
            return None
        return image
    except (OperatorError, OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _noted(build: Build, tree: Path, staged: Sequence[StagedFile]) -> Image | None:
    note = json.loads(read_plain(tree / RETRY_NOTE))
    if note["serial"] != build.serial or [each.path for each in staged] != [DEVICE_CONF]:
        return None
    there = {str(path.relative_to(tree)): path for path in present_images(tree)}
    path, *also = (there[name] for name in note["image"])
    if note["of"] != origin_of(build, staged[0].ownership):
        return None
    return Image(path=path, format=format_of(path), also=tuple(also))


def _carries(build: Build, image: Image, identity: DeviceIdentity, staged: StagedFile) -> bool:
    """Write device.conf as it was staged into the image; False: it has another length."""
    content = device_conf.render(device_conf.template_of(build.settings.device_conf), identity)
    if hashlib.sha256(content).hexdigest() != staged.sha256:
        return False  # a plug-in has staged something else
    with opened_images((image.path, *image.also), build.settings.build.lock_wait) as opened:
        if any(each.location.size != len(content) for each in opened):
            return False
        stamp(opened, lambda size: padded(content, size))
    return True
