"""Jetson devices in recovery mode, as the kernel shows them in sysfs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from ..errors import InterruptedBuild, OperatorError, PreflightError

RECOVERY_HINT = "hold FORCE RECOVERY, press RESET, then look for 0955: in lsusb"
MOST_AT_ONCE = 10
"""NVIDIA's initrd flash finds device 1 by a pattern that matches 10 as well (l4t-facts)."""

_NVIDIA = "0955"
_RECOVERY = "23"  # products in recovery mode: 7523 (Orin Nano 8 GB), 7623 (4 GB), 7023, 7223, …
_INSTANCE = re.compile(r"[0-9]{1,3}-[0-9]{1,3}(\.[0-9]{1,3}){0,6}", re.ASCII)
_PAUSE = 0.25  # seconds between two looks at sysfs


class RecoveryDevice(Struct, frozen=True, kw_only=True):
    """A device that waits to be flashed."""

    instance: str
    """USB bus and port, e.g. ``1-3``; what NVIDIA's scripts call the USB instance."""
    product: str
    ecid: str | None = None
    """The chip's own number, where the kernel shows one."""


def recovery_devices(sysfs: Path) -> list[RecoveryDevice]:
    """Return the devices in recovery mode, by instance.

    Args:
        sysfs: ``/sys/bus/usb/devices``; each folder there has idVendor, idProduct, busnum, devpath,
            and a serial where the device tells one.
    """
    found = []
    for folder in sorted(sysfs.glob("*")):
        vendor, product, bus, path = (
            _read(folder / name) for name in ("idVendor", "idProduct", "busnum", "devpath")
        )
        if vendor == _NVIDIA and product.endswith(_RECOVERY) and bus and path:
            found.append(
                RecoveryDevice(instance=f"{bus}-{path}", product=product, ecid=_ecid(folder))
            )
    return found


def listed(devices: Sequence[RecoveryDevice]) -> str:
    """Return the devices for a message."""
    return ", ".join(f"{each.instance} (0955:{each.product})" for each in devices)


def device_at(sysfs: Path, instance: str) -> RecoveryDevice | None:
    """Return the device in recovery mode at a USB instance; None: there is none."""
    for device in recovery_devices(sysfs):
        if device.instance == instance:
            return device
    return None


def devices_to_flash(sysfs: Path, chosen: Sequence[str] = ()) -> list[RecoveryDevice]:
    """Return the devices to flash at once: the chosen ones, or all that are in recovery mode.

    Raises:
        PreflightError: there is none, a chosen one is missing, or they are more than ten.
    """
    found = {each.instance: each for each in recovery_devices(sysfs)}
    if not found:
        raise PreflightError("no device is in recovery mode", hint=RECOVERY_HINT)
    wanted = checked_instances(chosen or list(found))
    if missing := [each for each in wanted if each not in found]:
        raise PreflightError(
            f"no device in recovery mode at the USB instance {', '.join(missing)}",
            hint=f"in recovery mode are: {listed(list(found.values()))}",
        )
    return [found[each] for each in wanted]


def is_instance(text: str) -> bool:
    """Tell whether a text is a USB bus and port, e.g. ``1-3`` or ``2-1.4``."""
    return _INSTANCE.fullmatch(text) is not None


def checked_instances(instances: Sequence[str]) -> tuple[str, ...]:
    """Return USB instances to flash at once, when they can be.

    Raises:
        PreflightError: none, more than ten, one twice, or one that is no instance.
    """
    problems = [
        (
            f"{each!a} is not a valid USB instance",
            "give bus and port, e.g. 1-3 or 2-1.4: ls /sys/bus/usb",
        )
        for each in instances
        if not is_instance(each)
    ]
    if not instances:
        problems.append(("no USB instance is given", "name those of the devices, e.g. 1-3"))
    if twice := sorted({each for each in instances if list(instances).count(each) > 1}):
        problems.append((f"{', '.join(twice)} is given twice", "give each USB instance once"))
    if len(instances) > MOST_AT_ONCE:
        message = f"{len(instances)} devices are too many for one host at once"
        problems.append((message, f"at most {MOST_AT_ONCE}: unplug some, or name those to flash"))
    if problems:
        raise PreflightError.of_problems(problems)
    return tuple(instances)


def wait_for_device(
    sysfs: Path, instance: str, seconds: float, stopped: Callable[[], bool] = lambda: False
) -> RecoveryDevice:
    """Wait until a device in recovery mode is at a USB instance, and return it.

    Args:
        sysfs: ``/sys/bus/usb/devices``.
        instance: where to look, e.g. ``1-3``.
        seconds: how long to wait at most.
        stopped: asked between two looks whether to give up.

    Raises:
        PreflightError: there was none in that time; the hint says what is there.
        InterruptedBuild: ``stopped`` said so.
    """
    deadline = time.monotonic() + seconds
    while True:
        if (device := device_at(sysfs, instance)) is not None:
            return device
        if stopped():
            raise InterruptedBuild(
                f"stopped while waiting for a device at the USB instance {instance}",
                hint="run the same command again",
            )
        if time.monotonic() >= deadline:
            raise _missing(sysfs, instance, seconds)
        time.sleep(min(_PAUSE, max(0.0, deadline - time.monotonic())))


def _missing(sysfs: Path, instance: str, seconds: float) -> OperatorError:
    found = recovery_devices(sysfs)
    return PreflightError(
        f"no device came into recovery mode at the USB instance {instance} in {seconds:g} s",
        hint=f"{RECOVERY_HINT}; in recovery mode are: {listed(found) or 'none'}",
    )


def _ecid(folder: Path) -> str | None:
    """Return the serial of a device in recovery mode; "0" and nothing say nothing."""
    serial = _read(folder / "serial")
    shown = serial.isascii() and serial.isprintable() and len(serial) <= 64
    return serial if shown and serial.strip("0x") else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
