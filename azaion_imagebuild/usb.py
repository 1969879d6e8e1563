"""Jetson devices in recovery mode, as the kernel shows them in sysfs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_NVIDIA = "0955"
_RECOVERY = "23"  # products in recovery mode: 7523 (Orin Nano 8 GB), 7623 (4 GB), 7023, 7223, …


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryDevice:
    """A device that waits to be flashed."""

    instance: str
    """USB bus and port, e.g. ``1-3``; what NVIDIA's scripts call the USB instance."""
    product: str


def recovery_devices(sysfs: Path) -> list[RecoveryDevice]:
    """Return the devices in recovery mode, by instance.

    Args:
        sysfs: ``/sys/bus/usb/devices``; each folder there has idVendor, idProduct, busnum, devpath.
    """
    found = []
    for folder in sorted(sysfs.glob("*")):
        vendor, product, bus, path = (
            _read(folder / name) for name in ("idVendor", "idProduct", "busnum", "devpath")
        )
        if vendor == _NVIDIA and product.endswith(_RECOVERY) and bus and path:
            found.append(RecoveryDevice(instance=f"{bus}-{path}", product=product))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
