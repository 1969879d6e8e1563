"""Calls make as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import azaion_imagebuild

ROOT = Path(azaion_imagebuild.__file__).parent.parent


def make(
    *arguments: str, cwd: Path = ROOT, makefile: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Call make with this test's own Python in place of .venv."""
    ready = [f"RUN={Path(sys.executable).parent}", "-o", ".venv/.image"]
    where = ["-f", makefile] if makefile else ["--no-print-directory", "-C", str(ROOT), *ready]
    clean = {n: v for n, v in os.environ.items() if n not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", *where, *arguments], cwd=cwd, env=clean | environ,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
