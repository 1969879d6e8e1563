"""What starts fast: `provision` and `--help` import no heavy library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from world import SERIAL, Script

SHOWN = """
import json, sys
from azaion_imagebuild.cli.main import run

try:
    code = run(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
sys.exit(code)
"""
HEAVY = frozenset(
    (
        "alembic",
        "jinja2",
        "opentelemetry",
        "procrastinate",
        "psycopg",
        "pyrage",
        "sqlalchemy",
    )
)


def imported(*argv: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", SHOWN, *argv], capture_output=True, text=True,
                          check=True)  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_provision_imports_no_heavy_library(rootfs_dir: Path, scripted: Script) -> None:
    scripted.answer(201)
    found = imported("provision", "--serial", SERIAL, "--api-url", scripted.url,
                     "--rootfs-dir", str(rootfs_dir))  # fmt: skip
    assert "requests" in found
    assert found & HEAVY == set()


@pytest.mark.parametrize("argv", [("--help",), ("image", "--help"), ("--version",)])
def test_help_imports_no_heavy_library_and_speaks_no_http(argv: tuple[str, ...]) -> None:
    assert imported(*argv) & {*HEAVY, "backports", "compression", "requests", "sqlite3"} == set()
