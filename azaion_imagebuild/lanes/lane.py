"""Lanes: flashing several devices at once from one BSP, each from its own tree.

NVIDIA's scripts take the images from their own tree, and two of them in one tree damage each other.
So each device gets a lane, a copy of the BSP (:mod:`.tree`) in
``<BSP>.lanes/<USB instance>/Linux_for_Tegra``, with its own image to stamp.

Every run creates its lanes again, under the BSP's lock, so they are never stale. That takes about a
second for 200,000 files, and the time to copy the images if the filesystem does not share blocks.
At the end they are removed; those of a killed run, by the next build in that BSP.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct, structs

from ..errors import OperatorError, PreflightError, StagingError, raise_for
from ..images.stamp import blank
from ..l4t import base_image, cleanup, image_files, initrd_wrapper
from ..l4t.initrd_host import exclusive
from ..l4t.usb import checked_instances, is_instance
from ..model import Build, Image, InLane
from ..system.locks import locked
from ..system.signals import held_back
from . import tree as lane_tree

_MOST_NAMES = 8
_logger = logging.getLogger(__name__)


class Lane(Struct, frozen=True, kw_only=True):
    """A Linux_for_Tegra for one device at a time."""

    number: int
    """Device instance, 0 to 9, by which NVIDIA's scripts tell devices apart."""
    usb_instance: str
    """USB bus and port, e.g. ``1-3``."""
    tree: Path
    image: Image
    """The base's image in this lane: own copies of the files that reach a device."""
    lock_fds: tuple[int, ...] = ()

    def build(self, build: Build) -> Build:
        """Return a device's build for this lane.

        Its identity is stamped into the lane's image, and removed at the end.
        """
        return structs.replace(
            build,
            bsp_dir=self.tree,
            rootfs_dir=self.tree / "rootfs",
            stamps=True,
            lane=InLane(number=self.number, usb_instance=self.usb_instance),
            lock_fds=self.lock_fds,
        )


@contextlib.contextmanager
def opened_lanes(build: Build, image: Image, usb_instances: Sequence[str]) -> Iterator[list[Lane]]:
    """Create a lane for each USB instance; at the end, wait for its builds and remove it.

    The BSP stays locked meanwhile, and so does the host with the initrd method.

    Args:
        build: of the fleet: its BSP, its settings.
        image: the base that was built in that BSP, with a placeholder.
        usb_instances: where the devices are plugged in; the first becomes number 0.

    Raises:
        PreflightError: something is wrong; nothing has been changed.
        ImageBuildError: the images cannot be copied.
        StagingError: at the end something could not be unmounted or detached.
    """
    assert build.bsp_dir is not None  # noqa: S101 - only builds with a BSP have lanes
    tree, wait = build.bsp_dir.resolve(), build.settings.build.lock_wait
    instances = checked_instances(usb_instances)
    with contextlib.ExitStack() as held:
        descriptors = held.enter_context(locked([tree, build.rootfs_dir], wait))
        build = structs.replace(build, lock_fds=(*build.lock_fds, *descriptors))
        initrd = build.settings.bsp.method == "initrd"
        if initrd:
            build = held.enter_context(exclusive(build))
        image = _in(tree, image)
        _check(build, tree, image, len(instances))
        remove_lanes(tree, wait)
        held.callback(remove_lanes, tree, wait)
        lanes = _made(build, tree, image, instances)
        made = lane_tree.lanes_dir(tree).stat().st_mtime_ns  # by the filesystem's own clock
        held.callback(_warn_of_written, tree, build.rootfs_dir, made)
        if initrd:
            held.enter_context(
                initrd_wrapper.host_prepared(
                    build, tree, {each.number: each.tree for each in lanes}
                )
            )
        held.callback(_wait_for_builds, lanes, wait)
        yield lanes


def remove_lanes(tree: Path, wait: float) -> None:
    """Remove a BSP's lanes; first overwrite an identity that a killed build left in one.

    Only for the holder of the BSP's lock.

    Raises:
        PreflightError: a script of a killed run is still at work in one.
        StagingError: a part of them cannot be removed.
    """
    folder = lane_tree.lanes_dir(tree)
    if not _is_ours(folder, tree.resolve().name):
        return
    trees = sorted(folder.glob(f"*/{tree.resolve().name}"))
    with locked(trees, wait), held_back():
        for lane in trees:
            _blank_images(lane, wait)
    cleanup.release(folder)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StagingError(
            f"cannot remove the lanes {folder}: {error.strerror} ({error.filename})",
            hint="remove that folder; none of its images holds an identity",
        ) from None


def _is_ours(folder: Path, name: str) -> bool:
    """Tell whether a folder holds only lanes: nothing else may be removed."""
    return _is_folder(folder) and all(
        is_instance(lane.name)
        and _is_folder(lane)
        and (_is_folder(lane / name) or not any(lane.iterdir()))  # or it was only begun
        for lane in folder.iterdir()
    )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _blank_images(lane: Path, wait: float) -> None:
    for path in image_files.present_images(lane):
        if path.stat().st_nlink > 1:
            continue  # shared with the BSP: never stamped
        try:
            blank(path, wait)
        except (OperatorError, OSError):
            path.unlink(missing_ok=True)


def _in(tree: Path, image: Image) -> Image:
    """Return the image with paths in the resolved tree."""
    path, *also = (each.parent.resolve() / each.name for each in (image.path, *image.also))
    return structs.replace(image, path=path, also=tuple(also), aside=())


def _check(build: Build, tree: Path, image: Image, lanes: int) -> None:
    found = lane_tree.findings(tree, build.rootfs_dir, image, lanes)
    if build.settings.bsp.method == "initrd":
        found += initrd_wrapper.findings(build, tree, range(lanes))
    raise_for(found, PreflightError)


def _made(build: Build, tree: Path, image: Image, instances: Sequence[str]) -> list[Lane]:
    folder = lane_tree.lanes_dir(tree)
    _make_folder(folder)
    lanes = []
    for number, instance in enumerate(instances):
        _make_folder(folder / instance)
        lane = folder / instance / tree.name
        own = lane_tree.make_tree(tree, build.rootfs_dir, image, lane)
        base_image.note_base(lane, own, origin="a lane", devices=len(instances))
        lanes.append(
            Lane(
                number=number,
                usb_instance=instance,
                tree=lane,
                image=own,
                lock_fds=build.lock_fds,
            )
        )
    return lanes


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir()
        folder.chmod(0o711)  # searched, but not listed: a device's NFS mount passes through
    except OSError as error:
        raise PreflightError(
            f"cannot make the folder {folder}: {error.strerror}",
            hint="check its permissions; move away whatever is there",
        ) from None


def _wait_for_builds(lanes: Sequence[Lane], wait: float) -> None:
    with locked([lane.tree for lane in lanes], wait):
        pass


def _warn_of_written(tree: Path, rootfs: Path, since: int) -> None:
    if found := lane_tree.written_meanwhile(tree, rootfs, since):
        more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
        shown = ", ".join(found[:_MOST_NAMES]) + more
        _logger.warning("files that all lanes share were written while they were open: %s", shown)
