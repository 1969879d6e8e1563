"""Audit pinned packages for published advisories, and say the result in one line.

usage: python tools/audit.py REQUIREMENTS    (needs pip-audit: nox --session release has it)

Exit code: 0 nothing found, or the advisories could not be reached (the line says so); 1 found, or
pip-audit failed otherwise; 2 pip-audit is not there, or no file is named.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_UNREACHED = re.compile(
    r"ConnectionError|ProxyError|SSLError|(?:Connect|Read)Timeout|Could not connect"
    r"|not redirecting properly|\b5\d\d Server Error"
)
"""What requests and pip-audit call it when the advisories cannot be asked for."""
NOT_DONE = "audit: NOT DONE: the database of advisories cannot be reached from here"


def main() -> int:
    """Run pip-audit, print the line."""
    if len(sys.argv) != 2:
        return refuse("give it one file of pinned packages", "tools/audit.py dist/requirements.txt")
    if shutil.which("pip-audit") is None:
        return refuse("pip-audit is not on PATH", "nox --session release has it")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        done = subprocess.run(
            ["pip-audit", "--requirement", sys.argv[1], "--no-deps", "--disable-pip",  # noqa: S607
             "--progress-spinner=off", "--format=json", "--output", str(report)],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        text = report.read_text() if report.is_file() else ""
    line, code = verdict(json.loads(text)["dependencies"]) if text else failure(done.stderr)
    print(line)
    return code


def refuse(error: str, hint: str) -> int:
    """Print an error and what to do, and return the exit code."""
    print(f"error: {error}\nhint: {hint}", file=sys.stderr)
    return 2


def verdict(packages: list[dict[str, Any]]) -> tuple[str, int]:
    """Return the line and the exit code for what pip-audit says of each package."""
    asked = [each for each in packages if "skip_reason" not in each]
    if not asked:
        return NOT_DONE, 0
    found = [
        f"{each['name']} {each['version']}: {advisory['id']}"
        for each in asked
        for advisory in each["vulns"]
    ]
    if found:
        return f"audit: FOUND: {'; '.join(found)}", 1
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    more = f"; not known there: {', '.join(skipped)}" if skipped else ""
    return f"audit: no advisory for {len(asked)} packages{more}", 0


def failure(stderr: str) -> tuple[str, int]:
    """Return the line and the exit code if pip-audit reported nothing."""
    if _UNREACHED.search(stderr):
        return NOT_DONE, 0
    lines = stderr.strip().splitlines() or ["it says nothing"]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return f"audit: FAILED: pip-audit: {(errors or lines)[-1]}", 1


if __name__ == "__main__":
    raise SystemExit(main())
