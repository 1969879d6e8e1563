"""The Debian package: what is in it, how it is made, and its life in a clean root.

The clean root is used on request only, as it needs root and a package index (RELEASING.md says how
to make it): ``AZAION_CLEAN_ROOT=/srv/bookworm.tar pytest tests/packaging/test_deb.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import make_deb
import pytest
from thorough import thorough

import azaion_imagebuild
from azaion_imagebuild.l4t.recovery_ids import SUPPORTED

ROOT = Path(azaion_imagebuild.__file__).parent.parent
VERSION = azaion_imagebuild.__version__
SCRIPTS = ("postinst", "prerm", "postrm")
CLEAN_ROOT = os.environ.get("AZAION_CLEAN_ROOT", "")
STATES = ("./var/lib/azaion-imagebuild", "./root/.local")
VOLATILE = ("./proc", "./dev", "./run", "./tmp", "./var/cache", "./var/log", "./var/lib/dpkg")

needs_dpkg = pytest.mark.skipif(
    not shutil.which("dpkg-deb") or not Path(make_deb.PYTHON).is_file(),
    reason="needs dpkg-deb and the system's Python",
)


def run(*argv: object, **environ: str) -> str:
    done = subprocess.run([str(each) for each in argv], cwd=ROOT, env=os.environ | environ,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made(out: Path, **environ: str) -> Path:
    """Return the package, made with the wheel of this checkout."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out)
    (wheel,) = out.glob("*.whl")
    tool = (sys.executable, ROOT / "tools/make_deb.py", "--wheel", wheel, "--out", out)
    return Path(run(*tool, **environ).strip())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package without dependencies, which pip would fetch."""
    return made(tmp_path_factory.mktemp("deb"), PIP_NO_DEPS="1", PIP_NO_INDEX="1")


@pytest.fixture(scope="module")
def tree(package: Path) -> Path:
    """The package's files."""
    run("dpkg-deb", "-x", package, package.parent / "tree")
    return package.parent / "tree"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_maintainer_script_is_one_that_every_sh_reads(name: str) -> None:
    script = ROOT / "debian" / name
    assert script.read_text().startswith("#!/bin/sh\n")
    run("sh", "-n", script)


def test_the_example_rule_names_every_device_that_can_be_flashed() -> None:
    text = "\n".join(make_deb.udev_rules())
    assert re.findall(r'ATTR\{idProduct\}=="(\w{4})"', text) == list(SUPPORTED)
    assert text.count('ATTR{idVendor}=="0955"') == len(SUPPORTED)


def test_without_dpkg_deb_it_says_where_a_package_can_be_made(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/make_deb.py", "--out", tmp_path],
                          env=os.environ | {"PATH": str(tmp_path)}, check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: dpkg-deb is not installed",
        "hint: make the package on Debian or Ubuntu",
    ]


def test_a_wheel_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = tmp_path / "azaion_imagebuild-0.0.1-py3-none-any.whl"
    wheel.touch()
    monkeypatch.setattr(make_deb, "check_host", lambda: None)
    monkeypatch.setattr(sys, "argv", ["make_deb.py", "--wheel", str(wheel)])
    with pytest.raises(SystemExit, match="2"):
        make_deb.main()
    assert f"{wheel.name} is not of this checkout's version, {VERSION}" in capsys.readouterr().err
    make_deb.check_wheel(wheel.rename(tmp_path / f"azaion_imagebuild-{VERSION}-py3-none-any.whl"))


def test_a_program_that_fails_says_why_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        make_deb.output("sh", "-c", "echo no space >&2; exit 3")
    assert capfd.readouterr().err.splitlines() == [
        "no space",
        "error: exit code 3 of sh -c 'echo no space >&2; exit 3'",
        "hint: what it says is above",
    ]


class Host:
    """A host of stubs on which dpkg's scripts run; systemd runs, and the page's unit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stopped = root / "run/azaion-imagebuild.stopped"
        for folder in ("bin", "run/systemd/system", "var/lib"):
            (root / folder).mkdir(parents=True)
        for name in ("systemctl", "getent", "useradd", "userdel", "groupdel", "install", "chown"):
            (root / "bin" / name).write_text(STUB)
            (root / "bin" / name).chmod(0o755)
        self.units("azaion-imagebuild-page.service")

    def units(self, *names: str) -> None:
        """Set what ``systemctl list-units`` shows."""
        (self.root / "units").write_text("".join(f"{name} loaded\n" for name in names))

    def dpkg(self, name: str, *argv: str) -> list[str]:
        """Run a script as dpkg would, and return what it calls: program and subcommand."""
        (self.root / "calls").write_text("")
        text = (ROOT / "debian" / name).read_text()
        script = self.root / name
        script.write_text(re.sub(r"(?<![\w.])/(?=(?:run|var|etc|opt)\b)", f"{self.root}/", text))
        run("sh", script, *argv, PATH=f"{self.root}/bin:{os.environ['PATH']}", HERE=str(self.root))
        return (self.root / "calls").read_text().splitlines()


STUB = """#!/bin/sh
echo "${0##*/} $*" >> "$HERE/calls"
case "$1" in list-units) cat "$HERE/units" ;; esac
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_services_that_a_failed_upgrade_stopped_run_again(host: Host) -> None:
    listed, _ = host.dpkg("prerm", "upgrade", "2")
    assert "--state=active,activating " in listed
    host.units()
    host.dpkg("prerm", "failed-upgrade", "2")
    assert host.dpkg("postinst", "abort-upgrade", "2") == [
        "systemctl daemon-reload",
        "systemctl start --no-block azaion-imagebuild-page.service",
    ]
    assert not host.stopped.exists()


def test_services_stopped_twice_start_once_and_a_removal_forgets_them(host: Host) -> None:
    page, station = "azaion-imagebuild-page.service", "azaion-imagebuild-station@S1.service"
    host.units(page, station)
    host.dpkg("prerm", "upgrade", "2")
    host.units(station)
    host.dpkg("prerm", "upgrade", "2")
    calls = host.dpkg("postinst", "configure", "1")
    assert calls[-1] == f"systemctl start --no-block {page} {station}"
    host.dpkg("prerm", "remove")
    assert not host.stopped.exists()


def test_who_waits_for_devices_in_progress_is_told(host: Host) -> None:
    script = host.root / "prerm"
    host.dpkg("prerm", "upgrade", "2")
    environ = {"PATH": f"{host.root}/bin:{os.environ['PATH']}", "HERE": str(host.root)}
    assert "devices in progress are finished" in run("sh", script, "remove", **environ)
    host.units()
    assert run("sh", script, "remove", **environ) == ""


def test_a_removal_keeps_a_folder_that_others_use(host: Host) -> None:
    host.dpkg("postrm", "remove")
    assert (host.root / "opt").is_dir()
    assert list((host.root / "opt").iterdir()) == []


def test_a_purge_keeps_the_user_and_whose_the_state_is(host: Host) -> None:
    for name in ("azaion-imagebuild", "azaion-imagebuild-root"):
        (host.root / "var/lib" / name / "logs").mkdir(parents=True)
    assert host.dpkg("postrm", "purge") == ["systemctl daemon-reload"]
    (host.root / "var/lib/azaion-imagebuild/logs").rmdir()
    host.dpkg("postrm", "purge")
    assert [each.name for each in (host.root / "var/lib").iterdir()] == ["azaion-imagebuild-root"]


def test_no_unit_closes_the_devices_that_root_flashes_through() -> None:
    """Up to systemd 252 ``ProtectClock`` allows the clock's device and denies all others."""
    text = (ROOT / "debian/azaion-imagebuild-station@.service").read_text()
    assert re.findall("^(?:ProtectClock|Private(?:Devices|Users)|Device.*)=", text, re.M) == []


def test_root_writes_to_no_folder_of_the_services_user() -> None:
    unit = (ROOT / "debian/azaion-imagebuild-station@.service").read_text()
    drop_in = (ROOT / "debian/station-as-root.conf").read_text()
    assert "User=root\nStateDirectory=azaion-imagebuild-root\n" in re.sub("#.*\n", "", drop_in)
    assert "StateDirectoryMode=0700\n" in drop_in
    state = "=/var/lib/azaion-imagebuild"
    for key in re.findall(f"^(.*){state}", unit, re.M):
        assert f"\n{key}{state}-root\n" in drop_in, key


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_units_are_ones_that_systemd_takes(tmp_path: Path) -> None:
    drop_in = tmp_path / "azaion-imagebuild-station@.service.d/root.conf"
    drop_in.parent.mkdir()
    shutil.copy(ROOT / "debian/station-as-root.conf", drop_in)
    for unit in (ROOT / "debian").glob("*.service"):
        text = unit.read_text()
        assert "User=azaion-imagebuild\n" in text
        assert "NoNewPrivileges=yes\n" in text
        here = tmp_path / unit.name.replace("@", "@S1")
        here.write_text(text.replace("/usr/bin/azaion-imagebuild", "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", here],
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


@needs_dpkg
@thorough
def test_the_package_holds_what_a_system_looks_for(package: Path, tree: Path) -> None:
    fields = run("dpkg-deb", "-f", package)
    major, minor = make_deb.python_version()
    assert f"Version: {VERSION}\n" in fields
    assert f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})" in fields
    assert re.search(r"libc6 \(>= 2\.\d+\), e2fsprogs, passwd$", fields, re.MULTILINE)
    for path in (
        "usr/bin/azaion-imagebuild", "usr/share/man/man1/azaion-imagebuild.1.gz",
        "usr/share/bash-completion/completions/azaion-imagebuild",
        "usr/share/zsh/vendor-completions/_azaion-imagebuild",
        "usr/share/fish/vendor_completions.d/azaion-imagebuild.fish",
        "usr/share/doc/azaion-imagebuild/copyright",
        "usr/lib/systemd/system/azaion-imagebuild-page.service",
        "usr/lib/systemd/system/azaion-imagebuild-station@.service",
    ):  # fmt: skip
        assert os.path.lexists(tree / path), path
    assert not (tree / "etc/udev").exists()
    assert (tree / make_deb.CONFFILES[0]).stat().st_mode & 0o7777 == 0o640
    assert {path.name for path in (tree / make_deb.OPT / "bin").iterdir()} == {
        "azaion-imagebuild", "python", "python3", f"python3.{minor}",
    }  # fmt: skip


@needs_dpkg
@thorough
def test_the_package_tells_nothing_of_where_it_was_made(tree: Path) -> None:
    for path in (tree / make_deb.OPT).rglob("*"):
        if path.is_file():
            assert b"azaion-deb-" not in path.read_bytes(), path
    modules = list((tree / make_deb.OPT).rglob("*/pipeline/*.py"))
    assert modules
    for path in modules:  # otherwise root's first run would write it, and removal would leave it
        assert list((path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc")), path


@needs_dpkg
@thorough
def test_two_packages_are_equal_byte_for_byte(package: Path, tmp_path: Path) -> None:
    again = made(tmp_path, PIP_NO_DEPS="1", PIP_NO_INDEX="1", TZ="Asia/Tokyo")
    assert again.read_bytes() == package.read_bytes()


LIFE = r"""
set -eu
user=azaion-imagebuild
state=/var/lib/azaion-imagebuild
service="setpriv --reuid=$user --regid=$user --clear-groups env AZAION_IMAGEBUILD_STATE_DIR=$state"
dpkg -i /tmp/it.deb
systemctl is-enabled azaion-imagebuild-page azaion-imagebuild-station@S1 > /tmp/enabled || true
azaion-imagebuild image --serial AZJN-0042 --json > /tmp/image.json
azaion-imagebuild fleet AZJN-0001..AZJN-0003 --out /tmp/images --json > /tmp/fleet.json
man azaion-imagebuild | grep -q 'give every NVIDIA Jetson'
bash -c '. /usr/share/bash-completion/bash_completion
    _completion_loader azaion-imagebuild; complete -p azaion-imagebuild' > /tmp/bash
HOME=/tmp fish -c 'complete --do-complete "azaion-imagebuild fle"' > /tmp/fish
zsh -c 'autoload -Uz compinit; compinit -D; echo $_comps[azaion-imagebuild]' > /tmp/zsh
cd $state
settings=/etc/azaion-imagebuild/imagebuild.toml
$service azaion-imagebuild page --config $settings --listen 127.0.0.1:0 > /tmp/page &
page=$!
until grep -q key= /tmp/page; do sleep 0.1; kill -0 $page; done
/opt/azaion-imagebuild/bin/python -I - < /tmp/open.py
kill $page; wait $page
$service azaion-imagebuild image --serial AZJN-0077 --json > /dev/null
mkdir -p /run/systemd/system /tmp/stub
cp /tmp/systemctl /tmp/stub
PATH=/tmp/stub:$PATH dpkg -i /tmp/it.deb
rm -r /run/systemd/system
systemctl enable azaion-imagebuild-page azaion-imagebuild-station@S1
dpkg -P azaion-imagebuild > /tmp/told
"""
SYSTEMCTL = """#!/bin/sh
echo "$1 $2" >> /tmp/calls
[ "$1" != list-units ] || echo "azaion-imagebuild-page.service loaded active running page"
"""
"""Acts as a running systemd while the package is upgraded."""

OPEN = """
import re, urllib.request
link = re.search("http\\\\S+", open("/tmp/page").read())[0]
agent = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
answer = agent.open(link)
assert answer.status == 200 and b"<html" in answer.read(), answer
"""


@needs_dpkg
@thorough
@pytest.mark.skipif(not CLEAN_ROOT, reason="AZAION_CLEAN_ROOT names no clean root")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_installed_in_a_clean_root_it_works_and_leaves_only_its_state_and_user(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    run("tar", "-C", root, "-xf", CLEAN_ROOT)
    before, users = files_of(root), (root / "etc/passwd").read_text()
    shutil.copy(made(tmp_path), root / "tmp/it.deb")
    (root / "tmp/life.sh").write_text(LIFE)
    (root / "tmp/open.py").write_text(OPEN)
    (root / "tmp/systemctl").write_text(SYSTEMCTL)
    (root / "tmp/systemctl").chmod(0o755)
    environ = "PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8"
    inside = f'mount -t proc proc "$0/proc"; exec chroot "$0" env -i {environ} sh /tmp/life.sh'
    run("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", inside, root)
    here = root / "tmp"
    assert (here / "enabled").read_text() == "disabled\ndisabled\n"
    assert json.loads((here / "image.json").read_text())["outcome"] == "done"
    assert json.loads((here / "fleet.json").read_text())["done"] == 3
    assert "_shtab_azaion_imagebuild" in (here / "bash").read_text()
    assert "fleet" in (here / "fish").read_text()
    assert (here / "zsh").read_text() == "_azaion-imagebuild\n"
    assert [line.split()[0] for line in (here / "calls").read_text().splitlines()] == [
        "list-units", "stop", "daemon-reload", "daemon-reload", "start",
    ]  # fmt: skip
    after = files_of(root)
    assert {path for path in after - before if not path.startswith(STATES)} == set()
    assert before - after == set()
    _, _, added = (root / "etc/passwd").read_text().partition(users)
    name, _, number, *_ = added.split(":")
    assert (name, added.count("\n")) == ("azaion-imagebuild", 1)
    assert "kept: /var/lib/azaion-imagebuild" in (here / "told").read_text()
    assert (root / "var/lib/azaion-imagebuild").stat().st_uid == int(number)


def files_of(root: Path) -> set[str]:
    """Return what is in a root, except what changes all the time."""
    found = run("find", root, "-xdev", "-printf", "./%P\n").splitlines()
    return {path for path in found if not path.startswith(VOLATILE)}
