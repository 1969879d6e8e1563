"""Room for the images: on every filesystem that gets some, before the API is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from world import SERIAL, Run, Script

from azaion_imagebuild.l4t import disk_space
from azaion_imagebuild.model import Build

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
INITRD = (
    '[bsp]\nmethod = "initrd"\nexternal_device = "nvme0n1p1"\n'
    'partition_xml = "tools/kernel_flash/flash_l4t_external.xml"\n'
)


@pytest.fixture
def linked(bsp: Path) -> Iterator[Callable[[str], Path]]:
    """Move a folder of the BSP to a disk of 1 MiB, and link it."""
    disk = bsp.parent / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)

    def link(name: str) -> Path:
        shutil.move(bsp / name, disk / "there")
        (bsp / name).symlink_to(disk / "there")
        return bsp / name

    yield link
    subprocess.run(["umount", disk], check=True)


@needs_root
@pytest.mark.parametrize(
    ("name", "config"), [("bootloader", ""), ("bootloader", INITRD), ("tools/kernel_flash", INITRD)]
)
def test_a_folder_on_a_disk_of_its_own_must_have_room(
    run: Run, bsp: Path, scripted: Script, linked: Callable[[str], Path], name: str, config: str
) -> None:
    Path("imagebuild.toml").write_text(config)
    (bsp / "rootfs/opt/big").write_bytes(os.urandom(1 << 20))
    folder = linked(name)
    scripted.answer(201)
    ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", scripted.url)
    assert ran.code == 3
    assert f"{folder} has 1 MB free, the images need 2 MB" in ran.err
    assert f"hint: make room: du -xh --max-depth=2 {folder}" in ran.err
    assert scripted.requests == []


def test_what_an_earlier_build_left_makes_room(
    make_build: Callable[..., Build], bsp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = make_build(bsp / "rootfs", bsp)
    needed = 2 * int(subprocess.check_output(["du", "-s", "--block-size=1", bsp / "rootfs"])
                     .split()[0])  # fmt: skip
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    assert len(list(disk_space.findings(build, bsp))) == 1
    (bsp / "bootloader/system.img.raw").write_bytes(os.urandom(needed))
    assert list(disk_space.findings(build, bsp)) == []
