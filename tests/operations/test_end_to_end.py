"""Whole builds on real parts: the sandbox, and the reference BSP beside a real admin API."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench import conf_of
from thorough import one_of
from world import EMAIL, SERIAL, Ran, Run, Script, Tree, replace_script

from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox import Accounts, Sandbox
from azaion_imagebuild.sandbox.bsp import service_user

PYTHON = sys.executable


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")


def debugfs_stat(image: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", f"stat /{DEVICE_CONF}", image], capture_output=True, text=True, check=True
    ).stdout


def image(run: Run, bsp: Path, url: str, *more: object) -> Ran:
    """Build on the reference BSP as if it were a real one (with root's rights where needed)."""
    args = ("--serial", SERIAL, "--bsp", bsp, "--api-url", url, "--json", "--keep-image")
    return run("image", *args, *more)


def test_the_sandbox_builds_proves_flashes_and_logs_in(run: Run, sandbox: Sandbox) -> None:
    ran = run("image", "--serial", SERIAL, "--json")
    assert ran.code == 0, ran.err
    record = ran.json
    assert {
        "serial": SERIAL,
        "email": EMAIL,
        "outcome": "done",
        "sandbox": True,
        "account": "created",
        "image_format": "ext4",
        "flashed": True,
        "smoke": "logged in",
    }.items() <= {
        name: each for name, each in record.items() if isinstance(each, str | bool)
    }.items()
    assert record["ledger"]["row"] == 4
    uid = service_user()
    assert record["device_conf"]["path"] == "/etc/azaion/device.conf"
    assert (record["device_conf"]["mode"], record["device_conf"]["uid"]) == ("0600", uid)
    assert set(record) >= {"attempt", "image_sha256", "seconds"}
    stat = debugfs_stat(record["image"])
    assert "Mode:  0600" in stat
    assert f"User: {uid:5}" in stat
    assert "SANDBOX" in ran.err
    assert conf_of(sandbox.device) == conf_of(record["image"])
    assert sandbox.accounts.login(EMAIL, conf_of(sandbox.device).password.reveal())


def test_the_same_command_again_leaves_one_account_with_the_newer_password(
    run: Run, sandbox: Sandbox
) -> None:
    first = conf_of(run("image", "--serial", SERIAL, "--json").json["image"])
    again = run("image", "--serial", SERIAL, "--json")
    assert again.code == 0
    assert again.json["account"] == "updated"
    second = conf_of(again.json["image"])
    assert [account.email for account in sandbox.accounts.list()] == [EMAIL]
    assert sandbox.accounts.login(EMAIL, second.password.reveal())
    assert not sandbox.accounts.login(EMAIL, first.password.reveal())


def test_a_rootfs_alone_is_an_error_that_says_where_the_sandboxs_own_is(
    run: Run, sandbox: Sandbox, rootfs_dir: Path
) -> None:
    ran = run("image", "--serial", SERIAL, "--rootfs-dir", rootfs_dir)
    assert ran.code == 2
    assert f"its rootfs is {sandbox.rootfs}" in ran.err


def test_a_sandbox_that_was_made_before_a_hash_had_its_cost_still_logs_in(tmp_path: Path) -> None:
    database, salt = tmp_path / "accounts", b"0123456789abcdef"
    with contextlib.closing(sqlite3.connect(database)) as old, old:
        old.execute(
            "CREATE TABLE users (email TEXT PRIMARY KEY, role TEXT NOT NULL, salt BLOB NOT NULL,"
            " hash BLOB NOT NULL, created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,"
            " updated TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
        )
        hashed = hashlib.scrypt(b"old", salt=salt, n=2**12, r=8, p=1)
        old.execute(
            "INSERT INTO users (email, role, salt, hash) VALUES (?, ?, ?, ?)",
            (EMAIL, "CompanionPC", salt, hashed),
        )
    accounts = Accounts(database)
    assert accounts.login(EMAIL, "old")
    assert not accounts.login(EMAIL, "new")
    accounts.set_password(EMAIL, "new")
    assert Accounts(database).login(EMAIL, "new")


def test_without_flash_the_image_is_the_product_and_no_device_is_written(
    run: Run, sandbox: Sandbox
) -> None:
    ran = run("image", "--serial", SERIAL, "--json", "--flash", "0")
    assert ran.code == 0
    assert (ran.json["flashed"], ran.json["device"]) == (False, None)
    assert sandbox.device.stat().st_size == 0
    assert conf_of(ran.json["image"]).email == EMAIL


def test_images_are_for_their_owner_only(run: Run) -> None:
    record = run("image", "--serial", SERIAL, "--json").json
    assert Path(record["image"]).stat().st_mode & 0o777 == 0o600
    assert record["removed"] == ["bootloader/system.img"]
    assert record["residue"] == []


def test_the_rootfs_is_after_a_build_as_it_was_before(run: Run, sandbox: Sandbox) -> None:
    sandbox.create(1.0)
    tree = Tree(sandbox.bsp / "rootfs", fake=False)
    before = tree.snapshot()
    assert run("image", "--serial", SERIAL).code == 0
    assert tree.snapshot() == before


# A BSP of its own, and what can go wrong with it.

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")


@needs_root
def test_a_bsp_and_an_api_of_ones_own_give_a_real_build(
    run: Run, bsp: Path, api_url: str, accounts: Accounts
) -> None:
    ran = image(run, bsp, api_url)
    assert ran.code == 0, ran.err
    assert ran.json["sandbox"] is False
    assert "SANDBOX" not in ran.err
    assert accounts.login(EMAIL, conf_of(ran.json["image"]).password.reveal())
    assert not (bsp / "rootfs/etc/azaion").exists()


@needs_root
def test_a_stale_device_conf_keeps_its_owner_and_never_its_content(
    run: Run, bsp: Path, api_url: str
) -> None:
    stale = bsp / "rootfs" / DEVICE_CONF
    stale.parent.mkdir()
    stale.write_text("AZAION_DEVICE_EMAIL=other\nAZAION_DEVICE_PASSWORD=stale\n")
    os.chown(stale, 4321, 4321)
    ran = image(run, bsp, api_url)
    assert ran.code == 0, ran.err
    assert (ran.json["device_conf"]["uid"], ran.json["device_conf"]["mode"]) == (4321, "0600")
    assert "keeps that owner" in ran.err
    assert conf_of(ran.json["image"]).email == EMAIL
    assert not stale.exists()


LIES: dict[str, tuple[str, int, str]] = {
    "fails": ("echo 'Error: it broke'; exit 1", 6, "it broke"),
    "ends with 0 and says nothing": ("exit 0", 6, "never said"),
    "ends with 0 after an error": (
        "./flash.sh.real \"$@\" | sed 's/^\\*\\*\\* no-flash.*/Error: tegraflash failed/'",
        6, "tegraflash failed",
    ),
    "makes no image": (
        "rm -f bootloader/system.img*; echo '*** no-flash flag enabled. Exiting now... ***'",
        6, "is missing",
    ),
    "drops the file": (
        "./flash.sh.real \"$@\" && debugfs -w -R 'rm /etc/azaion/device.conf'"
        " bootloader/system.img.raw",
        8, "holds no /etc/azaion/device.conf",
    ),
    "changes its owner": (
        "./flash.sh.real \"$@\" && debugfs -w -R 'sif /etc/azaion/device.conf uid 4242'"
        " bootloader/system.img.raw",
        8, "belongs to 4242:",
    ),
    "changes its mode": (
        "./flash.sh.real \"$@\" && debugfs -w -R 'sif /etc/azaion/device.conf mode 0100644'"
        " bootloader/system.img.raw",
        8, "has mode 0644",
    ),
    "lies in the sparse image only": (
        "./flash.sh.real \"$@\" && cp bootloader/system.img.raw other.raw &&"
        " debugfs -w -R 'rm /etc/azaion/device.conf' other.raw &&"
        " bootloader/mksparse --fillpattern=0 other.raw bootloader/system.img",
        8, "system.img holds no",
    ),
    "cuts the image short": (
        "./flash.sh.real \"$@\" && truncate -s 1M bootloader/system.img.raw",
        8, "cut short",
    ),
    "leaves a text": (
        "./flash.sh.real \"$@\" && echo text > bootloader/system.img.raw",
        8, "not a usable filesystem image",
    ),
}  # fmt: skip


@needs_root
@pytest.mark.parametrize("lie", one_of(LIES))
def test_a_flash_sh_that_lies_is_refused_before_any_device_is_written(
    run: Run, bsp: Path, api_url: str, lie: str
) -> None:
    script, code, words = LIES[lie]
    # debugfs says hello on stderr; the wrapper's last line must stay flash.sh's own
    replace_script(bsp / "flash.sh", script + "\n")
    before = Tree(bsp / "rootfs", fake=False).snapshot()
    ran = image(run, bsp, api_url)
    assert ran.code == code, ran.err
    assert words in ran.json["error"]
    assert (len(ran.errors), len(ran.hints)) == (1, 1)
    assert Tree(bsp / "rootfs", fake=False).snapshot() == before
    assert (bsp.parent / "device.img").stat().st_size == 0


@needs_root
def test_no_device_in_recovery_mode_is_a_flash_error_with_what_to_press(
    run: Run, bsp: Path, api_url: str
) -> None:
    (bsp.parent / "device.img").unlink()
    ran = image(run, bsp, api_url)
    assert (ran.code, ran.json["step"]) == (7, "flash")
    assert "FORCE RECOVERY" in ran.json["hint"]
    assert not (bsp / "rootfs" / DEVICE_CONF).exists()


@needs_root
@pytest.mark.parametrize(
    ("answers", "words", "hint"),
    [
        ([500], "answered HTTP 500", "admin API's logs"),
        ([403], "answered HTTP 403", "token"),
        ([409, 405], "PATCH /users/password answered HTTP 405", "implement or enable"),
        ([302], "redirect", "API_URL"),
    ],
)
def test_an_admin_api_that_refuses_ends_with_4_and_its_check(
    run: Run, bsp: Path, scripted: Script, answers: list[int], words: str, hint: str
) -> None:
    for status in answers:
        scripted.answer(status)
    stale = bsp / "rootfs" / DEVICE_CONF
    stale.parent.mkdir()
    stale.write_text("stale")
    os.chown(stale, service_user(), service_user())
    ran = image(run, bsp, scripted.url)
    assert (ran.code, ran.json["step"]) == (4, "provision_identity")
    assert words in ran.json["error"]
    assert hint in ran.json["hint"]
    assert (len(ran.errors), len(ran.hints)) == (1, 1)
    assert not stale.exists()
    assert not list((bsp / "bootloader").glob("system.img*"))


def test_an_api_that_is_down_is_found_before_anything_changes(run: Run, bsp: Path) -> None:
    ran = image(run, bsp, "http://127.0.0.1:1")
    assert (ran.code, ran.json["step"]) == (3, "preflight")
    assert "cannot reach the admin API" in ran.json["error"]
    assert "VPN" in ran.json["hint"]


def test_every_problem_is_shown_together(run: Run, bsp: Path) -> None:
    ran = image(run, bsp, "http://127.0.0.1:1", "--board", "nonsense", "--owner", "nobody-here",
                "--rootdev", "nvme0n1p1")  # fmt: skip
    assert ran.code == 3
    text = "\n".join(ran.errors)
    for words in ("admin API", "nobody-here", "'nonsense'", "packs only /boot"):
        assert words in text
    assert "there are: root, nobody, azaion" in ran.err
    assert "jetson-orin-nano-devkit" in ran.err


@needs_root
def test_a_rootfs_without_the_service_user_names_the_accounts(
    run: Run, bsp: Path, api_url: str, accounts: Accounts
) -> None:
    passwd = bsp / "rootfs/etc/passwd"
    passwd.write_text("root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/:/bin/sh\n")
    ran = image(run, bsp, api_url)
    assert ran.code == 3
    assert "no user 'azaion'" in ran.json["error"]
    assert "root, ubuntu" in ran.json["hint"]
    assert accounts.list() == []


@needs_root
@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "hard link"])
def test_what_cannot_be_replaced_without_harm_is_refused_and_left(
    run: Run, bsp: Path, api_url: str, accounts: Accounts, kind: str
) -> None:
    path = bsp / "rootfs" / DEVICE_CONF
    path.parent.mkdir()
    if kind == "link":
        path.symlink_to("/etc/shadow")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        (path.parent / "other").write_text("x")
        os.link(path.parent / "other", path)
    before = Tree(bsp / "rootfs", fake=False).snapshot()
    ran = image(run, bsp, api_url)
    assert ran.code == 3
    assert "then run the same command again" in ran.json["hint"]
    assert (len(ran.errors), len(ran.hints)) == (1, 1)
    assert Tree(bsp / "rootfs", fake=False).snapshot() == before
    assert accounts.list() == []


@needs_root
def test_hostile_links_lead_nowhere(run: Run, bsp: Path, api_url: str) -> None:
    (bsp / "rootfs/etc/azaion").symlink_to("/etc/azaion")
    ran = image(run, bsp, api_url)
    assert ran.code == 3
    assert "circle" in ran.json["hint"]
    shutil.move(bsp / "rootfs/etc", bsp / "rootfs/real-etc")
    (bsp / "rootfs/etc").symlink_to("../..")
    assert image(run, bsp, api_url).code == 3
    assert not Path("/etc/azaion").exists()
    assert sorted(os.listdir(bsp.parent)) == ["Linux_for_Tegra", "device.img"]


@needs_root
def test_a_full_disk_is_a_staging_error_and_leaves_nothing(
    run: Run, tmp_path: Path, api_url: str
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=64k,nr_inodes=64 none {small} && mkdir -p {small}/etc/azaion &&"
        f" echo azaion:x:0:0::/:/bin/sh > {small}/etc/passwd &&"
        f" {{ dd if=/dev/zero of={small}/filler bs=1k status=none || true; }} &&"
        f" python -m azaion_imagebuild provision --serial {SERIAL} --api-url {api_url}"
        f" --rootfs-dir {small} --json; code=$?; ls -A {small}/etc/azaion >&2; exit $code"
    )
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script.replace("python -m", f"{PYTHON} -m")],
        capture_output=True, text=True,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 5, done.stderr
    record = json.loads(done.stdout)
    assert "No space left" in record["error"]
    assert "make room" in record["hint"]
    assert "device.conf\n" not in done.stderr.split("FAILED")[1]
    assert "Traceback" not in done.stderr


def test_provision_is_the_runbooks_step_4(
    run: Run, rootfs_dir: Path, api_url: str, accounts: Accounts
) -> None:
    args = ("provision", "--serial", SERIAL, "--api-url", api_url, "--rootfs-dir", rootfs_dir)
    for _ in range(2):
        ran = run(*args)
        assert ran.code == 0, ran.err
        path = rootfs_dir / DEVICE_CONF
        assert str(path) in ran.err
        assert path.stat().st_mode & 0o777 == 0o600
        conf = device_conf.parse(path.read_bytes())
        assert accounts.login(EMAIL, conf.password.reveal())
    assert len(accounts.list()) == 1


def test_verify_reads_a_rootfs_an_image_and_a_sparse_image(run: Run) -> None:
    record: dict[str, Any] = run("image", "--serial", SERIAL, "--json").json
    sparse = Path(record["image"]).with_suffix("")
    mksparse = [f"{sparse.parent}/mksparse", "--fillpattern=0", record["image"], str(sparse)]
    subprocess.run(mksparse, check=True)
    for target, kind in ((record["image"], "ext4"), (sparse, "sparse")):
        ran = run("verify", target, "--serial", SERIAL, "--json")
        assert (ran.code, ran.json["format"], ran.json["findings"]) == (0, kind, [])
    wrong = run("verify", record["image"], "--serial", "AZJN-0043", "--json")
    assert wrong.code == 8
    assert "is of 'azaion-jetson-0042@azaion.com'" in wrong.json["findings"][0]["error"]


def test_verify_finds_a_wrong_mode_owner_and_form_in_a_rootfs(run: Run, rootfs_dir: Path) -> None:
    path = rootfs_dir / DEVICE_CONF
    path.parent.mkdir()
    path.write_text(f"AZAION_DEVICE_EMAIL={EMAIL}\nAZAION_DEVICE_PASSWORD=short\n")
    path.chmod(0o644)
    ran = run("verify", rootfs_dir, "--serial", SERIAL, "--owner", "root")
    assert ran.code == 8
    assert "has mode 0644" in ran.err
    assert "32 hexadecimal" in ran.err
    assert ("belongs to" in ran.err) == (os.geteuid() != 0)


def test_verify_says_when_there_is_nothing_to_verify(run: Run, tmp_path: Path) -> None:
    assert run("verify", tmp_path / "nothing", "--serial", SERIAL).code == 2
    (tmp_path / "text").write_text("no image")
    ran = run("verify", tmp_path / "text", "--serial", SERIAL)
    assert ran.code == 8
    assert "not a usable filesystem image" in ran.err
