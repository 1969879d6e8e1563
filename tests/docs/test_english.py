"""Plain English: idioms that read like a translation are in no text that a person reads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IDIOMS = re.compile(
    r"ends well|\banew\b|_anew\b|\bmend\b|look whether|(?<!there )(?<!per_hour )\bis none\b"
    r"|\b(?:it|that|which|one) is no [a-z]|knows no |stands? in\b|stands? beside|\bbut for\b"
    r"|what is so\b|has no word of|\bby itself\b|held against|\bWhom\b|None: there is none"
)
STORED = re.compile(r'GIVEN_BACK = "given back"')
HERE = "tests/docs/test_english.py"
READ = (".py", ".md", ".toml", ".sh", ".html", ".yml", ".1", "")


def texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [
        Path(name)
        for name in listed.stdout.split("\0")
        if name and name != HERE and Path(name).suffix in READ and (ROOT / name).is_file()
    ]


def test_no_text_has_an_idiom_that_reads_like_a_translation() -> None:
    found = []
    for name in texts():
        try:
            lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            if "given back" in line and not STORED.search(line):
                found.append(f"{name}:{number}: given back")
            if idiom := IDIOMS.search(line):
                found.append(f"{name}:{number}: {idiom[0]}")
    assert found == []
