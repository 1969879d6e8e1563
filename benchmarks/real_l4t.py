"""`make image FLASH=0` beside NVIDIA's own flash.sh, on a real Linux_for_Tegra tree, in one run.

    sudo .venv/bin/python benchmarks/real_l4t.py --bsp DIR --board jetson-orin-nano-devkit

Builds with ``flash.sh --no-flash`` alone and with the tool, in turn; every second pair begins with
the tool. Then it stamps devices into one base (``inject = "stamp"``), which a user who has
flash.sh alone would build again for each. Prints what each took (wall clock and CPU), medians and
ratios. Where no device is connected, flash.sh asks for the board's numbers: give them by
``--variable BOARDID=3767`` and so on.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.sandbox.admin_api import admin_api
from benchmarks.provision import Cost, cpu_of_children, median

CONFIG = """
[bsp]
dir = {bsp}
board = {board}
rootdev = {rootdev}
size = {size}
environment = {{ {variables} }}

[image]
inject = "{inject}"

[build]
state_dir = "{folder}/state"
"""
TOOL = Path(sys.executable).with_name("azaion-imagebuild")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bsp", type=Path, required=True)
    parser.add_argument("--board", required=True)
    parser.add_argument("--rootdev", default="internal")
    parser.add_argument("--size", default="2GiB")
    parser.add_argument("--variable", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--stamped", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, admin_api(Accounts(Path(folder, "a"))) as api:
        tool = [str(TOOL), "image", "--api-url", api.url, "--flash", "0", "--config"]
        built = [*tool, config(options, folder, "rootfs"), "--serial"]
        pairs = [
            pair(options, [*built, f"BENCH-{number}"], number) for number in range(options.pairs)
        ]
        stamped = [*tool, config(options, folder, "stamp"), "--serial"]
        numbers = range(100, 101 + options.stamped)
        base, *others = [run([*stamped, f"STAMP-{number}"]) for number in numbers]
    plain, ours = (median([each[side] for each in pairs]) for side in (0, 1))
    ratio = statistics.median(each.wall / alone.wall for alone, each in pairs)
    print(
        f"flash.sh alone {shown(plain)}; with the tool {shown(ours)};"
        f" median ratio of a pair {ratio:.2f}"
    )
    print(
        f"stamped: base and first device {shown(base)}; each one after it {shown(median(others))}"
    )
    print(f"flash.sh alone / a stamped device: {plain.wall / median(others).wall:.0f}")


def pair(options: argparse.Namespace, tool: list[str], number: int) -> tuple[Cost, Cost]:
    """Return what flash.sh and the tool took; every second time the tool begins."""
    plain = ["./flash.sh", "--no-flash", "-S", options.size, options.board, options.rootdev]
    variables = dict(each.split("=", 1) for each in options.variable)
    if number % 2:
        ours, theirs = run(tool), run(plain, options.bsp, variables)
    else:
        theirs, ours = run(plain, options.bsp, variables), run(tool)
    print(
        f"flash.sh alone {shown(theirs)}   with the tool {shown(ours)}"
        f"   ratio {ours.wall / theirs.wall:.2f}",
        flush=True,
    )
    return theirs, ours


def run(argv: list[str], cwd: Path | None = None, variables: dict[str, str] | None = None) -> Cost:
    """Run a command that must succeed; return what it took. What was written before is synced."""
    os.sync()
    begin, used = time.perf_counter(), cpu_of_children()
    environ = os.environ | {"USER": "root"} | (variables or {})
    done = subprocess.run(argv, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{argv[0]} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return Cost(time.perf_counter() - begin, cpu_of_children() - used)


def shown(cost: Cost) -> str:
    """Return a cost in seconds."""
    return f"{cost.wall:6.2f} s (CPU {cost.cpu:5.2f})"


def config(options: argparse.Namespace, folder: str, inject: str) -> str:
    """Write the tool's configuration; return its path."""
    variables = ", ".join(
        f'{name} = "{value}"'
        for name, _, value in (each.partition("=") for each in options.variable)
    )
    text = CONFIG.format(
        bsp=f'"{options.bsp.resolve()}"', board=f'"{options.board}"', size=f'"{options.size}"',
        rootdev=f'"{options.rootdev}"', variables=variables, inject=inject, folder=folder,
    )  # fmt: skip
    path = Path(folder, f"{inject}.toml")
    path.write_text(text)
    return str(path)


if __name__ == "__main__":
    main()
