"""Firmware that flash.sh would leave out silently: refused before the build, and after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from world import SERIAL, Ran, Run, replace_script

from azaion_imagebuild.l4t import firmware, image_files
from azaion_imagebuild.sandbox import Accounts

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NVIDIA's scripts need root")


@pytest.fixture
def image(run: Run, bsp: Path, api_url: str) -> Callable[[], Ran]:
    args = ("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--json")
    return lambda: run(*args)


@needs_root
@pytest.mark.parametrize("name", ["adsp-fw.bin", "mb1_reference_prod.bin"])
@pytest.mark.parametrize("how", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_firmware_that_the_layout_names_must_be_there_before_anything_is_done(
    image: Callable[[], Ran],
    bsp: Path,
    accounts: Accounts,
    name: str,
    how: Callable[[Path], object],
) -> None:
    how(bsp / "bootloader" / name)
    ran = image()
    assert ran.code == 3, ran.err
    assert f"the BSP lacks bootloader/{name}" in ran.json["error"]
    assert "flash_reference.xml names it" in ran.json["error"]
    assert (bsp.parent / "device.img").stat().st_size == 0


@needs_root
def test_a_build_that_left_firmware_out_is_not_flashed(image: Callable[[], Ran], bsp: Path) -> None:
    replace_script(
        bsp / "flash.sh",
        '[[ "$*" == *--no-flash* ]] || exec ./flash.sh.real "$@"\n'
        "mv bootloader/adsp-fw.bin aside\n"
        './flash.sh.real "$@"; code=$?; mv aside bootloader/adsp-fw.bin; exit $code\n',
    )
    ran = image()
    assert ran.code == 8, ran.err
    assert "left the firmware of the partition 'A_adsp-fw' out" in ran.json["error"]
    assert (bsp.parent / "device.img").stat().st_size == 0
    assert image_files.present_images(bsp) == []


@pytest.mark.parametrize("layout", ["", "<partition", "<partition name='x'></partition>", "\0\xff"])
def test_a_layout_without_partitions_says_nothing(tmp_path: Path, layout: str) -> None:
    (tmp_path / "bootloader").mkdir()
    (tmp_path / firmware.BUILT_LAYOUT).write_text(layout)
    assert list(firmware.built_findings(tmp_path)) == []


def test_only_the_partitions_in_the_table_may_be_empty_each_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "bootloader").mkdir()
    (tmp_path / firmware.BUILT_LAYOUT).write_text(
        '<!-- <partition name="c" type="c"><filename></filename></partition> -->'
        '<partition name="a" type="tsec_fw"><filename>  </filename></partition>'
        '<partition name="b" type="ape_fw"><filename>\n</filename></partition>'
        '<partition name="d" type="data"></partition>'
    )
    (found,) = firmware.built_findings(tmp_path)
    assert "partition 'b'" in found.message
    assert all(len(reason) > 20 for reason in firmware.OPTIONAL.values())
