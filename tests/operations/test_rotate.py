"""A new password for a device that has one: at the API and where it is asked for, or nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin_apis import by_id, serving, upsert
from msgspec import structs
from thorough import one_of, thorough
from world import EMAIL, SERIAL, Run, Script

from azaion_imagebuild import images
from azaion_imagebuild.admin_api.client import AdminApi
from azaion_imagebuild.config.loading import load
from azaion_imagebuild.errors import LedgerError, ProvisioningError, UsageError
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.ledger import Entry, Ledger, this_process
from azaion_imagebuild.ledger.engine import FILE
from azaion_imagebuild.ledger.process_id import this_host
from azaion_imagebuild.model import DEVICE_CONF, Receipt
from azaion_imagebuild.operations.rotate_all import parse_age
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import AdminApiSettings
from azaion_imagebuild.shipped import shipped

OLD = "0123456789abcdef0123456789abcdef"
CONF = f"AZAION_DEVICE_EMAIL={EMAIL}\nAZAION_DEVICE_PASSWORD={OLD}\n"
OTHER = CONF.replace("0042", "0043")


@pytest.fixture
def account(accounts: Accounts) -> Accounts:
    """The admin API knows the device, by its old password."""
    accounts.create(EMAIL, OLD, "CompanionPC")
    return accounts


@pytest.fixture
def rotate(run: Run, api_url: str) -> Callable[..., Any]:
    def call(*more: object) -> Any:
        return run("rotate", "--serial", SERIAL, "--api-url", api_url, "--json", *more)

    return call


@pytest.fixture
def image(rootfs_dir: Path, tmp_path: Path) -> Path:
    """A raw image as a build leaves it: the identity without a placeholder's room."""
    put(rootfs_dir, CONF)
    path = tmp_path / "system.img.raw"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", rootfs_dir, path, "16M"], check=True)
    (rootfs_dir / DEVICE_CONF).unlink()
    (rootfs_dir / DEVICE_CONF).parent.rmdir()
    return path


def put(rootfs: Path, text: str) -> Path:
    path = rootfs / DEVICE_CONF
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    found = (rootfs / "home/azaion").stat()
    os.chown(path, found.st_uid, found.st_gid)
    return path


def password(path: Path) -> str:
    if path.is_dir():
        path = path / DEVICE_CONF
    elif path.suffix != ".conf":
        entry = images.read_file(path, DEVICE_CONF, device_conf.LONGEST)
        assert entry is not None
        return device_conf.parse(entry.data).password.reveal()
    return device_conf.parse(path.read_bytes()).password.reveal()


def rows(run: Run, serial: str = SERIAL) -> Any:
    return json.loads(run("ledger", "show", serial, "--json").out)


# One device.


def test_a_new_password_is_written_to_every_named_target(
    run: Run, rotate: Callable[..., Any], account: Accounts, image: Path, rootfs_dir: Path
) -> None:
    put(rootfs_dir, CONF)
    new = Path("new.conf")
    ran = rotate("--rootfs-dir", rootfs_dir, "--image", image, "--device-conf", new)
    assert ran.code == 0, ran.err
    fresh = password(new)
    assert fresh != OLD
    assert account.login(EMAIL, fresh)
    assert not account.login(EMAIL, OLD)
    assert [password(place) for place in (rootfs_dir, image)] == [fresh, fresh]
    assert new.stat().st_mode & 0o777 == 0o600
    assert OLD.encode() not in image.read_bytes()
    assert run("verify", image, "--serial", SERIAL).code == 0
    assert run("verify", rootfs_dir, "--serial", SERIAL).code == 0
    assert ran.json["written"] == [
        str(rootfs_dir / DEVICE_CONF), str(image), str(new.absolute())
    ]  # fmt: skip
    begin, last, end = rows(run)
    assert [(each["step"], each["outcome"]) for each in (begin, last, end)] == [
        ("rotate", "started"),
        ("activate_identity", "started"),
        ("rotate", "done"),
    ]
    assert last["account"] is None
    assert end["credential"] == Secret(fresh).fingerprint()
    assert (end["account"], end["flashed"]) == ("updated", False)
    assert fresh not in ran.out + ran.err
    assert [path.name for path in Path().iterdir()] == ["new.conf"]


def test_the_same_command_again_ends_well_and_says_what_it_replaces(
    rotate: Callable[..., Any], account: Accounts
) -> None:
    new = Path("new.conf")
    assert rotate("--device-conf", new).code == 0
    first = password(new)
    again = rotate("--device-conf", new)
    assert again.code == 0
    assert f"holds an older credential of {SERIAL}: it is replaced" in again.err
    assert password(new) != first
    assert account.login(EMAIL, password(new))


def test_written_nowhere_is_refused(rotate: Callable[..., Any], account: Accounts) -> None:
    ran = rotate()
    assert (ran.code, "locks the device out" in ran.err) == (2, True)
    assert account.login(EMAIL, OLD)


WRONG: dict[str, tuple[str, int]] = {
    "a file of another device": ("--device-conf {file}", 2),
    "a file that is not a device.conf": ("--device-conf {text}", 2),
    "a link": ("--device-conf {link}", 2),
    "no folder": ("--device-conf /nowhere/x.conf", 2),
    "nothing": ("--device-conf=", 2),
    "an image of another device": ("--image {other}", 2),
    "no image": ("--image /nowhere/x.img", 8),
    "a text for an image": ("--image {text}", 8),
    "a rootfs of another device": ("--rootfs-dir {rootfs}", 2),
    "no rootfs": ("--rootfs-dir /nowhere", 3),
    "one that is right beside one that is wrong": ("--device-conf new.conf --image {text}", 8),
}


@pytest.mark.parametrize("what", one_of(WRONG))
def test_a_place_that_is_wrong_is_found_before_the_account_is_touched(
    run: Run, scripted: Script, what: str, tmp_path: Path, rootfs_dir: Path
) -> None:
    scripted.answer(200)
    file, text, link = tmp_path / "x.conf", tmp_path / "text", tmp_path / "link"
    file.write_text(OTHER)
    text.write_text("a text")
    link.symlink_to(tmp_path / "elsewhere.conf")
    put(rootfs_dir, OTHER)
    other = tmp_path / "other.img"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", rootfs_dir, other, "16M"], check=True)
    argv, code = WRONG[what]
    words = argv.format(file=file, text=text, link=link, other=other, rootfs=rootfs_dir).split()
    ran = run("rotate", "--serial", SERIAL, "--api-url", scripted.url, *words)
    assert (ran.code, len(ran.errors)) == (code, 1), ran.err
    assert scripted.requests == []
    assert (file.read_text(), text.read_text()) == (OTHER, "a text")
    assert password(other) == password(rootfs_dir) == OLD
    assert not Path("new.conf").exists()
    assert not list(Path().glob(".*"))
    assert run("ledger", "show", SERIAL).code == 2


@pytest.mark.parametrize("status", [404, 500])
def test_what_the_api_refuses_changes_nothing(
    run: Run, scripted: Script, status: int, image: Path, rootfs_dir: Path
) -> None:
    scripted.answer(status)
    ran = run("rotate", "--serial", SERIAL, "--api-url", scripted.url, "--image", image,
              "--rootfs-dir", rootfs_dir, "--device-conf", "new.conf")  # fmt: skip
    assert ran.code == 4
    assert "is the account there?" in ran.err
    assert [each.method for each in scripted.requests] == ["PATCH"]
    assert password(image) == OLD
    assert not (rootfs_dir / DEVICE_CONF).exists()
    assert not (rootfs_dir / "etc/azaion").exists()
    assert list(Path().iterdir()) == []
    assert rows(run)[-1]["outcome"] == "failed"


AT_ONCE = """
from azaion_imagebuild import hookimpl
from azaion_imagebuild.admin_api.client import AdminApi
from azaion_imagebuild.identity.serial import new_password

@hookimpl
def provision_identity(build):
    with AdminApi(build.settings.admin_api) as api:
        return api.activate(api.renew(build.serial, build.email, new_password()))
"""
"""A plug-in that changes the password as soon as it is asked."""


@pytest.mark.parametrize("at_once", [False, True])
def test_a_place_that_fails_at_last_locks_no_device_out(
    rotate: Callable[..., Any], account: Accounts, image: Path, monkeypatch: pytest.MonkeyPatch,
    rootfs_dir: Path, at_once: bool,
) -> None:  # fmt: skip
    """The account keeps the old password, and so do all places; or as many as can get the new."""
    from azaion_imagebuild.errors import ImageBuildError
    from azaion_imagebuild.images import stamp

    write = stamp.write_into

    def broken(opened: Any, data: bytes) -> None:
        if OLD.encode() not in data:
            raise ImageBuildError("the disk is broken", hint="repair it")
        write(opened, data)

    monkeypatch.setattr(stamp, "write_into", broken)
    put(rootfs_dir, CONF)
    if at_once:
        Path("site").mkdir()
        Path("site/at_once.py").write_text(AT_ONCE)
        Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')
    ran = rotate("--image", image, "--device-conf", "new.conf", "--rootfs-dir", rootfs_dir)
    assert ran.code == 6, ran.err
    new, conf = Path("new.conf"), rootfs_dir / DEVICE_CONF
    if at_once:
        assert set(ran.json["written"]) == {str(new.absolute()), str(conf)}
        assert account.login(EMAIL, password(new))
        assert password(rootfs_dir) == password(new)
    else:
        assert (ran.json["written"], ran.json["account"]) == ([], None)
        assert account.login(EMAIL, OLD)
        assert not new.exists()
        assert [password(place) for place in (rootfs_dir, image)] == [OLD, OLD]


def test_an_api_that_refuses_the_new_password_leaves_the_old_one_everywhere(
    rotate: Callable[..., Any], account: Accounts, image: Path, rootfs_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    put(rootfs_dir, CONF)
    monkeypatch.setattr(account, "set_password", lambda *_: False)
    ran = rotate("--image", image, "--device-conf", "new.conf", "--rootfs-dir", rootfs_dir)
    assert (ran.code, ran.json["step"], ran.json["written"]) == (4, "activate_identity", [])
    assert account.login(EMAIL, OLD)
    assert not Path("new.conf").exists()
    assert [password(place) for place in (rootfs_dir, image)] == [OLD, OLD]


def test_a_ledger_that_cannot_be_written_stops_it_before_the_account(
    rotate: Callable[..., Any], account: Accounts, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_bytes(b"not a database" * 1000)
    ran = rotate("--device-conf", "new.conf", "--database", f"sqlite:///{tmp_path}/bad")
    assert (ran.code, ran.json["account"]) == (9, None)
    assert account.login(EMAIL, OLD)
    assert list(Path().iterdir()) == []


def test_a_ledger_that_fails_at_the_end_leaves_the_new_password_in_its_place(
    rotate: Callable[..., Any], account: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Ledger.write

    def full(self: Ledger, row: Entry) -> Receipt:
        if row.outcome == "done":
            raise LedgerError("cannot write the ledger: disk is full", hint="make room")
        return write(self, row)

    monkeypatch.setattr(Ledger, "write", full)
    ran = rotate("--device-conf", "new.conf")
    assert (ran.code, ran.json["account"]) == (9, "updated")
    assert account.login(EMAIL, password(Path("new.conf")))


def test_the_account_of_another_serial_is_not_rotated(
    run: Run, rotate: Callable[..., Any], account: Accounts, api_url: str
) -> None:
    assert rotate("--device-conf", "new.conf").code == 0
    other = run("rotate", "--serial", "XYZ-0042", "--api-url", api_url, "--device-conf", "x.conf")
    assert (other.code, f"belongs to {SERIAL}" in other.err) == (3, True)
    assert account.login(EMAIL, password(Path("new.conf")))


def test_a_site_that_refuses_a_second_build_lets_passwords_be_rotated(run: Run) -> None:
    Path("imagebuild.toml").write_text('[ledger]\nreprovision = "refuse"\n')
    assert run("image", "--serial", SERIAL).code == 0
    ran = run("rotate", "--serial", SERIAL, "--device-conf", "new.conf")
    assert ran.code == 0, ran.err
    assert "SANDBOX" in ran.err
    assert "locks that device out" not in ran.err
    assert run("image", "--serial", SERIAL).code == 3


def test_no_device_but_one_of_the_sandbox_is_rotated_without_an_api(
    run: Run, rootfs_dir: Path
) -> None:
    nobody = run("rotate", "--serial", SERIAL, "--device-conf", "new.conf")
    assert (nobody.code, "not built in the sandbox" in nobody.err) == (2, True)
    assert run("image", "--serial", SERIAL).code == 0
    (rootfs_dir / "etc/nv_tegra_release").write_text("# R35 (release), REVISION: 3.1, GCID: 1\n")
    real = run("rotate", "--serial", SERIAL, "--rootfs-dir", rootfs_dir)
    assert (real.code, "no admin API is set" in real.err) == (2, True)


def test_a_kill_at_any_moment_is_healed_by_the_same_command(
    run: Run, account: Accounts, api_url: str, tmp_path: Path, rootfs_dir: Path
) -> None:
    Path("site").mkdir()
    Path("site/slow.py").write_text(
        "import time\n"
        "from azaion_imagebuild import hookimpl\n"
        "from azaion_imagebuild.rootfs import staging\n"
        "def slow(build, *more):\n"
        "    open('held', 'w').close()\n"
        "    time.sleep(60)\n"
        "staging.stage = slow\n"
        "@hookimpl\n"
        "def cleanup(build): ...\n"
    )
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')
    put(rootfs_dir, CONF)
    argv = ["rotate", "--serial", SERIAL, "--api-url", api_url, "--rootfs-dir", str(rootfs_dir)]
    process = subprocess.Popen([sys.executable, "-m", "azaion_imagebuild", *argv],
                               stderr=subprocess.DEVNULL)  # fmt: skip
    while not Path("held").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert account.login(EMAIL, OLD)  # the new password is written before the account gets it
    assert password(rootfs_dir) == OLD
    Path("imagebuild.toml").unlink()
    ran = run(*argv)
    assert ran.code == 0, ran.err
    assert account.login(EMAIL, password(rootfs_dir))
    assert [row["outcome"] for row in rows(run)] == [
        "started", "failed", "started", "started", "done"
    ]  # fmt: skip


def test_an_interrupt_waits_until_the_password_is_written(
    account: Accounts, api_url: str, rootfs_dir: Path
) -> None:
    Path("site").mkdir()
    Path("site/stop.py").write_text(
        "import os, signal\n"
        "from azaion_imagebuild import hookimpl\n"
        "from azaion_imagebuild.rootfs import staging\n"
        "stage = staging.stage\n"
        "def interrupted(build, *more):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return stage(build, *more)\n"
        "staging.stage = interrupted\n"
        "@hookimpl\n"
        "def cleanup(build): ...\n"
    )
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')
    argv = ["rotate", "--serial", SERIAL, "--api-url", api_url, "--rootfs-dir", str(rootfs_dir)]
    done = subprocess.run([sys.executable, "-m", "azaion_imagebuild", *argv], check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "DONE" in done.stderr
    assert account.login(EMAIL, password(rootfs_dir))


# Other contracts.


def settings_of(name: str, url: str) -> AdminApiSettings:
    chosen = load({}, {}, shipped("templates") / name).admin_api
    return structs.replace(chosen, url=url, token_file=None)


@pytest.mark.parametrize(
    ("name", "serve", "request_"),
    [
        ("admin-api-upsert.toml", upsert, "PUT /devices/"),
        ("admin-api-by-id.toml", by_id, "PUT /users/"),
    ],
)
def test_each_contract_rotates_by_what_it_has(name: str, serve: Any, request_: str) -> None:
    with serving(serve) as api:
        api.add(EMAIL, "old")
        with AdminApi(settings_of(name, api.url)) as client:
            identity = client.activate(client.renew(SERIAL, EMAIL, Secret("new")))
    assert identity.enrolled == "updated"
    assert api.accounts[EMAIL]["password"] == "new"
    assert api.requests[-1].startswith(request_)
    assert not any(request.startswith("POST") for request in api.requests)


def test_an_account_that_is_not_there_is_not_made_by_a_rotation() -> None:
    with serving(by_id) as api:
        with (
            AdminApi(settings_of("admin-api-by-id.toml", api.url)) as client,
            pytest.raises(ProvisioningError, match="no entries"),
        ):
            client.activate(client.renew(SERIAL, EMAIL, Secret("new")))
        assert api.accounts == {}


def test_an_id_that_only_the_creating_answer_tells_is_asked_for_there() -> None:
    with serving(by_id) as api:
        api.add(EMAIL, "old")
        settings = AdminApiSettings(
            url=api.url,
            create_fields=["email", "role"],
            update_method="PUT",
            update_path="/users/{id}/password",
            update_fields=["password"],
            existing_id_field="existing.id",
        )
        with AdminApi(settings) as client:
            client.activate(client.renew(SERIAL, EMAIL, Secret("new")))
    assert api.accounts[EMAIL]["password"] == "new"


# All that are old.


def aged(ledger: Ledger, serial: str, days: float, **changes: Any) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - days * 86400))
    fields: dict[str, Any] = {
        "attempt": f"{serial}-{days}",
        "serial": serial,
        "email": f"azaion-jetson-{serial.rpartition('-')[2].lower()}@azaion.com",
        "sandbox": False,
        "step": "post_flash",
        "outcome": "done",
        "at": at,
        "account": "created",
        "credential": f"{serial} {days}",
        "flashed": True,
        "host": this_host(),
        "process": this_process(),
    }
    ledger.write(Entry(**fields | changes))


@pytest.fixture
def factory(accounts: Accounts, tmp_path: Path) -> Accounts:
    """Five devices of the last year; the API knows them all."""
    with Ledger(f"sqlite:///{tmp_path / 'state/azaion-imagebuild' / FILE}") as ledger:
        aged(ledger, "AZJN-0001", 300)
        aged(ledger, "AZJN-0002", 200)
        aged(ledger, "AZJN-0003", 400)
        aged(ledger, "AZJN-0003", 10)  # built again since
        aged(ledger, "AZJN-0004", 250)
        aged(ledger, "AZJN-0004", 240, step="resolve", outcome="retired")
        aged(ledger, "AZJN-0005", 100)
        aged(ledger, "AZJN-0005", 5, account=None, credential=None, outcome="failed")
        aged(ledger, "AZJN-0006", 500, sandbox=True)
        same = {"credential": "the same as before"}
        aged(ledger, "AZJN-0007", 95, **same)
        aged(ledger, "AZJN-0007", 3, step="resolve", **same)
    for number in range(1, 8):
        accounts.create(f"azaion-jetson-{number:04d}@azaion.com", OLD, "CompanionPC")
    return accounts


DUE = ["AZJN-0001", "AZJN-0002", "AZJN-0005", "AZJN-0007"]
ALL = ("rotate", "--all-older-than", "90d", "--json", "--api-url")


def test_all_that_are_old_get_a_new_device_conf(run: Run, factory: Accounts, api_url: str) -> None:
    ran = run(*ALL, api_url, "--out", "new")
    assert ran.code == 0, ran.err
    assert (ran.json["done"], ran.json["outcome"]) == (4, "done")
    assert [each["serial"] for each in ran.json["records"]] == DUE
    assert Path("new").stat().st_mode & 0o777 == 0o700
    for path in Path("new").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert factory.login(device_conf.parse(path.read_bytes()).email, password(path))
    assert sorted(path.stem for path in Path("new").iterdir()) == DUE
    assert factory.login("azaion-jetson-0003@azaion.com", OLD)
    assert (rows(run, "AZJN-0001")[-1]["step"], rows(run, "AZJN-0001")[-1]["outcome"]) == (
        "rotate",
        "done",
    )
    again = run(*ALL, api_url, "--out", "new")
    assert (again.code, again.json["total"]) == (0, 0)
    assert run("ledger", "verify").code == 0


def test_a_plan_of_a_rotation_changes_nothing(run: Run, factory: Accounts, api_url: str) -> None:
    ran = run(*ALL, api_url, "--plan")
    assert ran.code == 0
    assert [each["serial"] for each in ran.json["devices"]] == DUE
    assert factory.login("azaion-jetson-0001@azaion.com", OLD)
    every = run(*ALL[:2], "0d", *ALL[3:], api_url, "--plan").json["devices"]
    assert [each["serial"] for each in every] == [*DUE, "AZJN-0003"]
    assert len(rows(run, "AZJN-0001")) == 1
    assert list(Path().iterdir()) == []


def test_one_failure_stops_no_other_and_the_same_again_does_what_is_left(
    run: Run, factory: Accounts, api_url: str, tmp_path: Path
) -> None:
    Path("new").mkdir(mode=0o700)
    (Path("new") / "AZJN-0002.conf").write_text("a note of somebody")
    ran = run(*ALL, api_url, "--out", "new")
    assert (ran.code, ran.json["outcome"], ran.json["failed"]) == (10, "incomplete", 1)
    assert factory.login("azaion-jetson-0002@azaion.com", OLD)
    assert factory.login("azaion-jetson-0005@azaion.com", password(Path("new/AZJN-0005.conf")))
    assert "AZJN-0002  FAILED" in ran.err
    (Path("new") / "AZJN-0002.conf").unlink()
    again = run(*ALL, api_url, "--out", "new")
    assert (again.code, [each["serial"] for each in again.json["records"]]) == (0, ["AZJN-0002"])


@thorough
def test_an_interrupted_rotation_of_many_goes_on_later(
    run: Run, factory: Accounts, api_url: str
) -> None:
    Path("site").mkdir()
    Path("site/stop.py").write_text(
        "import os, signal\n"
        "from azaion_imagebuild import hookimpl\n"
        "@hookimpl\n"
        "def provision_identity(build):\n"
        "    if build.serial == 'AZJN-0002':\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')
    argv = [sys.executable, "-m", "azaion_imagebuild", *ALL, api_url, "--out", "new"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"], told["done"]) == (130, "interrupted", 1), done.stderr
    assert told["not_started"] == ["AZJN-0005", "AZJN-0007"]
    Path("imagebuild.toml").unlink()
    assert run(*ALL, api_url, "--out", "new").json["done"] == 3
    assert not list(Path("new").glob(".*"))


def test_a_rotation_without_an_api_is_of_the_sandbox_or_an_error(run: Run) -> None:
    argv = ("rotate", "--all-older-than", "0d", "--json")
    nobody = run(*argv, "--plan")
    assert (nobody.code, "no device of the sandbox" in nobody.err) == (2, True)
    assert run("image", "--serial", SERIAL).code == 0
    ran = run(*argv, "--out", "new")
    assert (ran.code, ran.json["sandbox"], ran.json["done"]) == (0, True, 1)


def test_a_folder_that_all_may_write_gets_no_passwords(
    run: Run, factory: Accounts, api_url: str
) -> None:
    Path("open").mkdir()
    Path("open").chmod(0o777)
    ran = run(*ALL, api_url, "--out", "open")
    assert (ran.code, "everybody may write" in ran.err) == (2, True)
    assert factory.login("azaion-jetson-0001@azaion.com", OLD)


@pytest.mark.parametrize(
    "argv",
    [
        ["--all-older-than", "90"],
        ["--all-older-than", "soon", "--out", "x"],
        ["--all-older-than", "90d"],
        ["--all-older-than", "90d", "--out", "x", "--image", "y"],
        ["--serial", SERIAL, "--out", "x"],
        ["--serial", SERIAL, "--plan", "--device-conf", "x"],
        ["--serial", SERIAL, "--all-older-than", "90d"],
        ["--device-conf", "x"],
    ],
)
def test_flags_that_do_not_go_together_are_a_usage_error(run: Run, argv: list[str]) -> None:
    ran = run("rotate", *argv)
    assert (ran.code, len(ran.errors)) == (2, 1)


def test_an_age_is_hours_days_or_weeks() -> None:
    assert [parse_age(text).total_seconds() for text in ("12h", "90d", " 4w")] == [
        12 * 3600, 90 * 86400, 28 * 86400,
    ]  # fmt: skip
    for text in ("-1d", "999999d", "9999999999d"):
        with pytest.raises(UsageError):
            parse_age(text)
