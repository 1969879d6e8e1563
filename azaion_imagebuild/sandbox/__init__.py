"""The sandbox: an admin API, a BSP, a device and a Loader, so that a build works without any."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..contract import of_the_runbook
from ..errors import UsageError
from ..locks import locked
from ..settings import Settings
from .admin_api import Accounts, admin_api
from .bsp import create_bsp, is_reference_bsp
from .loader import loader

__all__ = ["Accounts", "Sandbox"]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The parts of the sandbox, in one folder of the state folder."""

    dir: Path

    @property
    def bsp(self) -> Path:
        """The reference Linux_for_Tegra."""
        return self.dir / "Linux_for_Tegra"

    @property
    def device(self) -> Path:
        """The virtual device: a file that flash.sh writes the APP partition into."""
        return self.dir / "device.img"

    @property
    def accounts(self) -> Accounts:
        """The accounts of the embedded admin API."""
        return Accounts(self.dir / "admin-api.sqlite3")

    def create(self, lock_wait: float) -> None:
        """Make what is missing.

        Raises:
            UsageError: the folder cannot be written.
        """
        try:
            self.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked([self.dir], lock_wait):
                create_bsp(self.bsp)
                os.close(os.open(self.device, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise UsageError(
                f"cannot set up the sandbox in {self.dir}: {error.strerror or error}",
                hint="set AZAION_IMAGEBUILD_STATE_DIR to a folder of your own",
            ) from None

    def reset(self) -> None:
        """Remove the sandbox with its accounts and its device.

        Raises:
            UsageError: the folder is no sandbox, or it cannot be removed.
            PreflightError: a build is at work in it.
        """
        if not self.dir.exists():
            return
        if not is_reference_bsp(self.bsp):
            raise UsageError(
                f"{self.dir} holds no sandbox of this tool",
                hint="look at what it is; remove it yourself if that is meant",
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
        """Create the parts, serve the admin API and the Loader; yield the settings to use them."""
        self.create(settings.build.lock_wait)
        with admin_api(self.accounts) as api, loader(self.device, api.url) as device:
            yield dataclasses.replace(
                settings,
                admin_api=dataclasses.replace(of_the_runbook(settings.admin_api), url=api.url),
                bsp=dataclasses.replace(settings.bsp, dir=self.bsp),
                image=dataclasses.replace(settings.image, keep=True),  # to look at
                smoke=dataclasses.replace(settings.smoke, loader_url=device.url, wait=0.0),
            )
