"""The base: an image with a placeholder, built once; each device's identity is stamped into it.

``bootloader/azaion-base.json`` says what it was built from. It is rebuilt when the rootfs, the
settings or the release differ from that note, or when it was packed for fewer devices at once than
``[bsp] massflash`` asks for. In a lane (see :mod:`.lane`) the base is the lane's image.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from msgspec import structs

from .. import images
from ..errors import ImageBuildError, OperatorError, VerificationError, raise_for
from ..identity import device_conf
from ..identity.placeholder import placeholder
from ..images import tar_index
from ..images.digest import image_digest
from ..images.formats import TAR_ZST
from ..images.magic import TAR
from ..images.slot import ensure_packed_slot, put_last
from ..images.stamp import blank, opened_images, stamp
from ..images.stream import CorruptImage
from ..model import DEVICE_CONF, Build, Finding, Image, Ownership, StagedFile
from ..proof import completeness
from ..rootfs.staging import stage_placeholder, unstage
from ..system.files import read_plain
from . import firmware, image_files
from .flashing import flash_method
from .image_files import BASE_NOTE
from .origin import origin_of


def build_base(build: Build, ownership: Ownership) -> Image:
    """Build an image with a placeholder by NVIDIA's script, prove it, and note its origin.

    Raises:
        OperatorError: it was not built, or does not hold the placeholder as it was staged.
    """
    tree = _tree(build)
    staged = stage_placeholder(build, ownership)
    try:
        image = flash_method(build, tree, build.packed_for).build_image(build)
        _make_ready(build, image, ownership)
        raise_for(_findings(build, image, staged), VerificationError)
    finally:
        unstage(build, (staged,))
    if image.format == TAR:  # the checksum beside it is of the archive as the script packed it
        stamp_base(build, image, placeholder(build.settings.image.placeholder_size))
    # Images that reach no device keep the placeholder.
    image = structs.replace(image, aside=(), base_sha256=image_digest(image.path))
    note_base(tree, image, origin_of(build, ownership), build.packed_for)
    return image


def _make_ready(build: Build, image: Image, ownership: Ownership) -> None:
    """Make device.conf the last member of each archive: a stamp then changes only its end.

    A zstd archive is packed again, because a stamp cannot change compressed data.
    """
    settings = build.settings

    def make_slot(path: Path, descriptor: int) -> bytes | None:
        owner = (ownership.uid, ownership.gid)
        return ensure_packed_slot(path, descriptor, owner, settings.image.placeholder_size)

    if image.format == TAR_ZST:
        with opened_images((image.path, *image.also), settings.build.lock_wait, make_slot):
            return
    if image.format != TAR:
        return
    for path in (image.path, *image.also):
        try:
            put_last(path)
        except (OSError, CorruptImage) as error:
            raise VerificationError(
                f"{path} cannot be made ready for stamps: {error}",
                hint="look at the log, then build it again",
            ) from None


def note_base(tree: Path, image: Image, origin: str, devices: int) -> None:
    """Note which files of a tree are a base.

    Args:
        tree: the Linux_for_Tegra folder.
        image: the base, in that tree, with its digest.
        origin: a digest of what it was built from.
        devices: for how many devices at once it was packed.
    """
    note = {
        "of": origin,
        "image": _names(tree, image),
        "devices": devices,
        "sha256": image.base_sha256,
    }
    (tree / BASE_NOTE).write_text(json.dumps(note))


def current_base(build: Build, ownership: Ownership) -> Image:
    """Return the base; rebuild it if it is missing, out of date, or ``[image] rebuild`` is set."""
    tree = _tree(build)
    if build.lane is not None:
        return _base_of_lane(tree)
    note = {} if build.settings.image.rebuild else _read_note(tree)
    if not _packed_for_enough(build, note) or note.get("of") != origin_of(build, ownership):
        return build_base(build, ownership)
    return _noted_image(tree, note) or build_base(build, ownership)


def _packed_for_enough(build: Build, note: dict[str, Any]) -> bool:
    return build.settings.bsp.method == "flash" or note.get("devices", 1) >= build.packed_for


def _base_of_lane(tree: Path) -> Image:
    image = _noted_image(tree, _read_note(tree))
    if image is None:
        raise ImageBuildError(
            f"the lane {tree} has lost its image",
            hint="start the fleet again: it creates new lanes",
        )
    return image


def _noted_image(tree: Path, note: dict[str, Any]) -> Image | None:
    paths = [tree / name for name in note.get("image", ())]
    if not paths or not all(path.is_file() for path in paths):
        return None
    return Image(
        path=paths[0],
        format=images.format_of(paths[0]),
        also=tuple(paths[1:]),
        base_sha256=note["sha256"],
    )


def stamp_base(build: Build, image: Image, data: bytes) -> None:
    """Write a device's device.conf (or a placeholder) into every file of the base.

    Raises:
        OperatorError: it cannot be written.
    """
    paths = (image.path, *image.also)
    with opened_images(paths, build.settings.build.lock_wait) as opened:
        try:
            stamp(opened, lambda size: data)
        except (ImageBuildError, ValueError) as error:
            reason = error.message if isinstance(error, ImageBuildError) else error
            raise VerificationError(
                f"cannot stamp {image.path}: {reason}", hint="rebuild the base: --rebuild"
            ) from None


def clear_base(build: Build, keep: Path | None = None) -> list[str]:
    """Restore the placeholder in the base's files, except ``keep``; return their names.

    A file that cannot be cleared is removed: better no base than one with an identity in it.
    """
    tree = _tree(build)
    cleared = []
    for name in _read_note(tree).get("image", []):
        path = tree / name
        if path == keep or not path.is_file():
            continue
        try:
            blank(path, build.settings.build.lock_wait)
        except (OperatorError, OSError):
            (tree / BASE_NOTE).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            tar_index.forget(path)
        cleared.append(name)
    return cleared


def base_files(tree: Path | None) -> list[Path]:
    """Return the files of the base in a tree, the main one first; empty without a base."""
    return [tree / name for name in _read_note(tree).get("image", [])] if tree else []


def has_base(tree: Path) -> bool:
    """Tell whether the tree has a base."""
    return (tree / BASE_NOTE).is_file()


def _tree(build: Build) -> Path:
    assert build.bsp_dir is not None  # noqa: S101 - only builds with a BSP have a base
    return build.bsp_dir


def _read_note(tree: Path) -> dict[str, Any]:
    try:
        note = json.loads(read_plain(tree / BASE_NOTE))
    except (OSError, ValueError, RecursionError):
        return {}
    usable = isinstance(note, dict) and isinstance(note.get("image"), list)
    usable = usable and isinstance(note.get("devices", 1), int)
    usable = usable and isinstance(note.get("sha256"), str)
    if not usable or not note["image"]:
        return {}
    if not all(isinstance(each, str) and image_files.is_image(each) for each in note["image"]):
        return {}
    return dict(note)


def _names(tree: Path, image: Image) -> list[str]:
    return [str(path.relative_to(tree)) for path in (image.path, *image.also)]


def _findings(build: Build, image: Image, staged: StagedFile) -> list[Finding]:
    findings = []
    for path in (image.path, *image.also):
        entry = images.read_file(path, DEVICE_CONF, device_conf.LONGEST)
        owner = (staged.ownership.uid, staged.ownership.gid)
        right = entry is not None and (entry.uid, entry.gid, entry.mode) == (*owner, staged.mode)
        if entry is None or not right or hashlib.sha256(entry.data).hexdigest() != staged.sha256:
            message = f"{path} does not hold the placeholder as it was staged"
            findings.append(Finding(message=message, hint="look at the log, then build it again"))
    return findings or [
        *completeness.findings(build, image),
        *firmware.built_findings(_tree(build), build),
    ]
