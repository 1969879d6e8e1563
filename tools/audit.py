"""Audit pinned packages for published advisories, and say the result in one line.

usage: python tools/audit.py REQUIREMENTS    (needs pip-audit)

Exit code: 0 nothing found, or the advisories could not be reached (the line says so); 1 found.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    """Run pip-audit, print the line."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        subprocess.run(
            ["pip-audit", "--requirement", sys.argv[1], "--no-deps", "--disable-pip",  # noqa: S607
             "--progress-spinner=off", "--format=json", "--output", str(report)],
            check=False, capture_output=True,
        )  # fmt: skip
        found = json.loads(report.read_text()) if report.is_file() else {}
    line, code = verdict(found.get("dependencies", []))
    print(line)
    return code


def verdict(packages: list[dict[str, Any]]) -> tuple[str, int]:
    """Return the line and the exit code for what pip-audit says of each package."""
    asked = [each for each in packages if "skip_reason" not in each]
    if not asked:
        return "audit: NOT DONE: the database of advisories cannot be reached from here", 0
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


if __name__ == "__main__":
    raise SystemExit(main())
