"""`azaion-imagebuild provision` as a whole process, beside a shell script of the runbook's step 4.

Both provision the same serials at the same local server, in turn. Prints medians and their ratio:
for a new account (POST 201) and for one that exists (POST 409, PATCH 200).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.sandbox.admin_api import admin_api
from azaion_imagebuild.sandbox.bsp import create_rootfs, service_user

HERE = Path(__file__).parent


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument(
        "--script-python",
        default=getattr(sys, "_base_executable", sys.executable),
        help="the script's python3; default: the interpreter of this tool",
    )
    options = parser.parse_args()
    tool = [str(Path(sys.executable).with_name("azaion-imagebuild")), "provision"]
    script = [str(HERE / "runbook_step4.sh")]
    floor = [sys.executable, "-c", "import requests"]
    with tempfile.TemporaryDirectory() as folder:
        rootfs = Path(folder, "rootfs")
        create_rootfs(rootfs, service_user())
        with admin_api(Accounts(Path(folder, "accounts"))) as api:
            where = ["--api-url", api.url, "--rootfs-dir", str(rootfs)]
            times: dict[tuple[str, str], list[float]] = {}
            for number in range(options.rounds):
                for case in ("created", "updated"):
                    for name, command in (("tool", tool), ("script", script)):
                        serial = f"BENCH-{name}{number}"
                        took = timed([*command, "--serial", serial, *where], options.script_python)
                        times.setdefault((case, name), []).append(took)
                times.setdefault(("floor", "requests"), []).append(timed(floor, ""))
    print(f"Python {sys.version.split()[0]}; script's python3: {options.script_python}")
    for case in ("created", "updated"):
        ours, theirs = (statistics.median(times[case, who]) for who in ("tool", "script"))
        print(
            f"{case}: tool {ours * 1000:.1f} ms, script {theirs * 1000:.1f} ms,"
            f" ratio {ours / theirs:.2f}"
        )
    floor_ms = statistics.median(times["floor", "requests"]) * 1000
    print(f"python -c 'import requests': {floor_ms:.1f} ms")


def timed(command: list[str], python: str) -> float:
    """Run a command that must succeed; return its seconds."""
    environ = os.environ | {"PYTHON": python}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed tool has its bytecode
    begin = time.perf_counter()
    subprocess.run(command, check=True, env=environ, capture_output=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
