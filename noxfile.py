"""The tests on every supported Python that is installed; the documentation's site; a release."""

import json
import os
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "docs"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
QUICK = ["-m", "not thorough"]  # what make test runs: enough between the oldest and the newest

if shutil.which("pyenv"):  # its shims answer only for the versions that are chosen
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    chosen = [found.name for each in PYTHONS for found in sorted(versions.glob(f"{each}.*"))[-1:]]
    os.environ["PYENV_VERSION"] = ":".join(chosen)
INSTALLED = [version for version in PYTHONS if shutil.which(f"python{version}")]


@nox.session(python=INSTALLED)
def tests(session: nox.Session) -> None:
    """Install the package and run its tests: all of them on the oldest and the newest Python."""
    session.install("-e", ".[dev]")
    chosen = [] if session.python in (INSTALLED[0], INSTALLED[-1]) else QUICK
    session.run("pytest", "-n", "auto", "--dist", "worksteal", *chosen, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site as its readers get it, and hold it to what it promises."""
    session.install("-e", ".[dev,docs]")  # dev: what conftest.py imports
    session.run("pytest", "tests/docs/test_site.py", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """Build what is published into dist/, with its SBOM, and check it (RELEASING.md)."""
    session.install(
        "-e", ".[all,testing]", "hatchling", "cyclonedx-bom>=7", "pip-audit>=2.10", "twine>=6.1"
    )
    shutil.rmtree("dist", ignore_errors=True)
    session.run("hatchling", "build", "-d", "dist")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    session.run("python", "tools/licences.py", silent=True)
    version, product, pip = installed_wheel(session)
    frozen = session.run(*pip, "freeze", "--exclude", "azaion-imagebuild", silent=True)
    Path("dist/requirements.txt").write_text(str(frozen))
    session.run("cyclonedx-py", "environment", "--spec-version=1.6", "--output-reproducible",
                "--pyproject=pyproject.toml", "--output-file=dist/sbom.cdx.json",
                f"{product}/bin/python")  # fmt: skip
    sbom = json.loads(Path("dist/sbom.cdx.json").read_text())
    sbom["metadata"]["component"]["version"] = version  # pyproject.toml calls it dynamic
    Path("dist/sbom.cdx.json").write_text(json.dumps(sbom, indent=1, sort_keys=True) + "\n")
    session.run("python", "tools/audit.py", "dist/requirements.txt")


def installed_wheel(session: nox.Session) -> tuple[str, Path, tuple[str, ...]]:
    """Return the version, an environment with what a user installs only, and the pip for it."""
    product = Path(session.create_tmp(), "product")
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(product))
    pip = ("python", "-m", "pip", "--python", str(product))
    (wheel,) = Path("dist").glob("*.whl")
    session.run(*pip, "install", "--quiet", f"{wheel}[all]")
    return wheel.name.split("-")[1], product, pip
