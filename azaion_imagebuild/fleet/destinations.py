"""Where the identities of a fleet go: a folder of images, an image in place, or devices on USB."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from msgspec import Struct, structs

from .. import images
from ..errors import (
    ImageBuildError,
    OperatorError,
    PreflightError,
    UsageError,
    VerificationError,
    raise_for,
)
from ..identity import device_conf
from ..identity.placeholder import placeholder
from ..identity.serial_list import Listed
from ..images.copy import copy_image
from ..l4t.base_image import stamp_base
from ..l4t.usb import board_findings
from ..lanes.lane import Lane
from ..ledger import Entry, Standing
from ..model import DEVICE_CONF, Build, Image
from ..operations.existing import refuse_other_device
from ..operations.verify import verify
from ..pipeline.new import device_build, stamping_build
from ..pipeline.target import Blank
from ..settings import DeviceConfSettings, Settings
from ..system.files import distrust
from ..system.locks import locked
from .device_watch import DeviceWatch

_WORK = ".azaion-fleet"
_logger = logging.getLogger(__name__)


def refuse_missing_lane(each: Listed, lanes: Iterable[str], source: str = "") -> None:
    """Refuse a device that may only be made at a USB instance that has no lane.

    Args:
        each: the device.
        lanes: the lanes that there are.
        source: where the device is listed, if the operator does not have it in hand.

    Raises:
        PreflightError: it is pinned to another lane.
    """
    if each.usb_instance is not None and each.usb_instance not in lanes:
        listed = f" ({source})" if source else ""
        raise PreflightError(
            f"{each.serial}{listed} is for the USB instance {each.usb_instance!a}, which has no"
            " lane",
            hint=f"the lanes are: {', '.join(lanes)}; name others by --lane",
        )


class Destination(Protocol):
    """A place where one device at a time gets its identity."""

    @property
    def name(self) -> str:
        """Its name for the operator."""
        ...

    def has_device(self) -> bool:
        """Tell whether there is a device that needs an identity; :meth:`ready` waits for one."""
        ...

    def ready(self, each: Listed) -> contextlib.AbstractContextManager[tuple[Build, Blank]]:
        """Prepare an image with a placeholder for a device; clean up at the end."""
        ...


class ImageFolder(Struct, frozen=True, kw_only=True):
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
        """Copy the base to a temporary name; the proven image gets the final one.

        An older image is removed before the account is touched: its identity is stale from then on.
        """
        new = self.dir / _WORK / f"{each.serial}.new"
        final = image_of(self.dir, each)

        def publish() -> Image:
            os.rename(new, final)  # noqa: PTH104 - both are ours
            return structs.replace(self.blank.image, path=final, also=())

        image = structs.replace(self.blank.image, path=new, also=())
        build = stamping_build(each.serial, self.settings, sandbox=self.sandbox)
        build = structs.replace(build, flash=False)  # the order is for an image
        try:
            _refuse_other_device(final, build)
            copy_image(self.blank.image.path, new)
            yield (
                build,
                structs.replace(
                    self.blank, image=image, make_room=lambda: _remove(final), publish=publish
                ),
            )
        finally:
            new.unlink(missing_ok=True)


class InPlace(Struct, frozen=True, kw_only=True):
    """Stamps one device after the other into the same image, which a site's own plug-in flashes."""

    name: str
    blank: Blank
    settings: Settings
    sandbox: bool = False

    def has_device(self) -> bool:
        """Tell whether there is something to give an identity to."""
        return True

    @contextlib.contextmanager
    def ready(self, each: Listed) -> Iterator[tuple[Build, Blank]]:
        """Hand the image out, and restore its placeholder afterwards."""
        build = stamping_build(each.serial, self.settings, sandbox=self.sandbox)
        try:
            yield build, self.blank
        finally:
            self._clear(build)

    def _clear(self, build: Build) -> None:
        try:
            stamp_base(build, self.blank.image, placeholder(self.blank.size))
        except OperatorError as error:
            _logger.warning("%s still holds an identity: %s", self.blank.image.path, error.message)


class UsbLane(Struct, frozen=True, kw_only=True):
    """Flashes one device after the other at one USB instance, from a lane's own tree."""

    lane: Lane
    blank: Blank
    settings: Settings
    sandbox: bool
    watch: DeviceWatch
    stopped: Callable[[], bool]
    """Tells whether to begin nothing new, and to stop waiting for a device."""

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
        if wrong := list(board_findings(build, device)):
            self.watch.had_its_turn(self.name, device)  # the next serial waits for another one
            raise_for(wrong, PreflightError)
        yield self.lane.build(build), self.blank
        self.watch.had_its_turn(self.name, device)


def _refuse_other_device(image: Path, build: Build) -> None:
    """Refuse to replace an image with another device's identity: it is here by mistake."""
    entry = None
    with contextlib.suppress(VerificationError):  # missing, or not an image
        entry = images.read_file(image, DEVICE_CONF, device_conf.LONGEST)
    if entry is not None:
        refuse_other_device(entry.data, image, build, hint=f"move it away: mv {image} …")


def _remove(image: Path) -> None:
    try:
        image.unlink(missing_ok=True)
    except OSError as error:
        raise ImageBuildError(
            f"cannot replace {image}: {error.strerror}", hint="move away whatever is there"
        ) from None


def image_of(folder: Path, each: Listed) -> Path:
    """Return the path of a device's image."""
    return folder / f"{each.serial}.img"


@contextlib.contextmanager
def opened_folder(folder: Path, wait: float) -> Iterator[None]:
    """Lock the folder of the images for one fleet; remove what a killed one left.

    Raises:
        UsageError: it cannot be created or written.
        PreflightError: another fleet writes into it for longer than ``wait`` seconds.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if wrong := distrust(folder):  # its owner could swap a proven image
            raise UsageError(
                f"cannot write into {folder}: {wrong[0]}",
                hint=f"{wrong[1]}; or give another folder by --out",
            )
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
    """Copy the base into the work folder, so that nobody changes it while the fleet runs.

    Raises:
        ImageBuildError: it cannot be copied.
    """
    own = folder / _WORK / f"{name}.img"
    copy_image(blank.image.path, own)
    return structs.replace(blank, image=structs.replace(blank.image, path=own, also=()))


def image_is_done(
    folder: Path, each: Listed, standing: Standing, settings: DeviceConfSettings
) -> Entry | None:
    """Return the row of a device whose image exists and holds the row's credential."""
    row = standing.last
    if row is None or row.outcome != "done" or row.image != str(image_of(folder, each)):
        return None
    with contextlib.suppress(OperatorError, device_conf.MalformedDeviceConf):
        entry = images.read_file(image_of(folder, each), DEVICE_CONF, device_conf.LONGEST)
        if entry is not None:
            conf = device_conf.parse(entry.data)
            if conf.email == each.email and conf.password.fingerprint() == row.credential:
                return row if _is_proven(image_of(folder, each), each, settings) else None
    return None


def _is_proven(image: Path, each: Listed, settings: DeviceConfSettings) -> bool:
    """Tell whether an image passes what ``verify`` checks, except its whole filesystem."""
    report = verify(image, each.serial, settings, filesystem=False)
    for finding in report.findings:
        _logger.warning("%s is made again: %s", each.serial, finding.message)
    return not report.findings


def device_is_done(each: Listed, standing: Standing) -> Entry | None:
    """Return the row of a device that was flashed and finished.

    Only the last attempt counts: a later one may have changed the password, however it ended.
    """
    row = standing.last
    return row if row is not None and row.flashed and row.outcome == "done" else None
