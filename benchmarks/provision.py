"""`azaion-imagebuild provision` as a whole process, beside a shell script of the runbook's step 4.

Both provision serials at the same local server, in turn. Prints medians of the wall clock and of
the CPU time (user and system, of all their processes), and the ratios tool / script: for a new
account (POST 201) and for one that exists (POST 409, PATCH 200). The last line is the floor: the
import of requests and nothing else.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

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
        default="python3",
        help="the script's python3; default: the one of this PATH, which such a script calls",
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
            costs: dict[tuple[str, str], list[Cost]] = {}
            for number in range(options.rounds):
                for case in ("created", "updated"):
                    for name, command in (("tool", tool), ("script", script)):
                        serial = f"BENCH-{name}{number}"
                        cost = run([*command, "--serial", serial, *where], options.script_python)
                        costs.setdefault((case, name), []).append(cost)
                costs.setdefault(("floor", "requests"), []).append(run(floor, ""))
    print(f"Python {sys.version.split()[0]}; script's python3: {options.script_python}")
    for case in ("created", "updated"):
        ours, theirs = (median(costs[case, who]) for who in ("tool", "script"))
        print(f"{case}: tool {ours}, script {theirs}, ratio {ours.wall / theirs.wall:.2f}"
              f" (CPU {ours.cpu / theirs.cpu:.2f})")  # fmt: skip
    print(f"python -c 'import requests': {median(costs['floor', 'requests'])}")


class Cost(NamedTuple):
    """Seconds of one command, or of many."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall * 1000:.1f} ms (CPU {self.cpu * 1000:.1f})"


def median(costs: Iterable[Cost]) -> Cost:
    """Return the medians of what was measured."""
    return Cost(*(statistics.median(each) for each in zip(*costs, strict=True)))


def run(command: list[str], python: str) -> Cost:
    """Run a command that must succeed; return what it took."""
    environ = os.environ | {"PYTHON": python}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed tool has its bytecode
    begin, used = time.perf_counter(), cpu_of_children()
    subprocess.run(command, check=True, env=environ, capture_output=True)
    return Cost(time.perf_counter() - begin, cpu_of_children() - used)


def cpu_of_children() -> float:
    """Return the CPU seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
