"""Devices in recovery mode: which are there, which may be flashed at once, waiting for one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from world import add_usb_device

from azaion_imagebuild.errors import InterruptedBuild, PreflightError
from azaion_imagebuild.l4t import usb


@pytest.mark.parametrize(
    ("serial", "ecid"),
    [("4242000117\n", "4242000117"), ("0\n", None), ("0x00\n", None), ("", None), (None, None),
     ("a\tb", None), ("é", None)],
)  # fmt: skip
def test_the_chips_number_is_told_where_the_kernel_shows_one(
    sysfs: Path, serial: str | None, ecid: str | None
) -> None:
    if serial is not None:
        (sysfs / "1-3/serial").write_text(serial)
    (device,) = usb.recovery_devices(sysfs)
    assert (device.instance, device.ecid) == ("1-3", ecid)


def test_all_in_recovery_mode_are_flashed_or_those_that_are_named(sysfs: Path) -> None:
    add_usb_device(sysfs, "2-1.4", "0955", "7623")
    add_usb_device(sysfs, "2-2", "0955", "7020")  # has booted
    assert [each.instance for each in usb.devices_to_flash(sysfs)] == ["1-3", "2-1.4"]
    assert [each.instance for each in usb.devices_to_flash(sysfs, ["2-1.4"])] == ["2-1.4"]
    with pytest.raises(PreflightError, match="at the USB instance 2-2, 9-9") as caught:
        usb.devices_to_flash(sysfs, ["2-2", "1-3", "9-9"])
    assert "in recovery mode are: 1-3 (0955:7523), 2-1.4 (0955:7623)" in caught.value.hint


def test_none_and_more_than_ten_are_errors(sysfs: Path) -> None:
    for port in range(1, 10):
        add_usb_device(sysfs, f"3-{port}", "0955", "7523")
    assert len(usb.devices_to_flash(sysfs)) == 10
    add_usb_device(sysfs, "4-1", "0955", "7523")
    with pytest.raises(PreflightError, match="11 devices are too many for one host at once"):
        usb.devices_to_flash(sysfs)
    assert usb.devices_to_flash(sysfs, ["4-1"])[0].instance == "4-1"
    with pytest.raises(PreflightError, match="no device is in recovery mode") as caught:
        usb.devices_to_flash(sysfs / "nothing")
    assert "FORCE RECOVERY" in caught.value.hint


def test_a_device_that_comes_later_is_waited_for(sysfs: Path) -> None:
    (sysfs / "1-3/idProduct").write_text("7020\n")
    looked = threading.Event()

    def look() -> bool:
        looked.set()
        return False

    def press() -> None:
        looked.wait()
        (sysfs / "1-3/idProduct").write_text("7523\n")

    presser = threading.Thread(target=press)
    presser.start()
    assert usb.wait_for_device(sysfs, "1-3", 60.0, look).product == "7523"
    presser.join()


def test_a_device_that_does_not_come_is_an_error_that_lists_the_others(sysfs: Path) -> None:
    with pytest.raises(PreflightError, match="at the USB instance 1-4 in 0 s") as caught:
        usb.wait_for_device(sysfs, "1-4", 0)
    assert "hold FORCE RECOVERY" in caught.value.hint
    assert "1-3 (0955:7523)" in caught.value.hint
    with pytest.raises(InterruptedBuild, match="stopped while waiting"):
        usb.wait_for_device(sysfs, "1-4", 60.0, lambda: True)
