"""Firmware that flash.sh would leave out silently: refused before the build, and after it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from thorough import one_of
from world import SERIAL, Ran, Run, Script, replace_script

from azaion_imagebuild.l4t import firmware, image_files
from azaion_imagebuild.model import Build
from azaion_imagebuild.settings import Settings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NVIDIA's scripts need root")


@pytest.fixture
def image(run: Run, bsp: Path, api_url: str) -> Callable[[], Ran]:
    args = ("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--json")
    return lambda: run(*args)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A build of a board without a configuration."""
    (tmp_path / "bootloader").mkdir()
    return Build(serial=SERIAL, email="", attempt="", settings=Settings(), rootfs_dir=tmp_path,
                 bsp_dir=tmp_path, log_dir=tmp_path)  # fmt: skip


@needs_root
@pytest.mark.parametrize(
    ("name", "named_by"),
    one_of(
        [
            ("adsp-fw.bin", "flash_reference.xml"),
            ("mb1_reference_prod.bin", "flash_reference.xml"),
            ("tos_reference.img", "flash_reference.xml"),
            ("t186ref/BCT/reference-pinmux.dtsi", "jetson-orin-nano-devkit.conf"),
        ]
    ),
)
@pytest.mark.parametrize("how", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_firmware_that_board_or_layout_name_must_be_there_before_anything_is_sent(
    run: Run,
    bsp: Path,
    scripted: Script,
    name: str,
    named_by: str,
    how: Callable[[Path], object],
) -> None:
    r35(bsp)
    how(bsp / "bootloader" / name)
    ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", scripted.url, "--json")
    assert ran.code == 3, ran.err
    assert f"the BSP lacks {'' if 'BCT' in name else 'bootloader/'}{Path(name).name}" in (
        ran.json["error"].replace("bootloader/t186ref/BCT/", "")
    )
    assert named_by in ran.json["error"]
    assert scripted.requests == []
    assert (bsp.parent / "device.img").stat().st_size == 0


@needs_root
@pytest.mark.parametrize(("args", "code"), [("[]", 3), ('["-c", "site.xml"]', 6)])
def test_the_layout_of_a_board_must_be_there_unless_arguments_name_another(
    image: Callable[[], Ran], bsp: Path, args: str, code: int
) -> None:
    r35(bsp)
    (bsp / "bootloader/t186ref/cfg/flash_reference.xml").rename(bsp / "site.xml")
    Path("imagebuild.toml").write_text(f"[bsp]\nargs = {args}\n")
    ran = image()  # the reference flash.sh takes no other layout
    assert ran.code == code
    lacking = "the BSP lacks bootloader/*/cfg/flash_reference.xml"
    assert (lacking in ran.json["error"]) == (code == 3)


@needs_root
@pytest.mark.parametrize("args", one_of(["-c{}", "-c {}", "--network|usb0|-p|-c a.xml -c {}"]))
def test_a_layout_of_the_sites_own_is_read_however_arguments_name_it(
    image: Callable[[], Ran], bsp: Path, tmp_path: Path, args: str
) -> None:
    r35(bsp, "R36 (release), REVISION: 4.3")  # what only a board names is a warning there
    with (bsp / "jetson-orin-nano-devkit.conf").open("a") as conf:
        conf.write('DCE="bootloader/display-t234-dce.bin";\n')
    layout = tmp_path / "site.xml"
    layout.write_text('<partition name="A_dce-fw"><filename> DCE </filename></partition>\n')
    words = args.format(layout).split(" " if "|" not in args else "|")
    Path("imagebuild.toml").write_text(f"[bsp]\nargs = {json.dumps(words)}\n")
    ran = image()
    assert ran.code == 3
    lacking = "the BSP lacks bootloader/display-t234-dce.bin, or it is empty: ../../site.xml names"
    assert lacking in ran.json["error"]


@needs_root
def test_a_file_that_an_unknown_release_may_not_have_is_a_warning(
    image: Callable[[], Ran], bsp: Path
) -> None:
    r35(bsp, "R36 (release), REVISION: 4.3")
    (bsp / "bootloader/t186ref/BCT/reference-pinmux.dtsi").unlink()
    ran = image()
    assert ran.code == 0, ran.err
    assert "warning: the BSP lacks reference-pinmux.dtsi, or it is empty" in ran.err


def r35(bsp: Path, release: str = "R35 (release), REVISION: 3.1") -> None:
    (bsp / "rootfs/etc/nv_tegra_release").write_text(f"# {release}, GCID: 0\n")


@needs_root
@pytest.mark.parametrize(
    ("name", "partition"),
    one_of([("adsp-fw.bin", "A_adsp-fw"), ("tos_reference.img", "A_secure-os")], kept=1),
)
def test_a_build_that_left_firmware_out_is_not_flashed(
    image: Callable[[], Ran], bsp: Path, name: str, partition: str
) -> None:
    replace_script(
        bsp / "flash.sh",
        '[[ "$*" == *--no-flash* ]] || exec ./flash.sh.real "$@"\n'
        f"mv bootloader/{name} aside\n"
        f'./flash.sh.real "$@"; code=$?; mv aside bootloader/{name}; exit $code\n',
    )
    ran = image()
    assert ran.code == 8, ran.err
    assert f"left the firmware of the partition '{partition}' out" in ran.json["error"]
    assert (bsp.parent / "device.img").stat().st_size == 0
    assert image_files.present_images(bsp) == []


@pytest.mark.parametrize("layout", ["", "<partition", "<partition name='x'></partition>", "\0\xff"])
def test_a_layout_without_partitions_says_nothing(
    tmp_path: Path, build: Build, layout: str
) -> None:
    (tmp_path / firmware.BUILT_LAYOUT).write_text(layout)
    assert list(firmware.built_findings(tmp_path, build)) == []


def test_only_the_partitions_in_the_table_may_be_empty_each_with_a_reason(
    tmp_path: Path, build: Build
) -> None:
    (tmp_path / firmware.BUILT_LAYOUT).write_text(
        '<!-- <partition name="c" type="c"><filename></filename></partition> -->'
        '<partition name="a" type="tsec_fw"><filename>  </filename></partition>'
        '<partition name="b" type="ape_fw"><filename>\n</filename></partition>'
        '<partition name="d" type="data"></partition>'
    )
    (found,) = firmware.built_findings(tmp_path, build)
    assert "partition 'b'" in found.message
    assert all(len(reason) > 20 for reason in firmware.OPTIONAL.values())


@pytest.mark.parametrize(
    "text",
    [
        "<!--" * 100_000,
        "<!--" * 100_000 + "-->",
        "<partition>" * 50_000,
        "<partition " * 50_000 + "</partition>",
        '<partition name="' + "a" * 200_000 + "></partition>",
        "<partition><filename>" + " " * 200_000 + "x</partition>",
    ],
    ids=lambda text: text[:21],
)
def test_a_damaged_layout_is_read_in_linear_time(tmp_path: Path, build: Build, text: str) -> None:
    (tmp_path / firmware.BUILT_LAYOUT).write_text(text)
    began = time.process_time()
    assert list(firmware.built_findings(tmp_path, build)) == []
    assert time.process_time() - began < 2  # it was minutes
