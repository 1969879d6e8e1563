"""Recognizing the next device on a USB port: never the one that was just flashed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InterruptedBuild, PreflightError
from ..l4t.usb import RecoveryDevice, device_at, wait_for_device

_PAUSE = 0.2


@dataclass(slots=True)
class DeviceWatch:
    """Knows the devices that had their turn, by chip id, or because they were unplugged.

    A device that stays in recovery mode or returns to it must not get a second identity: its label
    has the first one.
    """

    virtual: bool = False
    """The sandbox's devices stay plugged in; each is taken again and again."""
    _chips: set[str] = field(default_factory=set)
    _still_there: set[str] = field(default_factory=set)
    """USB instances whose device had its turn and was not unplugged since."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_there(self, sysfs: Path, instance: str) -> bool:
        """Tell whether a new device is in recovery mode at a USB instance."""
        return self._is_new(instance, device_at(sysfs, instance))

    def next_device(
        self, sysfs: Path, instance: str, seconds: float, stopped: Callable[[], bool]
    ) -> RecoveryDevice:
        """Wait until a new device is in recovery mode at a USB instance.

        Raises:
            PreflightError: there was none in that time.
            InterruptedBuild: ``stopped`` said so.
        """
        deadline = time.monotonic() + seconds
        while True:
            if self._is_new(instance, device_at(sysfs, instance)):
                left = max(0.0, deadline - time.monotonic())
                return wait_for_device(sysfs, instance, left, stopped)
            if stopped():
                raise InterruptedBuild(
                    f"stopped while waiting for a device at the USB instance {instance}",
                    hint="run the same command again",
                )
            if time.monotonic() >= deadline:
                raise PreflightError(
                    f"no new device came into recovery mode at the USB instance {instance} in"
                    f" {seconds:g} s",
                    hint="unplug the one that was flashed, plug in the next; hold FORCE RECOVERY,"
                    " press RESET, then look for 0955: in lsusb",
                )
            time.sleep(_PAUSE)

    def had_its_turn(self, instance: str, device: RecoveryDevice) -> None:
        """Note a device that was flashed, or should have been."""
        with self._lock:
            self._still_there.add(instance)
            if device.ecid is not None:
                self._chips.add(device.ecid)

    def _is_new(self, instance: str, device: RecoveryDevice | None) -> bool:
        with self._lock:
            if device is None:
                self._still_there.discard(instance)
                return False
            if self.virtual:
                return True
            if device.ecid is not None:
                return device.ecid not in self._chips
            return instance not in self._still_there
