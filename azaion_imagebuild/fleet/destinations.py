"""Where the identities of a fleet go: a folder of images, an image in place, or devices on USB."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Protocol

from msgspec import Struct, structs

from .. import images
from ..errors import ImageBuildError, OperatorError, UsageError
from ..identity import device_conf
from ..identity.placeholder import placeholder
from ..identity.serial_list import Listed
from ..images.stamp import copy_image
from ..l4t.base_image import stamp_base
from ..lanes.lane import Lane
from ..ledger import Entry, Standing
from ..model import DEVICE_CONF, Build, Image
from ..pipeline.new import device_build, stamping_build
from ..pipeline.target import Blank
from ..settings import Settings
from ..system.files import is_own
from ..system.locks import locked
from .device_watch import DeviceWatch

_WORK = ".azaion-fleet"
_logger = logging.getLogger(__name__)


class Place(Protocol):
    """Where one device at a time gets its identity."""

    @property
    def name(self) -> str:
        """What an operator calls it."""
        ...

    def has_device(self) -> bool:
        """Tell whether there is something to give an identity to; :meth:`ready` waits for it."""
        ...

    def ready(self, each: Listed) -> contextlib.AbstractContextManager[tuple[Build, Blank]]:
        """Make an image with a placeholder ready for a device; tidy up behind it."""
        ...


class Folder(Struct, frozen=True, kw_only=True):
    """Writes ``DIR/SERIAL.img`` for each device: a copy of the base, stamped and proven."""

    dir: Path
    blank: Blank
    settings: Settings
    sandbox: bool
    name: str = "images"

    def has_device(self) -> bool:
        """Tell whether there is something to give an identity to."""
        return True

    @contextlib.contextmanager
    def ready(self, each: Listed) -> Iterator[tuple[Build, Blank]]:
        """Copy the base to a name of its own; it gets its right name when it is proven.

        An older image goes first: its identity is stale as soon as the account is touched.
        """
        new = self.dir / _WORK / f"{each.serial}.new"
        final = image_of(self.dir, each)

        def publish() -> Image:
            os.rename(new, final)  # noqa: PTH104 - both are ours
            return structs.replace(self.blank.image, path=final, also=())

        image = structs.replace(self.blank.image, path=new, also=())
        build = stamping_build(each.serial, self.settings, sandbox=self.sandbox)
        build = structs.replace(build, flash=False)  # an image is what was ordered
        try:
            copy_image(self.blank.image.path, new)
            _remove(final)
            yield build, structs.replace(self.blank, image=image, publish=publish)
        finally:
            new.unlink(missing_ok=True)


class InPlace(Struct, frozen=True, kw_only=True):
    """Stamps one image after the other into the same file: a lane without a device of ours.

    With ``flash`` the step is done, by a site's own plug-in, and the placeholder put back after it.
    """

    name: str
    blank: Blank
    settings: Settings
    sandbox: bool = field(default=False)
    flash: bool = field(default=False)

    def has_device(self) -> bool:
        """Tell whether there is something to give an identity to."""
        return True

    @contextlib.contextmanager
    def ready(self, each: Listed) -> Iterator[tuple[Build, Blank]]:
        """Hand the image out; the next identity overwrites this one."""
        build = stamping_build(each.serial, self.settings, sandbox=self.sandbox)
        build = structs.replace(build, flash=self.flash and self.settings.build.flash)
        try:
            yield build, self.blank
        finally:
            if self.flash:
                self._clear(build)

    def _clear(self, build: Build) -> None:
        try:
            stamp_base(build, self.blank.image, placeholder(self.blank.size))
        except OperatorError as error:
            _logger.warning("%s still holds an identity: %s", self.blank.image.path, error.message)


class OnLane(Struct, frozen=True, kw_only=True):
    """Flashes one device after the other at one USB instance, from a lane's own tree."""

    lane: Lane
    blank: Blank
    settings: Settings
    sandbox: bool
    watch: DeviceWatch
    stopped: Callable[[], bool]
    """Whether nothing new shall begin: waiting for a device then ends."""

    @property
    def name(self) -> str:
        """The USB instance, e.g. ``1-3``."""
        return self.lane.usb_instance

    def has_device(self) -> bool:
        """Tell whether a device that has not had its turn is in recovery mode."""
        return self.watch.is_there(self.settings.bsp.sysfs_usb, self.name)

    @contextlib.contextmanager
    def ready(self, each: Listed) -> Iterator[tuple[Build, Blank]]:
        """Wait for a device that has not had its turn."""
        settings = self.settings
        device = self.watch.next_device(
            settings.bsp.sysfs_usb, self.name, settings.bsp.device_wait, self.stopped
        )
        build = device_build(each.serial, settings, sandbox=self.sandbox)
        yield self.lane.build(build), self.blank
        self.watch.had_its_turn(self.name, device)


def _remove(image: Path) -> None:
    try:
        image.unlink(missing_ok=True)
    except OSError as error:
        raise ImageBuildError(
            f"cannot replace {image}: {error.strerror}", hint="move away what stands there"
        ) from None


def image_of(folder: Path, each: Listed) -> Path:
    """Return where a device's image lies."""
    return folder / f"{each.serial}.img"


@contextlib.contextmanager
def opened_folder(folder: Path, wait: float) -> Iterator[None]:
    """Hold the folder of the images for one fleet; take away what a killed one left.

    Raises:
        UsageError: it cannot be made or written.
        PreflightError: another fleet writes into it for longer than ``wait`` seconds.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_own(folder):  # who owns it could put another image in the place of a proven one
            raise PermissionError(errno.EPERM, "it belongs to another user, or all may write it")
        with locked([folder], wait):
            work = folder / _WORK
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(mode=0o700)
            try:
                yield
            finally:
                shutil.rmtree(work)
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder}: {error.strerror}", hint="give another folder by --out"
        ) from None


def taken(folder: Path, blank: Blank, name: str = "base") -> Blank:
    """Copy the base into the work folder: nobody else changes it while the fleet runs.

    Raises:
        ImageBuildError: it cannot be copied.
    """
    own = folder / _WORK / f"{name}.img"
    copy_image(blank.image.path, own)
    return structs.replace(blank, image=structs.replace(blank.image, path=own, also=()))


def image_is_done(folder: Path, each: Listed, standing: Standing) -> Entry | None:
    """Return the row of a device whose image is there and carries the credential it speaks of."""
    row = standing.last
    if row is None or row.outcome != "done" or row.image != str(image_of(folder, each)):
        return None
    with contextlib.suppress(OperatorError, device_conf.MalformedDeviceConf):
        entry = images.read_file(image_of(folder, each), DEVICE_CONF, device_conf.LONGEST)
        if entry is not None:
            conf = device_conf.parse(entry.data)
            if conf.email == each.email and conf.password.fingerprint() == row.credential:
                return row
    return None


def device_is_done(each: Listed, standing: Standing) -> Entry | None:
    """Return the row of a device that was flashed, and proven, and passed all that came after.

    Of the last attempt: a later one, however it ended, may have given the account a new password.
    """
    row = standing.last
    return row if row is not None and row.flashed and row.outcome == "done" else None
