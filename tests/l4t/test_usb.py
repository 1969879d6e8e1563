"""Devices in recovery mode: which are there, which may be flashed at once, waiting for one."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from world import SERIAL, Run, Script, add_usb_device

from azaion_imagebuild.errors import InterruptedBuild, PreflightError
from azaion_imagebuild.l4t import recovery_ids, usb


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


@pytest.mark.parametrize("product", recovery_ids.SUPPORTED)
def test_every_supported_jetson_is_seen_in_recovery_mode(tmp_path: Path, product: str) -> None:
    add_usb_device(tmp_path, "1-3", "0955", product)
    assert [each.product for each in usb.recovery_devices(tmp_path)] == [product]
    add_usb_device(tmp_path, "1-4", "0955", product.upper())
    assert [each.product for each in usb.recovery_devices(tmp_path)] == [product] * 2


@pytest.mark.parametrize(
    ("product", "words"),
    [
        ("7020", "0955:7020 at USB 1-3 has booted; it is not in recovery mode"),
        ("7035", "left by an interrupted flash"),
        ("7c18", "0955:7c18 at USB 1-3 is a Jetson TX2, which is not supported"),
        ("7f21", "0955:7f21 at USB 1-3 is a Jetson Nano, which is not supported"),
        ("7214", "0955:7214 at USB 1-3 is not known as a Jetson in recovery mode"),
        ("7823", "0955:7823 at USB 1-3 is not known as a Jetson in recovery mode"),
    ],
)
def test_a_device_that_is_left_out_is_named_with_the_reason(
    sysfs: Path, product: str, words: str
) -> None:
    (sysfs / "1-3/idProduct").write_text(f"{product}\n")
    assert words in usb.no_device(sysfs)[0]
    with pytest.raises(PreflightError, match=re.escape(words)):
        usb.devices_to_flash(sysfs)
    with pytest.raises(PreflightError, match=re.escape(words)):
        usb.wait_for_device(sysfs, "1-3", 0)
    add_usb_device(sysfs, "1-9", "0955", "7523")
    with pytest.raises(PreflightError, match=re.escape(words)):
        usb.devices_to_flash(sysfs, ["1-3"])


CONFS = {
    "jetson-orin-nano-devkit": 'source "${LDK_DIR}/p3767.conf.common";\n',
    "jetson-orin-nanoe8gb-devkit": 'source "${LDK_DIR}/p3767.conf.common";\n',  # R38
    "recomputer-orin": 'source "${LDK_DIR}/p3767.conf.common";\n',
    "jetson-agx-orin-devkit": 'source "${LDK_DIR}/p3701.conf.common";\n',
    "jetson-agx-orin-devkit-as-nano8gb": 'source "${LDK_DIR}/p3701.conf.common";\n',
    "igx-orin-devkit": 'source "${LDK_DIR}/p3740-0002-b01+p3701-0002.conf";\n',
    "jetson-xavier": 'source "${LDK_DIR}/p2972-0000.conf.common";\n',
    "our-own-board": "echo nothing known\n",
}
"""Boards of R35.3.1, with the line that names the module."""


@pytest.mark.parametrize(
    ("board", "environment", "product", "wrong"),
    [
        ("jetson-orin-nano-devkit", {}, "7523", None),
        ("jetson-orin-nano-devkit", {}, "7323", "is a Jetson Orin NX 16GB, but"),
        ("jetson-orin-nano-devkit", {"BOARDSKU": "0000"}, "7323", None),
        ("jetson-orin-nano-devkit", {"BOARDSKU": "0005"}, "7323", "is for Jetson Orin Nano 8GB"),
        ("jetson-orin-nano-devkit", {"BOARDSKU": "0000"}, "7523", "is for Jetson Orin NX 16GB"),
        ("jetson-orin-nano-devkit", {"BOARDID": "3767", "BOARDSKU": "0004"}, "7623", None),
        ("jetson-orin-nano-devkit", {"BOARDSKU": "9999"}, "7623", None),
        ("jetson-orin-nano-devkit", {}, "7023", "is a Jetson AGX Orin, but"),
        ("jetson-orin-nanoe8gb-devkit", {}, "7423", None),
        ("jetson-orin-nanoe8gb-devkit", {}, "7523", "is for Jetson Orin NX 8GB"),
        ("recomputer-orin", {}, "7423", None),
        ("recomputer-orin", {}, "7e19", "is a Jetson Xavier NX, but recomputer-orin is for"),
        ("jetson-agx-orin-devkit", {}, "7223", None),
        ("jetson-agx-orin-devkit-as-nano8gb", {}, "7023", None),
        ("jetson-agx-orin-devkit-as-nano8gb", {}, "7523", "is a Jetson Orin Nano 8GB, but"),
        ("igx-orin-devkit", {}, "7023", None),
        ("jetson-xavier", {}, "7019", None),
        ("jetson-xavier", {}, "7523", "is for Jetson AGX Xavier"),
        ("our-own-board", {}, "7523", None),
        ("our-own-board", {"BOARDID": "3701"}, "7523", "is for Jetson AGX Orin"),
        ("no-such-board", {}, "7523", None),
    ],
)
def test_a_device_must_be_the_one_that_the_board_is_for(
    tmp_path: Path, board: str, environment: dict[str, str], product: str, wrong: str | None
) -> None:
    for name, text in CONFS.items():
        (tmp_path / f"{name}.conf").write_text(text)
    why = recovery_ids.mismatch(product, board, tmp_path, environment)
    assert why is None if wrong is None else wrong in str(why)


def test_a_link_tells_the_module_of_a_board(tmp_path: Path) -> None:
    (tmp_path / "p3737-0000+p3701-0000-as-p3767-0003.conf").write_text("")
    (tmp_path / "board.conf").symlink_to("p3737-0000+p3701-0000-as-p3767-0003.conf")
    assert recovery_ids.mismatch("7023", "board", tmp_path, {}) is None
    assert recovery_ids.mismatch("7523", "board", tmp_path, {}) is not None


def test_an_orin_nx_is_not_flashed_as_a_nano(
    run: Run, bsp: Path, sysfs: Path, scripted: Script
) -> None:
    (sysfs / "1-3/idProduct").write_text("7323\n")
    scripted.answer(201)
    ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", scripted.url)
    assert ran.code == 3
    assert "1-3 (0955:7323) is a Jetson Orin NX 16GB" in ran.err
    assert "BOARDSKU" in ran.err
    assert scripted.requests == []
