"""FLASH=0: what a site's own flash procedure needs stays; ``clean`` removes it and proves it."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from thorough import one_of
from world import EMAIL, SERIAL, Ran, Run

from azaion_imagebuild import images
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.system.locks import locked

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="NVIDIA's scripts need root")


@pytest.fixture(params=one_of(["flash", "initrd"]))
def kept(request: pytest.FixtureRequest, run: Run, bsp: Path, api_url: str) -> Ran:
    """A build without flashing, by each method."""
    return run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--flash=0",
              "--method", request.param, "--json")  # fmt: skip


def files_with(needle: bytes, tree: Path) -> list[str]:
    return [
        str(path.relative_to(tree))
        for path in sorted(tree.rglob("*"))
        if path.is_file() and not path.is_symlink() and needle in path.read_bytes()
    ]


def test_the_printed_command_flashes_the_proven_image(
    kept: Ran, bsp: Path, accounts: Accounts
) -> None:
    assert kept.code == 0, kept.err
    line = kept.json["flash_command"]
    assert line.startswith(f"cd {bsp} && sudo USER=root ./")
    assert line in kept.err
    done = subprocess.run(["bash", "-c", line.replace(" sudo ", " ")], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    entry = images.read_file(bsp.parent / "device.img", DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    found = device_conf.parse(entry.data)
    assert found.email == EMAIL
    assert accounts.login(EMAIL, found.password.reveal())


@pytest.mark.skipif(os.geteuid() != 0, reason="a BSP is prepared by root")
def test_a_value_that_may_be_a_key_is_nowhere_in_the_printed_command(
    run: Run, bsp: Path, api_url: str, tmp_path: Path
) -> None:
    Path("imagebuild.toml").write_text(
        "[bsp]\n"
        'environment = { BOARDID = "3767", CHIP_SKU = "00:00:00:D6", SITE_KEY = "hush hush" }\n'
    )
    ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--flash=0",
              "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    line = ran.json["flash_command"]
    assert ' BOARDID=3767 CHIP_SKU=00:00:00:D6 SITE_KEY="$SITE_KEY" USER=root ' in line
    written = [path.read_bytes() for path in tmp_path.rglob("*.log")]
    assert len(written) >= 2
    assert not any("hush" in text for text in (ran.out, ran.err, str(written)))
    script = bsp / "flash.sh"
    script.rename(script.with_name("flash.sh.real"))
    script.write_text('#!/bin/bash\necho "$BOARDID $SITE_KEY"\n')
    script.chmod(0o755)
    call = ["bash", "-c", line.replace(" sudo ", " ")]
    own = {**os.environ, "SITE_KEY": "hush hush"}
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=own)
    assert done.stdout == "3767 hush hush\n"


def test_what_stays_is_for_its_owner_only_and_clean_removes_it(
    kept: Ran, run: Run, bsp: Path
) -> None:
    entry = images.read_file(Path(kept.json["image"]), DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    password = device_conf.parse(entry.data).password.reveal().encode()
    holders = files_with(password, bsp)
    assert holders
    assert {(bsp / name).stat().st_mode & 0o777 for name in holders} == {0o600}
    cleaned = run("clean", "--bsp", bsp, "--json")
    assert cleaned.code == 0, cleaned.err
    assert set(cleaned.json["removed"]) >= set(holders)
    assert files_with(password, bsp) == []
    again = run("clean", "--bsp", bsp, "--json")
    assert (again.code, again.json) == (0, {"outcome": "done", "removed": []})


@pytest.mark.parametrize("where", [f"rootfs/{DEVICE_CONF}", "bootloader/copy.img", "notes/mine"])
@pytest.mark.parametrize("offset", [0, (1 << 20) - 30])  # across two blocks of the search
def test_a_credential_elsewhere_is_found_and_nothing_else_is_touched(
    run: Run, bsp: Path, where: str, offset: int
) -> None:
    path = bsp / where
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytes(offset) + b"AZAION_DEVICE_PASSWORD=0123456789abcdef0123456789abcdef\n"
    path.write_bytes(data)
    ran = run("clean", "--bsp", bsp)
    assert ran.code == 8
    assert f"credential was found in {where}" in ran.err
    assert "0123456789abcdef" not in ran.err
    assert path.read_bytes() == data


@pytest.mark.parametrize("folder", ["bootloader", "tools/kernel_flash"])
def test_a_folder_that_is_a_link_to_another_disk_is_searched_too(
    run: Run, bsp: Path, tmp_path: Path, folder: str
) -> None:
    (bsp / folder).rename(tmp_path / "disk")
    (bsp / folder).symlink_to(tmp_path / "disk")
    (tmp_path / "disk/copy").write_text("AZAION_DEVICE_PASSWORD=0123456789abcdef0123456789abcdef\n")
    ran = run("clean", "--bsp", bsp)
    assert (ran.code, f"credential was found in {folder}/copy" in ran.err) == (8, True)


def test_what_cannot_be_removed_is_named_and_the_rest_is_removed(
    run: Run, bsp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [bsp / "bootloader" / name for name in ("system.img", "system.img.raw")]
    for path in images:
        path.write_text("of a device")
    unlink = Path.unlink

    def immutable(path: Path, **options: bool) -> None:
        if path == images[0]:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", immutable)
    ran = run("clean", "--bsp", bsp)
    assert ran.code == 8
    assert f"cannot remove {images[0]} (Operation not permitted)" in ran.err
    assert "lsattr" in ran.err
    assert [path.exists() for path in images] == [True, False]


@pytest.mark.parametrize(
    "text",
    ["AZAION_DEVICE_PASSWORD=${password}", 'password = env["AZAION_DEVICE_PASSWORD"]',
     "AZAION_DEVICE_PASSWORD=\n", "# AZAION_DEVICE_PASSWORD=<32 hexadecimal digits>"],
)  # fmt: skip
def test_code_that_only_names_the_password_is_no_credential(run: Run, bsp: Path, text: str) -> None:
    (bsp / "rootfs/usr/bin/loader").write_text(text)
    ran = run("clean", "--bsp", bsp)
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("given", [(), ("--bsp", "nowhere"), ("--bsp", ".")])
def test_what_is_not_a_bsp_is_refused(run: Run, given: tuple[str, ...]) -> None:
    Path("kept.img").write_text("x")
    ran = run("clean", *given)
    assert ran.code == 2
    assert "--bsp" in ran.err
    assert Path("kept.img").exists()


def test_clean_waits_for_the_build_at_work_there(
    run: Run, bsp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bsp / "bootloader/system.img").write_text("of a build")
    monkeypatch.setenv("AZAION_IMAGEBUILD_BUILD_LOCK_WAIT", "0")
    with locked([bsp], 0):
        ran = run("clean", "--bsp", bsp)
    assert ran.code == 3
    assert f"{bsp} is in use" in ran.err
    assert (bsp / "bootloader/system.img").exists()
