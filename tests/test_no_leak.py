"""The password stands nowhere but in the request, device.conf and the image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyrage
import pytest
from world import EMAIL, SERIAL, replace_script

from azaion_imagebuild import images
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox import Accounts, Sandbox

TOKEN = "token-that-nobody-may-see"
SPY = """
spy=$(dirname "$0")/../spied
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' >> $spy
./flash.sh.real "$@"
"""


def holders(folder: Path, secret: str) -> list[str]:
    """Return the files below ``folder`` that hold the secret."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes():
            found.append(str(path.relative_to(folder)))
    return found


def call(folder: Path, *argv: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "azaion_imagebuild", *argv],
        env=os.environ | environ,
        cwd=folder,
        capture_output=True,
        check=False,
    )


def test_a_sandbox_build_leaves_the_password_in_the_image_and_on_the_device_only(
    tmp_path: Path,
) -> None:
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    sandbox.create(1.0)
    replace_script(sandbox.bsp / "flash.sh", SPY)
    done = call(tmp_path, "image", "--serial", SERIAL, "--json", "--debug")
    assert done.returncode == 0, done.stderr
    entry = images.read_file(sandbox.device, DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    password = device_conf.parse(entry.data).password.reveal()
    assert sandbox.accounts.login(EMAIL, password)
    spied = (sandbox.dir / "spied").read_bytes()
    assert b"--no-flash" in spied  # the spy did see something
    for seen in (done.stdout, done.stderr, spied):
        assert password.encode() not in seen
    assert holders(tmp_path, password) == [
        "state/azaion-imagebuild/sandbox/Linux_for_Tegra/bootloader/system.img.raw",
        "state/azaion-imagebuild/sandbox/device.img",
    ]


def test_an_escrow_adds_no_place_where_the_password_can_be_read(tmp_path: Path) -> None:
    key = pyrage.x25519.Identity.generate()
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    sandbox.create(1.0)
    replace_script(sandbox.bsp / "flash.sh", SPY)
    (tmp_path / "imagebuild.toml").write_text(f'[escrow]\nrecipients = ["{key.to_public()}"]\n')
    done = call(tmp_path, "image", "--serial", SERIAL, "--json", "--debug")
    assert done.returncode == 0, done.stderr
    entry = images.read_file(sandbox.device, DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    password = device_conf.parse(entry.data).password.reveal()
    (kept,) = (tmp_path / "state/azaion-imagebuild/escrow").rglob("*.*")
    assert pyrage.decrypt(kept.read_bytes(), [key]) == entry.data
    spied = (sandbox.dir / "spied").read_bytes()
    for seen in (done.stdout, done.stderr, spied):
        assert password.encode() not in seen
    assert holders(tmp_path, password) == [
        "state/azaion-imagebuild/sandbox/Linux_for_Tegra/bootloader/system.img.raw",
        "state/azaion-imagebuild/sandbox/device.img",
    ]
    assert holders(tmp_path, str(key)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")
def test_the_token_reaches_no_script_and_no_log(
    tmp_path: Path, bsp: Path, api_url: str, accounts: Accounts
) -> None:
    replace_script(bsp / "flash.sh", 'env; echo "$SITE_TOKEN"\n' + SPY)
    config = tmp_path / "imagebuild.toml"
    config.write_text(f'[admin_api]\nurl = "{api_url}"\ntoken_env = "SITE_TOKEN"\n')
    done = call(tmp_path, "image", "--serial", SERIAL, "--bsp", str(bsp), "--debug",
                SITE_TOKEN=TOKEN, AZAION_IMAGEBUILD_BOARD="jetson-orin-nano-devkit")  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = next((tmp_path / "state").rglob("flash.log"))
    assert "--no-flash" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    for seen in (done.stdout, done.stderr, log.read_bytes()):
        assert TOKEN.encode() not in seen
        assert b"AZAION_IMAGEBUILD_" not in seen


@pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")
def test_our_own_bug_shows_a_traceback_without_the_password(
    tmp_path: Path, bsp: Path, api_url: str
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "broken.py").write_text(
        "from azaion_imagebuild import hookimpl\n"
        "@hookimpl\n"
        "def pre_flash(build, identity):\n"
        "    open('seen', 'w').write(identity.password.reveal())\n"
        "    raise ValueError(f'{identity} {identity.password.reveal()}')\n"
    )
    config = tmp_path / "imagebuild.toml"
    config.write_text(f'[hooks]\ndirs = ["{plugins}"]\n')
    done = call(tmp_path, "image", "--serial", SERIAL, "--bsp", str(bsp), "--api-url", api_url,
                "--json")  # fmt: skip
    assert done.returncode == 70
    assert b"Traceback" in done.stderr
    password = (tmp_path / "seen").read_bytes()
    assert len(password) == 32
    assert password not in done.stderr + done.stdout
    assert b'"exit_code": 70' in done.stdout
    assert not (bsp / "rootfs" / DEVICE_CONF).exists()
