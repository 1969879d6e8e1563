"""A known account's password changes last: a build that fails earlier locks no device out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from thorough import one_of
from world import EMAIL, SERIAL, TOOL, Ran, Run, Script, replace_script

from azaion_imagebuild import images
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.placeholder import is_placeholder
from azaion_imagebuild.l4t import image_files, usb
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox import Accounts

OLD = "0123456789abcdef" * 2
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a BSP is prepared by root")
HEAD = """
import os, signal
from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import ImageBuildError, StagingError
from azaion_imagebuild.model import DEVICE_CONF, Finding
"""
INITRD = """
[bsp]
method = "initrd"
external_device = "nvme0n1p1"
partition_xml = "tools/kernel_flash/flash_l4t_external.xml"
"""
FAILURES = {
    "staging": "@hookimpl\ndef pre_flash(): raise StagingError('no room', hint='make some')",
    "build": "@hookimpl\ndef build_image(): raise ImageBuildError('no mkfs.vfat', hint='add it')",
    "proof": "@hookimpl\ndef verify_image(): return [Finding(message='no', hint='no')]",
    # After the proof of all others, and the fingerprints of what was proven.
    "change": "@hookimpl(trylast=True)\ndef verify_image(image): os.utime(image.path)",
}
KILLS = {
    "before": "@hookimpl(tryfirst=True)\ndef activate_identity(): os.kill(os.getpid(), 9)",
    "after": "@hookimpl(trylast=True)\ndef activate_identity(): os.kill(os.getpid(), 9)",
}


@pytest.fixture
def account(accounts: Accounts) -> Accounts:
    """The device is in the field, and logs in by its old password."""
    accounts.create(EMAIL, OLD, "CompanionPC")
    return accounts


@pytest.fixture
def argv(bsp: Path, api_url: str) -> list[object]:
    return ["image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--json"]


@pytest.fixture
def image(run: Run, argv: list[object]) -> Callable[..., Ran]:
    return lambda *more: run(*argv, *more)


def plug_in(text: str) -> None:
    Path("site").mkdir(exist_ok=True)
    Path("site/site.py").write_text(HEAD + text + "\n")
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')


def password_in(path: str | Path) -> str:
    entry = images.read_file(Path(path), DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    return device_conf.parse(entry.data).password.reveal()


def ledger(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the device, the oldest first."""
    rows: list[dict[str, Any]] = run("ledger", "show", SERIAL, "--json").json
    return rows


@needs_root
@pytest.mark.parametrize("inject", one_of(["rootfs", "stamp"]))
@pytest.mark.parametrize("failure", one_of(FAILURES))
def test_a_build_that_fails_before_the_flash_leaves_the_old_password_valid(
    image: Callable[..., Ran], account: Accounts, monkeypatch: pytest.MonkeyPatch,
    failure: str, inject: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("AZAION_IMAGEBUILD_INJECT", inject)
    plug_in(FAILURES[failure])
    if failure == "change":  # between the proof and the flash
        from azaion_imagebuild.pipeline import recipes

        def stale(image: Any) -> list[tuple[int, ...]]:
            return [(0,)]

        monkeypatch.setattr(recipes, "fingerprints", stale)
    failed = image()
    assert failed.code in (5, 6, 8), failed.err
    assert failed.json["account"] is None  # nothing was changed
    assert account.login(EMAIL, OLD)


@needs_root
@pytest.mark.parametrize(("change", "said"), one_of({
    "mv {sysfs}/1-3 {sysfs}/../gone": "no device is in recovery mode",
    "echo 7020 > {sysfs}/1-3/idProduct": "0955:7020 at USB 1-3 has booted",
    "cp -r {sysfs}/1-3 {sysfs}/1-4.1": "2 devices are in recovery mode",
}.items()))  # fmt: skip
def test_a_device_that_has_gone_while_its_image_was_built_keeps_its_password(
    image: Callable[..., Ran], account: Accounts, bsp: Path, sysfs: Path, change: str, said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(usb, "_RESTART", 0.0)
    plug_in("@hookimpl\ndef verify_image():\n"
            f"    assert os.system({change.format(sysfs=sysfs)!r}) == 0")  # fmt: skip
    gone = image()
    assert (gone.code, gone.json["step"], gone.json["account"]) == (7, "activate_identity", None)
    assert said in gone.json["error"]
    assert "is kept, without the identity" in gone.err
    assert account.login(EMAIL, OLD)
    assert (bsp.parent / "device.img").stat().st_size == 0


@needs_root
def test_a_device_that_restarts_after_its_image_was_built_is_waited_for(
    image: Callable[..., Ran], account: Accounts, bsp: Path, sysfs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(usb, "_RESTART", 60.0)
    leaves = f"cd {sysfs}; mv 1-3 ../gone; (sleep 0.3; mv ../gone 1-3) &"
    plug_in(f"@hookimpl\ndef verify_image(): os.system({leaves!r})")
    ran = image()
    assert ran.code == 0, ran.err
    assert account.login(EMAIL, password_in(bsp.parent / "device.img"))


@needs_root
def test_a_flash_that_has_begun_on_this_host_meanwhile_keeps_the_password(
    image: Callable[..., Ran], account: Accounts, bsp: Path
) -> None:
    lock = str(bsp.parent / "host/initrd-flash.lock")
    plug_in(f"@hookimpl\ndef verify_image(): fcntl.flock(os.open({lock!r}, os.O_RDWR), 2)\n"
            "import fcntl")  # fmt: skip
    with Path("imagebuild.toml").open("a") as config:
        config.write(f"[build]\nlock_wait = 0\n{INITRD}")
    busy = image()
    assert (busy.code, busy.json["step"], busy.json["account"]) == (3, "activate_identity", None)
    assert account.login(EMAIL, OLD)


@needs_root
@pytest.mark.parametrize("flash", ["0", "1"])
def test_a_known_account_gets_its_password_when_all_is_proven(
    image: Callable[..., Ran], account: Accounts, run: Run, bsp: Path, flash: str
) -> None:
    done = image("--flash", flash)
    assert (done.code, done.json["account"]) == (0, "updated"), done.err
    target = bsp.parent / "device.img" if flash == "1" else done.json["image"]
    assert account.login(EMAIL, password_in(target))
    steps = [line.split()[0] for line in done.err.splitlines() if " s " in line]
    order = [each for each in steps if each in ("verify_image", "activate_identity", "flash")]
    assert order == ["verify_image", "activate_identity", "flash"][: 2 + int(flash)]
    intents = [row for row in ledger(run) if row["outcome"] == "started"]
    names = ["provision_identity", "build_image", "activate_identity", "flash"]
    assert [row["step"] for row in intents] == names[: 3 + int(flash)]
    assert [row["account"] for row in intents] == [None, None, None, "updated"][: 3 + int(flash)]


@needs_root
@pytest.mark.parametrize("when", one_of(KILLS))
def test_a_kill_before_or_after_the_change_is_healed_by_the_same_command(
    argv: list[object], image: Callable[..., Ran], account: Accounts, bsp: Path, when: str
) -> None:
    plug_in(KILLS[when])
    killed = subprocess.run([*TOOL, *map(str, argv)], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert account.login(EMAIL, OLD) == (when == "before")
    Path("imagebuild.toml").unlink()
    again = image()
    assert again.code == 0, again.err
    assert account.login(EMAIL, password_in(bsp.parent / "device.img"))
    assert [each.email for each in account.list()] == [EMAIL]


@needs_root
def test_an_api_that_cannot_update_is_told_before_the_image_is_built(
    run: Run, scripted: Script, bsp: Path
) -> None:
    scripted.answer(409)
    scripted.answer(405)
    ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", scripted.url, "--json")
    assert (ran.code, ran.json["step"], ran.json["image"]) == (4, "provision_identity", None)
    assert "PATCH /users/password answered HTTP 405" in ran.json["error"]
    for request in scripted.requests[1:]:
        assert EMAIL.encode() not in request.body  # it was asked for nobody's account


def test_an_identity_that_nobody_activates_is_an_error(
    run: Run, account: Accounts, api_url: str, rootfs_dir: Path
) -> None:
    plug_in(
        "from azaion_imagebuild.identity.serial import new_password\n"
        "from azaion_imagebuild.model import DeviceIdentity, Pending\n"
        "@hookimpl\n"
        "def provision_identity(build):\n"
        "    return DeviceIdentity(serial=build.serial, email=build.email, enrolled='updated',\n"
        "        password=new_password(), pending=Pending(plugin='site'))\n"
    )
    argv = ("--serial", SERIAL, "--api-url", api_url, "--rootfs-dir", rootfs_dir, "--json")
    ran = run("provision", *argv)
    assert (ran.code, ran.json["step"]) == (4, "activate_identity")
    assert "enable the plug-in site" in ran.json["hint"]
    assert account.login(EMAIL, OLD)
    assert not (rootfs_dir / DEVICE_CONF).exists()


@needs_root
def test_a_fleet_leaves_the_old_password_valid_where_a_device_fails(
    run: Run, account: Accounts, api_url: str, bsp: Path
) -> None:
    plug_in(
        "@hookimpl\ndef verify_image(build):\n    if build.serial == 'AZJN-0042':\n"
        "        return [Finding(message='no', hint='no')]"
    )
    argv = ("--bsp", bsp, "--api-url", api_url, "--out", "images", "--json")
    ran = run("fleet", "AZJN-0042..AZJN-0043", *argv)
    assert ran.code == 10, ran.err
    assert account.login(EMAIL, OLD)
    assert len(account.list()) == 2
    Path("imagebuild.toml").unlink()
    again = run("fleet", "AZJN-0042..AZJN-0043", *argv)
    assert again.code == 0, again.err
    assert account.login(EMAIL, password_in("images/AZJN-0042.img"))


@needs_root
@pytest.mark.parametrize("out", [None, "new.img"])
def test_stamp_leaves_image_and_account_as_they_were_where_the_api_refuses(
    run: Run, account: Accounts, api_url: str, bsp: Path, monkeypatch: pytest.MonkeyPatch,
    out: str | None,
) -> None:  # fmt: skip
    assert run("base", "--bsp", bsp, "--api-url", api_url, "--out", "base.img").code == 0
    before = Path("base.img").read_bytes()
    argv = ["stamp", "base.img", "--serial", SERIAL, "--api-url", api_url, "--json"]
    argv += ["--out", out] if out else []
    with monkeypatch.context() as broken:
        broken.setattr(account, "set_password", lambda *_: False)
        ran = run(*argv)
    assert (ran.code, ran.json["step"]) == (4, "activate_identity"), ran.err
    assert account.login(EMAIL, OLD)
    assert Path("base.img").read_bytes() == before
    assert not Path("new.img").exists()
    assert run(*argv).code == 0
    assert account.login(EMAIL, password_in(out or "base.img"))


@needs_root
@pytest.mark.parametrize("method", one_of(["flash", "initrd", "initrd of R36.4"]))
@pytest.mark.parametrize("change", one_of(["nothing", "rootfs", "image", "serial"]))
def test_an_image_whose_account_could_not_be_changed_is_used_by_the_next_attempt(
    argv: list[object], image: Callable[..., Ran], account: Accounts, bsp: Path, tmp_path: Path,
    method: str, change: str, run: Run,
) -> None:  # fmt: skip
    if "R36" in method and shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    script = "flash.sh" if method == "flash" else "tools/kernel_flash/l4t_initrd_flash.sh"
    built = tmp_path / "built"
    real = f"{(bsp / script).name}.real"
    replace_script(
        bsp / script,
        f'[[ "$*" == *--no-flash* ]] && echo x >> {built}; exec "${{0%/*}}/{real}" "$@"\n',
    )
    down = "@hookimpl(tryfirst=True)\ndef activate_identity(): raise StagingError('down', hint='')"
    plug_in(down)
    with Path("imagebuild.toml").open("a") as config:
        config.write("" if method == "flash" else INITRD)
        config.write('environment = { ZSTD = "1" }\n' if "R36" in method else "")
    failed = image("--flash", "0")
    assert (failed.code, failed.json["account"]) == (5, None), failed.err
    assert account.login(EMAIL, OLD)
    kept = image_files.present_images(bsp)
    assert "is kept, without the identity" in failed.err
    assert all(str(path) in failed.err for path in kept)
    assert kept
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept)
    assert not any(b"AZAION_DEVICE_PASSWORD=" in path.read_bytes() for path in kept)
    entries = [images.read_file(path, DEVICE_CONF, device_conf.LONGEST) for path in kept]
    assert all(entry is not None and is_placeholder(entry.data) for entry in entries)

    Path("site/site.py").unlink()
    if change == "rootfs":
        (bsp / "rootfs/usr/bin/new").write_text("new")
    if change == "image":
        kept[0].write_bytes(b"not an image any more")
    if change == "serial":
        argv[2] = "AZJN-0077"
    done = run(*argv, "--flash", "0")
    assert done.code == 0, done.err
    email = "azaion-jetson-0077@azaion.com" if change == "serial" else EMAIL
    assert account.login(email, password_in(done.json["image"]))
    assert built.read_text().count("x") == (1 if change == "nothing" else 2)
    assert not (bsp / image_files.RETRY_NOTE).exists()
    assert run("clean", "--bsp", bsp).code == 0
    assert image_files.present_images(bsp) == []
