"""Escrow: each new credential encrypted to the team's keys, wherever one is given; off by default.

Keys and files are real: pyrage encrypts, and what reads them is pyrage with the private key, or
age itself.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import getpass
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage
import pytest
from admin_apis import issuing, serving, token
from pages import ROOT, blocks
from thorough import one_of, thorough
from world import EMAIL, SERIAL, TOOL, Run

from azaion_imagebuild import images
from azaion_imagebuild.config.loading import load
from azaion_imagebuild.errors import ProvisioningError, UsageError
from azaion_imagebuild.identity import device_conf, escrow
from azaion_imagebuild.ledger import Ledger
from azaion_imagebuild.ledger.engine import FILE
from azaion_imagebuild.model import DEVICE_CONF, Build, DeviceIdentity
from azaion_imagebuild.sandbox import Accounts, Sandbox
from azaion_imagebuild.secret import Secret

PRIVATE = str(pyrage.x25519.Identity.generate())


@dataclass
class Team:
    """Who has a private key; the settings name its public one."""

    key: Any

    @property
    def public(self) -> str:
        return str(self.key.to_public())

    def reads(self, path: Path) -> str:
        """Return the device.conf that a file of the escrow holds."""
        return str(pyrage.decrypt(path.read_bytes(), [self.key]), "utf-8")

    def password(self, path: Path) -> str:
        return device_conf.parse(self.reads(path).encode()).password.reveal()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state/azaion-imagebuild"


@pytest.fixture
def team() -> Team:
    """A team whose public key is in imagebuild.toml."""
    team = Team(pyrage.x25519.Identity.generate())
    configure(team.public)
    return team


def configure(*recipients: str, more: str = "") -> None:
    Path("imagebuild.toml").write_text(f"[escrow]\nrecipients = {json.dumps(recipients)}\n{more}")


def kept(folder: Path) -> list[Path]:
    """Return the files below a folder, the one that was written first first."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def rows(run: Run, serial: str = SERIAL) -> Any:
    return json.loads(run("ledger", "show", serial, "--json").out)


# Every way to a credential.


def test_a_build_keeps_its_device_conf_for_who_has_the_key(
    run: Run, team: Team, state: Path
) -> None:
    ran = run("image", "--serial", SERIAL, "--json")
    assert ran.code == 0, ran.err
    (path,) = kept(state / "escrow")
    assert ran.json["escrow"] == str(path)
    assert path == state / "escrow/sandbox" / SERIAL / f"{ran.json['attempt']}.age"
    entry = images.read_file(Sandbox(state / "sandbox").device, DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    assert team.reads(path).encode() == entry.data
    for each, mode in ((path, 0o600), *((folder, 0o700) for folder in path.parents[:3])):
        assert each.stat().st_mode & 0o777 == mode, each
    assert re.search(rf"escrow +….*/{SERIAL}/{re.escape(path.name)}", ran.err)
    assert rows(run)[-1]["extra"]["escrow"] == str(path)
    assert run("ledger", "verify").code == 0


def test_a_build_that_is_not_flashed_or_stamps_keeps_its_device_conf_too(
    run: Run, team: Team, state: Path
) -> None:
    for more in (["--flash", "0"], ["--inject", "stamp"]):
        ran = run("image", "--serial", SERIAL, "--json", *more)
        assert ran.code == 0, ran.err
        password = team.password(Path(ran.json["escrow"]))
        assert Sandbox(state / "sandbox").accounts.login(EMAIL, password)


def test_provision_keeps_what_it_writes_into_the_rootfs(
    run: Run, team: Team, state: Path, api_url: str, rootfs_dir: Path
) -> None:
    argv = ("provision", "--serial", SERIAL, "--api-url", api_url, "--rootfs-dir", rootfs_dir)
    ran = run(*argv, "--json")
    assert ran.code == 0, ran.err
    (path,) = kept(state / "escrow")
    assert path.parent == state / "escrow" / SERIAL
    assert ran.json["escrow"] == str(path)
    assert team.reads(path) == (rootfs_dir / DEVICE_CONF).read_text()
    shown = run(*argv)
    assert f"escrow    {state}/escrow/{SERIAL}/" in shown.err


def test_stamp_rotate_and_a_fleet_keep_each_credential(
    run: Run, team: Team, state: Path, api_url: str, accounts: Accounts
) -> None:
    assert run("base", "--out", "base.img").code == 0
    assert kept(state / "escrow") == []  # no credential is in it
    api = ("--api-url", api_url, "--json")
    stamped = run("stamp", "base.img", "--serial", SERIAL, "--out", "one.img", *api)
    assert stamped.code == 0, stamped.err
    rotated = run("rotate", "--serial", SERIAL, "--device-conf", "new.conf", *api)
    assert rotated.code == 0, rotated.err
    first, second = kept(state / "escrow")
    assert [stamped.json["escrow"], rotated.json["escrow"]] == [str(first), str(second)]
    assert team.reads(second) == Path("new.conf").read_text()
    assert accounts.login(EMAIL, team.password(second))
    assert not accounts.login(EMAIL, team.password(first))
    assert rows(run)[-1]["credential"] == Secret(team.password(second)).fingerprint()
    fleet = run("fleet", "AZJN-0001..AZJN-0003", "--image", "base.img", "--out", "images", *api)
    assert fleet.code == 0, fleet.err
    for record in fleet.json["records"]:
        path = Path(record["escrow"])
        assert path.parent == state / "escrow" / record["serial"]
        assert accounts.login(record["email"], team.password(path))
    everyone = run("rotate", "--all-older-than", "0d", "--out", "all", *api)
    assert (everyone.code, everyone.json["done"]) == (0, 4), everyone.err
    for record in everyone.json["records"]:
        conf = Path("all", f"{record['serial']}.conf")
        assert team.reads(Path(record["escrow"])) == conf.read_text()
    assert len(kept(state / "escrow")) == 9


@pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")
def test_a_real_build_keeps_its_device_conf(
    run: Run, team: Team, state: Path, bsp: Path, api_url: str, accounts: Accounts
) -> None:
    ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--json")
    assert (ran.code, ran.json["residue"]) == (0, []), ran.err
    assert accounts.login(
        EMAIL, team.password(state / "escrow" / SERIAL / f"{ran.json['attempt']}.age")
    )


def test_a_credential_that_the_api_issued_is_kept_as_it_is(
    run: Run, team: Team, state: Path, rootfs_dir: Path
) -> None:
    Path("factory-hooks").mkdir()
    (plugin,) = blocks(ROOT / "docs/how-to/issued-credentials.md", "python")
    Path("factory-hooks/token.py").write_text(plugin.text)
    configure(team.public, more='[hooks]\ndirs = ["factory-hooks"]\n')
    with serving(issuing(token)) as api:
        ran = run("provision", "--serial", SERIAL, "--api-url", api.url, "--rootfs-dir", rootfs_dir)
        assert ran.code == 0, ran.err
        assert team.password(*kept(state / "escrow")) == api.accounts[EMAIL]["password"]


def test_what_is_kept_is_what_our_own_commands_take(
    run: Run, team: Team, state: Path, api_url: str
) -> None:
    assert run("base", "--out", "base.img").code == 0
    shutil.copy("base.img", "again.img")
    assert run("stamp", "base.img", "--serial", SERIAL, "--api-url", api_url).code == 0
    Path("old.conf").write_text(team.reads(*kept(state / "escrow")))
    argv = ("stamp", "again.img", "--serial", SERIAL, "--device-conf", "old.conf")
    assert run(*argv).code == 0
    both = [images.read_file(Path(name), DEVICE_CONF, 4096) for name in ("base.img", "again.img")]
    assert both[0] == both[1]
    assert len(kept(state / "escrow")) == 1  # no new credential


def test_a_sites_own_template_is_what_is_kept(
    run: Run, team: Team, state: Path, api_url: str, rootfs_dir: Path
) -> None:
    Path("site.conf").write_text(
        "# ${serial}\nAZAION_DEVICE_EMAIL=${email}\nAZAION_DEVICE_PASSWORD=${password}\nZONE=3\n"
    )
    configure(team.public, more='[device_conf]\ntemplate = "site.conf"\n')
    assert run("provision", "--serial", SERIAL, "--api-url", api_url, "--rootfs-dir",
               rootfs_dir).code == 0  # fmt: skip
    text = team.reads(*kept(state / "escrow"))
    assert text.startswith(f"# {SERIAL}\n")
    assert text.endswith("\nZONE=3\n")


def test_off_by_default_nothing_is_made_and_pyrage_is_not_asked_for(
    run: Run, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_pyrage(monkeypatch)
    ran = run("image", "--serial", SERIAL, "--json")
    assert (ran.code, "escrow" in ran.json) == (0, False)
    assert not (state / "escrow").exists()
    assert not any("escrow" in row["extra"] for row in rows(run))
    assert run("doctor").code == 0


# Keys.


def ssh_key(kind: str) -> tuple[str, Any]:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", f"key-{kind}"], check=True)
    public = Path(f"key-{kind}.pub").read_text().strip()
    return public, pyrage.ssh.Identity.from_buffer(Path(f"key-{kind}").read_bytes())


@thorough
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_each_of_several_keys_reads_it_alone_and_ssh_keys_do_too(run: Run, state: Path) -> None:
    teams = [Team(pyrage.x25519.Identity.generate()) for _ in range(2)]
    stranger = Team(pyrage.x25519.Identity.generate())
    ed25519, rsa = ssh_key("ed25519"), ssh_key("rsa")
    configure(*(team.public for team in teams), ed25519[0], rsa[0])
    assert " " in ed25519[0].partition(" ")[2]  # with its comment
    ran = run("image", "--serial", SERIAL)
    assert ran.code == 0, ran.err
    (path,) = kept(state / "escrow")
    teams += [Team(ed25519[1]), Team(rsa[1])]
    assert len({team.reads(path) for team in teams}) == 1
    with pytest.raises(pyrage.DecryptError):
        stranger.reads(path)


@pytest.mark.skipif(shutil.which("age") is None, reason="needs age")
def test_age_itself_reads_it(run: Run, state: Path) -> None:
    subprocess.run(["age-keygen", "-o", "key.txt"], check=True, capture_output=True)
    public = subprocess.run(["age-keygen", "-y", "key.txt"], check=True, capture_output=True,
                            text=True).stdout.strip()  # fmt: skip
    configure(public)
    assert run("image", "--serial", SERIAL).code == 0
    (path,) = kept(state / "escrow")
    assert path.read_bytes().startswith(b"age-encryption.org/v1\n")
    read = subprocess.run(["age", "-d", "-i", "key.txt", path], check=True, capture_output=True)
    password = device_conf.parse(read.stdout).password.reveal()
    assert Sandbox(state / "sandbox").accounts.login(EMAIL, password)


def test_a_file_that_was_changed_or_cut_is_no_credential(run: Run, team: Team, state: Path) -> None:
    assert run("image", "--serial", SERIAL).code == 0
    (path,) = kept(state / "escrow")
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(pyrage.DecryptError):
            team.reads(path)


BROKEN = [
    "age1" + "q" * 58,
    "age1your0own0public0key",
    "ssh-ed25519 AAAAnothing somebody@example.com",
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQA= panics@example.com",
]


@pytest.mark.parametrize("broken", one_of(BROKEN))
def test_a_broken_key_is_named_before_any_account_is_touched(
    run: Run, team: Team, state: Path, api_url: str, accounts: Accounts, rootfs_dir: Path,
    broken: str,
) -> None:  # fmt: skip
    assert run("base", "--out", "base.img").code == 0
    assert run("stamp", "base.img", "--serial", SERIAL, "--api-url", api_url, "--out",
               "one.img").code == 0  # fmt: skip
    (before,) = kept(state / "escrow")
    configure(team.public, broken)
    one = ("--serial", SERIAL, "--api-url", api_url, "--json")
    for ran in (
        run("provision", *one, "--rootfs-dir", rootfs_dir),
        run("stamp", "base.img", *one),
        run("rotate", *one, "--device-conf", "new.conf"),
        run("image", "--serial", SERIAL, "--json"),
    ):
        assert (ran.code, ran.json["account"], ran.json["step"]) == (3, None, "preflight"), ran.err
        assert f"'{broken}' is not a public key" in ran.json["error"]
        assert "age-keygen -y" in ran.json["hint"]
    fleet = run("fleet", SERIAL, "--image", "base.img", "--out", "images", *one[2:])
    assert (fleet.code, fleet.json["records"][0]["account"]) == (10, None)
    assert broken in run("doctor").err
    assert accounts.login(EMAIL, team.password(before))
    assert kept(state / "escrow") == [before]
    assert not (rootfs_dir / DEVICE_CONF).exists()
    assert not Path("new.conf").exists()


@pytest.mark.parametrize(
    "text",
    [
        '["KEY"]',
        '"KEY"',
        '["KEY", 5]',
        '["age1qqq", "KEY"]',
        '["age1qqq\\nKEY"]',
        '["ssh-ed25519 AAAA x\\nKEY"]',
        '[["KEY"]]',
        "[KEY]",
        '{ key = "KEY" }',
    ],
)
def test_a_private_key_in_its_place_is_refused_and_never_shown(
    run: Run, state: Path, text: str
) -> None:
    Path("imagebuild.toml").write_text(f"[escrow]\nrecipients = {text.replace('KEY', PRIVATE)}\n")
    for argv in (["image", "--serial", SERIAL, "--json"], ["doctor"]):
        ran = run(*argv)
        assert ran.code == 2, ran.err
        if text != "[KEY]":  # that is no TOML
            assert "[escrow] recipients in imagebuild.toml: a private key stands there" in ran.err
            assert "hint: remove it from this host, and treat it as seen" in ran.err
        assert PRIVATE.lower() not in (ran.out + ran.err).lower()
        assert PRIVATE[20:40].lower() not in (ran.out + ran.err).lower()
    assert not state.exists()


def test_a_private_key_that_a_program_gives_is_not_shown_either(
    make_build: Callable[..., Build], rootfs_dir: Path
) -> None:
    build = make_build(rootfs_dir, escrow__recipients=[PRIVATE])
    (finding,) = escrow.findings(build)
    assert "(not shown) is not a public key" in finding.message
    assert PRIVATE not in finding.message + finding.hint


def test_a_variable_names_keys_as_a_shell_writes_words() -> None:
    team = Team(pyrage.x25519.Identity.generate())
    ssh = "ssh-ed25519 AAAA me@example.com"
    place = "AZAION_IMAGEBUILD_ESCROW_RECIPIENTS"
    assert load({}, {place: f"{team.public} '{ssh}'"}, None).escrow.recipients == [team.public, ssh]
    with pytest.raises(UsageError, match="what stands there is not a list of public keys"):
        load({}, {place: f"{team.public} {ssh}"}, None)
    with pytest.raises(UsageError) as caught:
        load({}, {place: PRIVATE}, None)
    assert PRIVATE not in caught.value.message + caught.value.hint


# What can be wrong with the host.


def hide_pyrage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pyrage be not installed."""
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.partition(".")[0] == "pyrage":
            raise ModuleNotFoundError("No module named 'pyrage'", name="pyrage")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)


def test_without_pyrage_nothing_is_begun_and_the_hint_installs_it(
    run: Run, team: Team, api_url: str, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.create(EMAIL, "old", "CompanionPC")
    hide_pyrage(monkeypatch)
    one = ("--serial", SERIAL, "--api-url", api_url, "--json")
    for ran in (
        run("image", "--serial", SERIAL, "--json"),
        run("rotate", *one, "--device-conf", "new.conf"),
    ):
        pip = f"{shlex.quote(sys.executable)} -m pip"
        assert (ran.code, ran.json["hint"]) == (3, f"{pip} install 'azaion-imagebuild[escrow]'")
    assert "pyrage is not installed" in run("doctor").err
    assert accounts.login(EMAIL, "old")


def as_a_file(folder: Path) -> None:
    folder.write_text("")


def as_a_link(folder: Path) -> None:
    target = folder.parent / "elsewhere"
    target.mkdir(mode=0o700)
    folder.symlink_to(target)


def as_a_link_to_nothing(folder: Path) -> None:
    folder.symlink_to("nothing")


def for_everybody(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def of_another_user(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)


def below_a_file(folder: Path) -> None:
    folder.parent.rmdir()
    folder.parent.write_text("")


WRONG = [as_a_file, as_a_link, as_a_link_to_nothing, for_everybody, below_a_file]
WRONG += [of_another_user] if os.geteuid() == 0 else []


@pytest.mark.parametrize("wrong", one_of(WRONG), ids=lambda each: each.__name__)
@pytest.mark.parametrize("inner", one_of(["", SERIAL]), ids=["the-folder", "a-devices-folder"])
def test_a_folder_that_is_not_safe_is_refused_before_the_account_is_touched(
    run: Run, team: Team, api_url: str, accounts: Accounts, tmp_path: Path,
    wrong: Callable[[Path], None], inner: str,
) -> None:  # fmt: skip
    accounts.create(EMAIL, "old", "CompanionPC")
    configure(team.public, more='dir = "kept/keys"\n')
    folder = Path("kept/keys", inner)
    folder.parent.mkdir(parents=True, mode=0o700)
    wrong(folder)
    ran = run("rotate", "--serial", SERIAL, "--api-url", api_url, "--device-conf", "new.conf",
              "--json")  # fmt: skip
    assert (ran.code, ran.json["step"]) == (3, "preflight"), ran.err
    at = folder.absolute().parent if inner and wrong is below_a_file else folder.absolute()
    assert f"the escrow cannot be written into {at}: " in ran.json["error"]
    if wrong in (for_everybody, of_another_user):
        fix = (
            f"chmod o-w {at}" if wrong is for_everybody else f"sudo chown {getpass.getuser()} {at}"
        )
        assert f"(fix it: {fix})" in ran.json["error"]
    assert accounts.login(EMAIL, "old")
    assert not Path("new.conf").exists()
    assert not list(Path("kept").rglob("*.age"))


def test_a_full_disk_is_found_before_the_account_is_touched(
    run: Run, team: Team, api_url: str, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.create(EMAIL, "old", "CompanionPC")
    real = os.statvfs
    for full in ({"f_bavail": 3}, {"f_files": 100, "f_favail": 0}):

        def seen(path: Any, full: dict[str, int] = full) -> Any:
            names = [name for name in dir(os.statvfs_result) if name.startswith("f_")]
            found = real(path)
            values = {name: getattr(found, name) for name in names} | full
            return type("Found", (), values)

        monkeypatch.setattr(os, "statvfs", seen)
        ran = run("rotate", "--serial", SERIAL, "--api-url", api_url, "--device-conf", "new.conf")
        assert (ran.code, "No space left on device" in ran.err) == (3, True)
    assert accounts.login(EMAIL, "old")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_this_user_may_not_write_is_found_before_the_account_is_touched(
    run: Run, team: Team, api_url: str, accounts: Accounts
) -> None:
    accounts.create(EMAIL, "old", "CompanionPC")
    configure(team.public, more='dir = "kept/keys"\n')
    Path("kept").mkdir(mode=0o500)
    ran = run("rotate", "--serial", SERIAL, "--api-url", api_url, "--device-conf", "new.conf")
    assert (ran.code, "this user may not write into" in ran.err) == (3, True)
    assert accounts.login(EMAIL, "old")


@contextlib.contextmanager
def broken_disk(serial: str) -> Iterator[None]:
    """Let no file of a serial be written to the escrow."""
    real = escrow._write

    def write(build: Build, name: str, data: bytes) -> None:
        if build.serial == serial:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(build, name, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(escrow, "_write", write)
        yield


def test_a_disk_that_fails_after_all_ends_the_attempt_and_the_same_again_ends_well(
    run: Run, team: Team, state: Path, api_url: str, accounts: Accounts, rootfs_dir: Path
) -> None:
    """No device gets a password that is not in escrow; one that has an old one can log in."""
    accounts.create(EMAIL, "old", "CompanionPC")
    one = ("--serial", SERIAL, "--api-url", api_url, "--json")
    for argv in (
        ("rotate", *one, "--device-conf", "new.conf"),
        ("provision", *one, "--rootfs-dir", rootfs_dir),
        ("image", "--serial", SERIAL, "--json"),
    ):
        before = kept(state / "escrow")
        with broken_disk(SERIAL):
            ran = run(*argv)
        assert (ran.code, ran.json["step"]) == (4, "provision_identity"), ran.err
        assert "the new one is not in escrow" in ran.json["error"]
        assert "Input/output error" in ran.json["error"]
        assert "run the same command again" in ran.json["hint"]
        assert "escrow" not in ran.json
        assert accounts.login(EMAIL, "old") is (argv[0] == "rotate")
        assert ("keeps its old password" in ran.json["error"]) is (argv[0] != "image")
        assert not Path("new.conf").exists()
        assert not (rootfs_dir / DEVICE_CONF).exists()
        assert kept(state / "escrow") == before
        again = run(*argv)
        assert again.code == 0, again.err
        assert team.reads(Path(again.json["escrow"]))
        Path("new.conf").unlink(missing_ok=True)
        (rootfs_dir / DEVICE_CONF).unlink(missing_ok=True)


def test_one_of_many_that_is_not_in_escrow_is_done_by_the_same_command_again(
    run: Run, team: Team, api_url: str, accounts: Accounts, tmp_path: Path
) -> None:
    assert run("base", "--out", "base.img").code == 0
    fleet = ("fleet", "AZJN-0001..AZJN-0003", "--image", "base.img", "--out", "images",
             "--api-url", api_url, "--json")  # fmt: skip
    with broken_disk("AZJN-0002"):
        ran = run(*fleet)
    assert (ran.code, ran.json["done"], ran.json["failed"]) == (10, 2, 1)
    ran = run(*fleet)
    assert (ran.code, ran.json["done"], ran.json["done_before"]) == (0, 1, 2)
    with Ledger(f"sqlite:///{tmp_path / 'state/azaion-imagebuild' / FILE}") as ledger:
        aged = {each.serial: each.since for each in ledger.credentials(sandbox=False)}
    rotate = ("rotate", "--all-older-than", "0d", "--out", "new", "--api-url", api_url, "--json")
    with broken_disk("AZJN-0002"):
        ran = run(*rotate)
    assert (ran.code, ran.json["done"], ran.json["failed"]) == (10, 2, 1)
    assert not Path("new/AZJN-0002.conf").exists()
    with Ledger(f"sqlite:///{tmp_path / 'state/azaion-imagebuild' / FILE}") as ledger:
        since = {each.serial: each.since for each in ledger.credentials(sandbox=False)}
    assert [serial for serial in since if since[serial] == aged[serial]] == ["AZJN-0002"]
    again = run(*rotate)
    assert again.code == 0, again.err
    assert again.json["records"][0]["serial"] == "AZJN-0002"  # the oldest one is first
    assert accounts.login(
        "azaion-jetson-0002@azaion.com", team.password(Path(again.json["records"][0]["escrow"]))
    )


def test_of_a_file_that_does_not_fit_nothing_is_left(
    make_build: Callable[..., Build], rootfs_dir: Path, team: Team, tmp_path: Path
) -> None:
    build = make_build(
        rootfs_dir, escrow__recipients=[team.public], escrow__dir=tmp_path / "escrow"
    )
    identity = DeviceIdentity(
        serial=SERIAL, email=EMAIL, password=Secret("0" * 32), enrolled="created"
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(ProvisioningError, match="File too large"):
            escrow.keep(build, identity)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert kept(tmp_path / "escrow") == []
    path = escrow.keep(build, identity)
    assert (kept(tmp_path / "escrow"), team.password(path)) == ([path], "0" * 32)


def test_no_umask_opens_or_closes_a_file(
    make_build: Callable[..., Build], rootfs_dir: Path, team: Team, tmp_path: Path
) -> None:
    identity = DeviceIdentity(
        serial=SERIAL, email=EMAIL, password=Secret("0" * 32), enrolled="created"
    )
    for mask in (0, 0o277):
        build = make_build(rootfs_dir, escrow__recipients=[team.public],
                           escrow__dir=tmp_path / f"escrow-{mask}")  # fmt: skip
        old = os.umask(mask)
        try:
            path = escrow.keep(build, identity)
        finally:
            os.umask(old)
        modes = [each.stat().st_mode & 0o777 for each in (path, path.parent, path.parent.parent)]
        assert modes == [0o600, 0o700, 0o700]


def test_an_interrupt_meanwhile_waits_until_the_password_is_kept_and_written(
    team: Team, state: Path, api_url: str, accounts: Accounts
) -> None:
    accounts.create(EMAIL, "old", "CompanionPC")
    Path("site").mkdir()
    Path("site/stop.py").write_text(
        "import os, signal\n"
        "from azaion_imagebuild import hookimpl\n"
        "@hookimpl\n"
        "def post_provision(build):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    configure(team.public, more='[hooks]\ndirs = ["site"]\n')
    done = subprocess.run(
        [*TOOL, "rotate", "--serial", SERIAL, "--api-url", api_url, "--device-conf", "new.conf"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # the device is done: nothing must be repeated
    text = Path("new.conf").read_text()
    assert team.reads(*kept(state / "escrow")) == text
    assert accounts.login(EMAIL, device_conf.parse(text.encode()).password.reveal())
