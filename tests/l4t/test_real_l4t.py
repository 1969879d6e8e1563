"""NVIDIA's own scripts, where a Linux_for_Tegra is at hand: AZAION_REAL_L4T names it.

It is an R35 tree with its rootfs; the tests run as root. If the kernel lacks vfat, PATH must begin
with stand-ins for mount and umount. Nothing is flashed; every image in the tree is removed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from thorough import one_of
from world import EMAIL, SERIAL, Ran, Run

from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.system.mounts import loops_of, mounts_below

TREE = Path(os.environ.get("AZAION_REAL_L4T", "/nowhere"))
WHY = "set AZAION_REAL_L4T to a Linux_for_Tegra of R35 to run NVIDIA's own scripts (as root)"
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not (TREE / "flash.sh").is_file() or os.geteuid() != 0, reason=WHY),
]
CONFIG = """
[bsp]
dir = "{tree}"
size = "2GiB"
environment = {{ BOARDID = "3767", FAB = "300", BOARDSKU = "0005", BOARDREV = "A.0",
CHIP_SKU = "00:00:00:D6", RAMCODE_ID = "0" }}
[admin_api]
url = "{url}"
[image]
inject = "{inject}"
"""
WRONG_TAR = {
    "emptied": 'REAL "$@"; code=$?; [ "$*" != "xf -" ] || : >usr/bin/passwd; exit $code',
    "failing": '[ "$1 $2" != "cf -" ] || exec REAL cf - bin boot etc',
}


@pytest.fixture(autouse=True)
def nothing_left(run: Run) -> Iterator[None]:
    """Look at the tree after each test: no image, no credential, no mount, no loop device."""
    before = mounts_below(TREE)
    yield
    cleaned = run("clean", "--bsp", TREE)
    assert cleaned.code == 0, cleaned.err
    assert (mounts_below(TREE), loops_of(TREE)) == (before, [])
    assert not (TREE / "rootfs" / DEVICE_CONF).exists()


@pytest.fixture(autouse=True)
def the_hosts_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let NVIDIA's scripts find the host's python3, with yaml, and not that of the tests."""
    own = str(Path(sys.executable).parent)
    rest = [each for each in os.environ["PATH"].split(":") if each != own]
    monkeypatch.setenv("PATH", ":".join(rest))


@pytest.fixture
def image(run: Run, api_url: str) -> Callable[..., Ran]:
    def build(serial: str = SERIAL, inject: str = "rootfs") -> Ran:
        text = CONFIG.format(tree=TREE, url=api_url, inject=inject)
        Path("imagebuild.toml").write_text(text.replace(",\n", ", "))
        return run("image", "--serial", serial, "--flash", "0", "--json")

    return build


def debugfs(image: str, command: str) -> str:
    return subprocess.run(["debugfs", "-R", command, image], check=True, capture_output=True,
                          text=True).stdout  # fmt: skip


def test_an_image_of_nvidias_scripts_carries_the_identity(
    image: Callable[..., Ran], accounts: Accounts
) -> None:
    before = (TREE / "rootfs/etc/passwd").stat()
    ran = image()
    assert ran.code == 0, ran.err
    found = device_conf.parse(debugfs(ran.json["image"], f"cat /{DEVICE_CONF}").encode())
    assert found.email == EMAIL
    assert accounts.login(EMAIL, found.password.reveal())
    described = debugfs(ran.json["image"], f"stat /{DEVICE_CONF}")
    owner = ran.json["device_conf"]
    assert "Mode:  0600" in described
    assert f"User: {owner['uid']:5d}   Group: {owner['gid']:5d}" in described
    assert (TREE / "rootfs/etc/passwd").stat() == before


def test_a_second_stamped_device_takes_no_build(image: Callable[..., Ran]) -> None:
    first = image("AZJN-0001", "stamp")
    assert first.code == 0, first.err
    built = Path(first.json["image"]).stat()
    second = image("AZJN-0002", "stamp")
    assert second.code == 0, second.err
    assert first.json["base_sha256"] == second.json["base_sha256"]
    assert Path(second.json["image"]).stat().st_ino == built.st_ino


@pytest.mark.parametrize("how", one_of(WRONG_TAR))
def test_an_image_that_a_wrong_tar_filled_is_refused(
    image: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    tar = tmp_path / "bin/tar"
    tar.parent.mkdir()
    real = str(shutil.which("tar"))
    tar.write_text(f'#!/bin/bash\n{WRONG_TAR[how].replace("REAL", real)}\nexec {real} "$@"\n')
    tar.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tar.parent}:{os.environ['PATH']}")
    ran = image()
    assert ran.code == 8, ran.err


def test_firmware_that_is_missing_is_refused_before_the_build(image: Callable[..., Ran]) -> None:
    firmware = TREE / "bootloader/adsp-fw.bin"
    aside = firmware.rename(TREE / "adsp-fw.bin.aside")
    try:
        ran = image()
    finally:
        aside.rename(firmware)
    assert ran.code == 3, ran.err
    assert "bootloader/adsp-fw.bin" in ran.json["error"]
