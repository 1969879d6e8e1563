"""The wheel and the sdist: built, installed outside the checkout, used by an ordinary user."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from thorough import thorough

import azaion_imagebuild

ROOT = Path(azaion_imagebuild.__file__).parent.parent
VERSION = azaion_imagebuild.__version__
NOBODY = 65534
OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q")
Call = Callable[..., subprocess.CompletedProcess[str]]


def run(*argv: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(each) for each in argv], cwd=cwd, env=os.environ | environ,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def metadata_of(wheel: Path) -> tuple[Message, str]:
    """Return the fields of a wheel's metadata, and its description."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        about = message_from_bytes(archive.read(name))
    return about, str(about.get_payload())


def copy_checkout(folder: Path) -> None:
    """Copy what git or an sdist has of this checkout, and what is not committed yet."""
    left_out = (".git", ".venv", ".nox", "site", "dist", "build", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*left_out), symlinks=True)


@pytest.fixture(scope="module")
def dist() -> Iterator[Path]:
    """A folder, for every user to read, with the wheel and the sdist of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        run(sys.executable, "-m", "hatchling", "build", "-d", path, cwd=ROOT)
        yield path


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return dist / f"azaion_imagebuild-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def unpacked(dist: Path) -> Path:
    """The sdist, unpacked."""
    run("tar", "-xf", dist / f"azaion_imagebuild-{VERSION}.tar.gz", cwd=dist)
    return dist / f"azaion_imagebuild-{VERSION}"


@pytest.fixture(scope="module")
def installed(dist: Path, wheel: Path) -> Path:
    """A virtual environment with the wheel; what it depends on is this environment's."""
    return environment_with(wheel, dist / "environment")


def environment_with(package: Path, environment: Path) -> Path:
    """Install a wheel, or the folder of an sdist, into a new environment."""
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python3*/site-packages")
    others = [folder for folder in sys.path if folder.endswith("-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others))
    pip = (environment / "bin/python", "-m", "pip", "install", "--ignore-installed", *OFFLINE)
    run(*pip, package, cwd=environment)
    return environment


@pytest.fixture
def as_user(installed: Path, dist: Path) -> Iterator[Call]:
    """Call the installed command as an ordinary user, in an empty folder of this user's own."""
    folder = Path(tempfile.mkdtemp(dir=dist))
    drop: tuple[str, ...] = ()
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        same = f"import os; assert os.__file__ == {os.__file__!r}"
        if subprocess.run([*drop, sys.executable, "-c", same], check=False).returncode:
            # This Python lies where root alone may look: let the user read there, and no more.
            drop += ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")

    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        environ = {"HOME": str(folder), "XDG_STATE_HOME": ""}
        command = installed / "bin/azaion-imagebuild"
        return run(*drop, command, *argv, cwd=folder, **environ)

    yield call
    shutil.rmtree(folder)


def test_the_installed_wheel_builds_proves_and_flashes_in_an_empty_folder(as_user: Call) -> None:
    built = json.loads(as_user("image", "--serial", "AZJN-0042", "--json").stdout)
    assert (built["outcome"], built["flashed"], built["smoke"]) == ("done", True, "logged in")
    assert built["device_conf"]["uid"] != 0
    listed = as_user("ledger", "list").stdout
    assert "AZJN-0042" in listed
    assert "OK" in as_user("ledger", "verify").stderr


@thorough
def test_the_installed_wheel_makes_a_fleet_and_its_report(as_user: Call) -> None:
    as_user("fleet", "AZJN-0001..AZJN-0002", "--out", "images", "--report", "report")
    as_user("verify", "images/AZJN-0002.img", "--serial", "AZJN-0002")
    bsp = Path(json.loads(as_user("sandbox", "--json").stdout)["bsp"])
    home = bsp.parents[4]
    assert "AZJN-0002" in (home / "report/report.html").read_text()
    assert {path.name for path in home.iterdir()} == {".local", "images", "report"}


def test_the_installed_command_is_not_this_checkouts(installed: Path, as_user: Call) -> None:
    rows = json.loads(as_user("hooks", "--json").stdout)
    files = {row["file"] for row in rows if row["file"] != "–"}
    assert all(file.startswith(str(installed)) for file in files), files
    assert as_user("--version").stdout == f"azaion-imagebuild {VERSION}\n"
    assert "_shtab_azaion" in as_user("completion", "bash").stdout
    for name in ("man/man1/azaion-imagebuild.1", "azaion-imagebuild/imagebuild.toml"):
        assert (installed / "share" / name).is_file()


def test_the_wheel_holds_what_it_needs_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        modes = {each.filename: each.external_attr >> 16 for each in archive.infolist()}
    tracked = [
        path.relative_to(ROOT)
        for folder in ("azaion_imagebuild", "hooks", "templates")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    for path in tracked:
        name = str(path) if path.parts[0] == "azaion_imagebuild" else f"azaion_imagebuild/{path}"
        assert name in modes, name
        assert modes[name] & 0o111 == (ROOT / path).stat().st_mode & 0o111, name
    assert any(name.endswith(".sh") and mode & 0o111 for name, mode in modes.items())
    tops = {name.partition("/")[0] for name in modes}
    about = f"azaion_imagebuild-{VERSION}"
    assert tops == {"azaion_imagebuild", f"{about}.data", f"{about}.dist-info"}


def test_the_metadata_has_no_link_that_leads_nowhere(wheel: Path) -> None:
    about, text = metadata_of(wheel)
    assert text.startswith("# azaion-imagebuild")
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", text) == []
    assert set(about.get_all("Provides-Extra", [])) >= {"all", "station", "escrow", "page", "otel"}
    assert about["Requires-Python"] == ">=3.10"


@thorough
def test_one_setting_makes_the_links_of_the_metadata_absolute(tmp_path: Path) -> None:
    source = tmp_path / "source"
    copy_checkout(source)
    project = source / "pyproject.toml"
    home = "https://git.example.com/azaion-imagebuild"
    project.write_text(
        re.sub(r'^source = ".*"', f'source = "{home}"', project.read_text(), flags=re.M)
    )
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=source)
    (built,) = tmp_path.glob("*.whl")
    about, text = metadata_of(built)
    assert f"Source, {home}" in about.get_all("Project-URL", [])
    readme = (ROOT / "README.md").read_text()
    paths = re.findall(r"\]\(([^)#]+\.(?:md|svg|png))[#)]", readme)
    assert paths
    for path in paths:
        kind = "raw" if path.endswith(("svg", "png")) else "blob"
        assert f"]({home}/{kind}/v{VERSION}/{path}" in text


@thorough
def test_two_builds_are_equal_byte_for_byte(dist: Path, tmp_path: Path) -> None:
    """Another folder, another day, another umask, another time zone."""
    source = tmp_path / "another place"
    copy_checkout(source)
    for path in source.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (978307200, 978307200))
    private = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    run(*private, sys.executable, "-m", "hatchling", "build", "-d", tmp_path, cwd=source,
        TZ="Asia/Tokyo", LC_ALL="C")  # fmt: skip
    for first in (*dist.glob("*.whl"), *dist.glob("*.tar.gz")):
        assert first.read_bytes() == (tmp_path / first.name).read_bytes(), first.name


@thorough
def test_the_sdist_builds_the_same_wheel(unpacked: Path, wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", *OFFLINE, "-w", tmp_path, unpacked, cwd=tmp_path)
    again = tmp_path / wheel.name
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, again)]
    assert digests[0] == digests[1]


@thorough
def test_the_sdist_installs_works_and_uninstalled_it_leaves_its_state_only(
    unpacked: Path, tmp_path: Path
) -> None:
    environment = environment_with(unpacked, tmp_path / "environment")
    home, command = tmp_path / "home", environment / "bin/azaion-imagebuild"
    home.mkdir()
    told = run(command, "image", "--serial", "AZJN-0042", "--json", cwd=home,
               HOME=str(home), XDG_STATE_HOME="").stdout  # fmt: skip
    assert json.loads(told)["outcome"] == "done"
    run(
        environment / "bin/python",
        "-m",
        "pip",
        "uninstall",
        "-y",
        "-q",
        "azaion-imagebuild",
        cwd=home,
    )
    assert [path for path in environment.rglob("*azaion*") if "__pycache__" not in path.parts] == []
    assert list(home.rglob("*/azaion-imagebuild")) == [home / ".local/state/azaion-imagebuild"]
    assert {path.name for path in home.iterdir()} == {".local"}


OF_ITS_FILES = (
    "test_layers.py", "test_plugins.py", "lists_the_targets", "the_workflow", "man_page",
    "every_example", "the_reference_is", "hooks_guide", "every_file_that", "tab_completes",
)  # fmt: skip
"""Tests that read what an sdist might lack: Makefile, tools, templates, docs, hooks, CI."""


@thorough
def test_the_sdists_own_tests_run(unpacked: Path) -> None:
    """All can be collected, and those that look at the sdist's files pass."""
    path = {"PYTHONPATH": str(unpacked)}
    here = f"import azaion_imagebuild as it; assert it.__file__.startswith({str(unpacked)!r})"
    run(sys.executable, "-c", here, cwd=unpacked, **path)
    tests = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    done = run(*tests, "-k", " or ".join(OF_ITS_FILES), cwd=unpacked, **path)
    passed = re.search(r"(\d+) passed.* (\d+) deselected", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) > 40
    assert int(passed[2]) > 1000
