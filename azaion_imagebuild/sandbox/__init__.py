"""The sandbox: an admin API, a BSP, a device and a Loader, so that a build works without any."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from msgspec import Struct, structs

from ..admin_api.contract import of_the_runbook
from ..errors import UsageError
from ..l4t.usb import MOST_AT_ONCE
from ..settings import Settings
from ..system.files import make_folder
from ..system.locks import locked
from .admin_api import Accounts, admin_api
from .bsp import create_bsp, is_reference_bsp
from .loader import loader

__all__ = ["Accounts", "Sandbox"]


class Sandbox(Struct, frozen=True):
    """The parts of the sandbox, in one folder of the state folder."""

    dir: Path

    @property
    def bsp(self) -> Path:
        """The reference Linux_for_Tegra."""
        return self.dir / "Linux_for_Tegra"

    @property
    def rootfs(self) -> Path:
        """Its root filesystem: what is put there is in the next image."""
        return self.bsp / "rootfs"

    @property
    def device(self) -> Path:
        """The virtual device: a file that flash.sh writes the APP partition into."""
        return self.dir / "device.img"

    @property
    def sysfs(self) -> Path:
        """The sandbox's substitute for /sys/bus/usb/devices."""
        return self.dir / "sysfs"

    def device_at(self, usb_instance: str) -> Path:
        """Return the virtual device at a USB instance of :meth:`usb_instances`."""
        return self.dir / "devices" / f"{usb_instance}.img"

    def usb_instances(self, number: int) -> list[str]:
        """Plug in a number of virtual devices, all in recovery mode; return their USB instances.

        They are ``0-1``, ``0-2`` and so on. Others are unplugged, with what was flashed to them.

        Raises:
            UsageError: the sandbox cannot be written.
        """
        instances = [f"0-{port}" for port in range(1, number + 1)]
        try:
            shutil.rmtree(self.sysfs, ignore_errors=True)
            make_folder(self.device_at("0-1").parent)
            for instance in instances:
                _make_device(self.device_at(instance))
                _plug_in(self.sysfs / instance, instance)
        except OSError as error:
            raise _not_writable(self.dir, error) from None
        return instances

    @property
    def accounts(self) -> Accounts:
        """The accounts of the embedded admin API."""
        return Accounts(self.dir / "admin-api.sqlite3")

    def create(self, lock_wait: float) -> None:
        """Create what is missing.

        Raises:
            UsageError: the folder cannot be written.
        """
        try:
            make_folder(self.dir)
            with locked([self.dir], lock_wait):
                create_bsp(self.bsp)
                _make_device(self.device)
        except OSError as error:
            raise _not_writable(self.dir, error) from None

    def reset(self) -> None:
        """Remove the sandbox with its accounts and its device.

        Raises:
            UsageError: the folder is not a sandbox, or it cannot be removed.
            PreflightError: a build is at work in it.
        """
        if not self.dir.exists():
            return
        if not is_reference_bsp(self.bsp):
            raise UsageError(
                f"{self.dir} holds no sandbox of this tool",
                hint="check what it is, and remove it yourself",
            )
        try:
            with locked([self.dir, self.bsp], 0.0):
                shutil.rmtree(self.dir)
        except OSError as error:
            raise UsageError(
                f"cannot remove the sandbox {self.dir}: {error.strerror or error}",
                hint="remove it as the user who made it",
            ) from None

    @contextlib.contextmanager
    def running(self, settings: Settings) -> Iterator[Settings]:
        """Create the parts, serve the admin API and the Loaders; yield the settings to use them."""
        self.create(settings.build.lock_wait)
        ports = [f"0-{port}" for port in range(1, MOST_AT_ONCE + 1)]
        devices = {instance: self.device_at(instance) for instance in ports}
        chosen = settings.bsp.usb_instance
        plugged = chosen is None or chosen in devices
        with (
            admin_api(self.accounts) as api,
            loader(self.device, api.url, others=devices) as device,
        ):
            loader_url = f"{device.url}/{{usb_instance}}" if plugged else device.url
            yield structs.replace(
                settings,
                admin_api=structs.replace(of_the_runbook(settings.admin_api), url=api.url),
                bsp=structs.replace(settings.bsp, dir=self.bsp, sysfs_usb=self.sysfs),
                image=structs.replace(settings.image, keep=True),  # for people to look at
                smoke=structs.replace(settings.smoke, loader_url=loader_url, wait=0.0),
            )


def _make_device(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _plug_in(folder: Path, instance: str) -> None:
    """Show a device in recovery mode as the kernel does, with a chip id of its own."""
    folder.mkdir(parents=True)
    bus, _, port = instance.partition("-")
    shown = {
        "idVendor": "0955",
        "idProduct": "7523",
        "busnum": bus,
        "devpath": port,
        "serial": sha256(f"virtual device {instance}".encode()).hexdigest()[:20],
    }
    for name, text in shown.items():
        (folder / name).write_text(f"{text}\n")


def _not_writable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot set up the sandbox in {folder}: {error.strerror or error}",
        hint="set AZAION_IMAGEBUILD_STATE_DIR to a folder of your own",
    )
