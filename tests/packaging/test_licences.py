"""The licences of the dependencies, and what the audit of a release says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import licences
import pytest
from audit import verdict

import azaion_imagebuild

ROOT = Path(azaion_imagebuild.__file__).parent.parent
PAGE = ROOT / "docs/reference/licences.md"
FAMILY = re.compile(r"Apache|BSD|LGPL|MIT|MPL|PSF")


def family(licence: str) -> str:
    """Return the licence without its wording, which changes with a package's versions."""
    found = FAMILY.search(licence.replace("Mozilla", "MPL"))
    return found[0] if found else licence


def test_every_dependency_of_ours_is_on_the_page_with_its_licence() -> None:
    listed = {
        row[0]: row[1] for row in re.findall(r"^\| ([\w-]+) \| (.+?) \|", PAGE.read_text(), re.M)
    }
    installed = licences.by_name(distributions())
    for extra in licences.EXTRAS:
        for name in licences.direct(installed, extra):
            assert family(listed[name]) == family(licences.licence_of(installed[name])), name


def test_nothing_that_we_import_is_gpl_or_agpl() -> None:
    installed = licences.by_name(distributions())
    found = {name: licences.licence_of(installed[name]) for name in licences.reasons(installed)}
    assert len(found) > 30
    assert {name: each for name, each in found.items() if licences.is_forbidden(each)} == {}


@pytest.mark.parametrize(
    ("licence", "forbidden"),
    [
        ("GPL-3.0-or-later", True),
        ("GNU General Public License v2 (GPLv2)", True),
        ("GNU Affero General Public License v3", True),
        ("UNKNOWN", True),
        ("LGPL-3.0-only", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Apache-2.0 OR BSD-2-Clause", False),
    ],
)
def test_a_gpl_is_told_from_an_lgpl(licence: str, forbidden: bool) -> None:
    assert licences.is_forbidden(licence) is forbidden


def test_an_audit_says_what_it_found_what_it_did_not_ask_and_that_it_was_not_done() -> None:
    fine = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1"}]}
    skipped = {"name": "c", "skip_reason": "not found"}
    assert verdict([fine, bad]) == ("audit: FOUND: b 2: CVE-1", 1)
    assert verdict([fine, skipped]) == ("audit: no advisory for 1 packages; not known there: c", 0)
    assert verdict([skipped])[0].startswith("audit: NOT DONE: ")


@pytest.mark.parametrize(
    ("stderr", "code", "said"),
    [
        ("requests.exceptions.ConnectionError: Max retries exceeded", 0, "NOT DONE"),
        ("ERROR:_cli:Could not connect to the feed\nERROR:_cli:Tip: try another", 0, "NOT DONE"),
        ("WARNING: hash them\nERROR:_cli:invalid specifier: x\n   ^", 1, "invalid specifier: x\n"),
        ("Traceback\nKeyError: 'vulns'\n\n", 1, "KeyError: 'vulns'\n"),
        ("", 1, "nothing"),
    ],
)
def test_an_audit_that_fails_is_one_line_and_passes_only_without_a_network(
    stderr: str, code: int, said: str, tmp_path: Path
) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{stderr}\nEND\nexit 1\n")
    tool.chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / "tools/audit.py", "none.txt"], check=False, text=True,
        capture_output=True, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (code, "", 1)
    assert said in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["none.txt"], "error: pip-audit is not on PATH"), ([], "error: give it one file")],
)
def test_an_audit_that_cannot_start_says_why(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/audit.py", *arguments], check=False, text=True,
        capture_output=True, env=os.environ | {"PATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert "\nhint: " in done.stderr
