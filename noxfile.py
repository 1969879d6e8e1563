"""The tests on every supported Python that is installed; the documentation's site."""

import os
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
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
