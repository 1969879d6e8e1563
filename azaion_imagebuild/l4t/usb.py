"""Jetson devices in recovery mode, as the kernel shows them in sysfs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from ..errors import InterruptedBuild, OperatorError, PreflightError
from ..model import Build, Finding
from ..system.signals import check_interrupt
from . import recovery_ids, releases

RECOVERY_HINT = "hold FORCE RECOVERY, press RESET, then look for 0955: in lsusb"
MOST_AT_ONCE = 10
"""NVIDIA's initrd flash finds device 1 by a pattern that matches 10 as well (l4t-facts)."""

_INSTANCE = re.compile(r"[0-9]{1,3}-[0-9]{1,3}(\.[0-9]{1,3}){0,6}", re.ASCII)
_PAUSE = 0.25  # seconds between two reads of sysfs
_RESTART = 5.0  # seconds that a device may take to be in recovery mode again


class RecoveryDevice(Struct, frozen=True, kw_only=True):
    """A device that waits to be flashed."""

    instance: str
    """USB bus and port, e.g. ``1-3``; what NVIDIA's scripts call the USB instance."""
    product: str
    ecid: str | None = None
    """The chip's own number, if the kernel shows one."""

    def __str__(self) -> str:
        return f"{self.instance} ({recovery_ids.VENDOR}:{self.product})"


def nvidia_devices(sysfs: Path) -> list[RecoveryDevice]:
    """Return every device of NVIDIA's, in recovery mode or not, by instance.

    Args:
        sysfs: ``/sys/bus/usb/devices``; each folder there has idVendor, idProduct, busnum, devpath,
            and a serial if the device has one.
    """
    found = []
    for folder in sorted(sysfs.glob("*")):
        vendor, product, bus, path = (
            _read(folder / name) for name in ("idVendor", "idProduct", "busnum", "devpath")
        )
        if vendor == recovery_ids.VENDOR and product and bus and path:
            found.append(
                RecoveryDevice(
                    instance=f"{bus}-{path}", product=product.lower(), ecid=_ecid(folder)
                )
            )
    return found


def recovery_devices(sysfs: Path) -> list[RecoveryDevice]:
    """Return the supported devices in recovery mode, by instance."""
    return [each for each in nvidia_devices(sysfs) if recovery_ids.is_supported(each.product)]


def listed(devices: Sequence[RecoveryDevice]) -> str:
    """Return the devices for a message."""
    return ", ".join(map(str, devices))


def no_device(sysfs: Path) -> tuple[str, str]:
    """Return error and hint for a host without a device to flash, and why others do not count."""
    left_out = nvidia_devices(sysfs)
    reasons = "; ".join(_left_out(each) for each in left_out)
    if any(recovery_ids.is_too_old(each.product) for each in left_out):
        return reasons, "plug in a supported Jetson, or flash this one with NVIDIA's own tools"
    message = "no device is in recovery mode"
    return (f"{message}: {reasons}" if reasons else message), RECOVERY_HINT


def device_findings(build: Build) -> Iterator[Finding]:
    """Check that the device to flash is unambiguous and matches the board."""
    if build.sandbox or not (build.flash or build.fuse):
        return
    settings = build.settings.bsp
    found = recovery_devices(settings.sysfs_usb)
    wanted = build.usb_instance
    chosen = [each for each in found if wanted in (None, each.instance)]
    if wanted is not None and not chosen:
        yield Finding(
            message=f"no device in recovery mode at the USB instance {wanted!a}"
            f"{_reason_at(settings.sysfs_usb, wanted)}",
            hint=f"in recovery mode are: {listed(found) or 'none'}",
        )
    elif not chosen:
        message, hint = no_device(settings.sysfs_usb)
        yield Finding(message=message, hint=hint)
    elif len(chosen) > 1:
        yield Finding(
            message=f"{len(found)} devices are in recovery mode: {listed(found)}",
            hint="choose one with --usb-instance, or unplug the others",
        )
    elif len(found) > 1 and _takes_one_only(build):
        yield Finding(
            message=f"{len(found)} devices are in recovery mode: {listed(found)}; this release's"
            " initrd flash refuses all but one, even if it is told which",
            hint=f"unplug all but {chosen[0]}, or flash all of them at once with a fleet",
        )
    else:
        yield from board_findings(build, chosen[0])


def _takes_one_only(build: Build) -> bool:
    wrapper = build.settings.bsp.method == "initrd" and build.lane is None
    return wrapper and releases.release_of(build).one_device_only


def lasting_findings(build: Build) -> list[Finding]:
    """Return the same, after some seconds: a device that scripts have read from may restart."""
    deadline = time.monotonic() + _RESTART
    while (found := list(device_findings(build))) and time.monotonic() < deadline:
        check_interrupt()
        time.sleep(_PAUSE)
    return found


def board_findings(build: Build, device: RecoveryDevice) -> Iterator[Finding]:
    """Check that a device matches the configured board."""
    settings = build.settings.bsp
    tree = build.bsp_dir or Path()
    why = recovery_ids.mismatch(device.product, settings.board, tree, settings.environment)
    if why is not None:
        yield Finding(
            message=f"the device at USB {device} {why}",
            hint="plug in the device that is meant, or set [bsp] board and environment (BOARDID,"
            " BOARDSKU) for this one",
        )


def _left_out(device: RecoveryDevice) -> str:
    reason = recovery_ids.reason_left_out(device.product)
    return f"{recovery_ids.VENDOR}:{device.product} at USB {device.instance} {reason}"


def _reason_at(sysfs: Path, instance: str) -> str:
    there = [each for each in nvidia_devices(sysfs) if each.instance == instance]
    return "".join(f": {_left_out(each)}" for each in there)


def device_at(sysfs: Path, instance: str) -> RecoveryDevice | None:
    """Return the device in recovery mode at a USB instance; None if no device is there."""
    for device in recovery_devices(sysfs):
        if device.instance == instance:
            return device
    return None


def devices_to_flash(sysfs: Path, chosen: Sequence[str] = ()) -> list[RecoveryDevice]:
    """Return the devices to flash at once: the chosen ones, or all in recovery mode.

    Raises:
        PreflightError: no device is there, a chosen one is missing, or there are more than ten.
    """
    found = {each.instance: each for each in recovery_devices(sysfs)}
    if not found:
        raise PreflightError.of_problems([no_device(sysfs)])
    wanted = checked_instances(chosen or list(found))
    if missing := [each for each in wanted if each not in found]:
        raise PreflightError(
            f"no device in recovery mode at the USB instance {', '.join(missing)}"
            f"{''.join(_reason_at(sysfs, each) for each in missing)}",
            hint=f"in recovery mode are: {listed(list(found.values()))}",
        )
    return [found[each] for each in wanted]


def is_instance(text: str) -> bool:
    """Tell whether a text is a USB bus and port, e.g. ``1-3`` or ``2-1.4``."""
    return _INSTANCE.fullmatch(text) is not None


def checked_instances(instances: Sequence[str]) -> tuple[str, ...]:
    """Return the USB instances to flash at once, if they are valid.

    Raises:
        PreflightError: no device is named, more than ten are, or one is a duplicate or invalid.
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
        seconds: the longest time to wait.
        stopped: asked again and again whether to give up.

    Raises:
        PreflightError: there was none in that time; the hint names what is there.
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
        f"no device came into recovery mode at the USB instance {instance} in {seconds:g} s"
        f"{_reason_at(sysfs, instance)}",
        hint=f"{RECOVERY_HINT}; in recovery mode are: {listed(found) or 'none'}",
    )


def _ecid(folder: Path) -> str | None:
    """Return the serial of a device in recovery mode; "0" and an empty one are none."""
    serial = _read(folder / "serial")
    shown = serial.isascii() and serial.isprintable() and len(serial) <= 64
    return serial if shown and serial.strip("0x") else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
