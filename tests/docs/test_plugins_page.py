"""The package of docs/how-to/plugin-packages.md is built, found, and keeps its promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from thorough import thorough

import azaion_imagebuild
from azaion_imagebuild import testing
from azaion_imagebuild.testing import AdminApiConformance, FlashConformance, admin_api, fixtures

ROOT = Path(azaion_imagebuild.__file__).parent.parent
PAGE = (ROOT / "docs/how-to/plugin-packages.md").read_text()


def python(*argv: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, argv)], cwd=cwd, env=os.environ | environ,
                          capture_output=True, text=True, check=False)  # fmt: skip


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The files of the page, as they stand there."""
    folder = tmp_path / "acme"
    for name, text in re.findall(r"\*\*`([\w./-]+)`\*\*\n\n```\w+\n(.*?)```", PAGE, re.DOTALL):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@thorough
def test_the_pages_package_installs_is_found_and_keeps_its_promises(
    package: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    how = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    made = python("-m", "pip", "install", *how, "--target", site, package, cwd=package)
    assert made.returncode == 0, made.stderr
    found = python("-m", "azaion_imagebuild", "hooks", cwd=tmp_path, PYTHONPATH=str(site))
    assert found.returncode == 0, found.stderr
    rows = [line.split()[:2] for line in found.stdout.splitlines()]
    assert ["provision_identity", "acme_registry"] in rows
    assert rows.index(["flash", "acme_card"]) < rows.index(["flash", "flash"])
    tested = python("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", cwd=package,
                    PYTHONPATH=str(site))  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    passed = re.search(r"(\d+) passed", tested.stdout)
    assert passed is not None
    assert 80 < int(passed[1]) < 130, "the page says: about a hundred"


@thorough
def test_the_pages_package_is_as_ours_are(package: Path) -> None:
    lines = "--config", str(ROOT / "pyproject.toml")
    done = python(
        "-m", "ruff", "check", "--no-cache", "--ignore=S101,I", *lines, package, cwd=package
    )
    assert done.returncode == 0, done.stdout
    typed = python("-m", "mypy", "--strict", "--cache-dir", os.devnull, package / "acme_imagebuild",
                   cwd=package, MYPYPATH=str(ROOT))  # fmt: skip
    assert typed.returncode == 0, typed.stdout


def test_the_page_names_all_that_the_kit_has() -> None:
    named = set(re.findall(r"`([\w.]+)", PAGE))
    faults = {name for name, value in vars(admin_api).items() if isinstance(value, admin_api.Fault)}
    parts = {name for name in vars(fixtures) if name.startswith("sandbox_")}
    assert (
        faults | parts | {name for name in testing.__all__ if name.endswith("Conformance")} <= named
    )
    assert parts <= set(testing.__all__)
    for kit in (AdminApiConformance, FlashConformance):
        for name in ("plugin", "patience", "settings"):
            assert hasattr(kit, name) or name == "plugin"
