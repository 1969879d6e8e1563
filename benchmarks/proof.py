"""The proof of one device.conf in images of 1 to 64 GB, beside what a user would do instead.

Ours reads the file through the container; the other way is simg2img and debugfs for a sparse image,
and debugfs alone for a raw one. Images are mostly holes; 2,000 files are in each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from azaion_imagebuild import images
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox.bsp import TREE

os.environ["PATH"] += ":/usr/sbin:/sbin"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 64], help="in GB")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("size   container  ours      memory    simg2img + debugfs / debugfs   ratio")
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            raw, sparse = make(Path(folder), size)
            for container, path in (("raw", raw), ("sparse", sparse)):
                ours = median(lambda path=path: read(path), options.rounds)  # type: ignore[misc]
                other = median(lambda path=path: theirs(path), 1)  # type: ignore[misc]
                print(f"{size:3} GB  {container:9} {ours * 1e3:7.2f} ms {memory(path):6.1f} MB"
                      f"  {other * 1e3:10.1f} ms  {other / ours:16.0f}")  # fmt: skip


def make(folder: Path, size: int) -> tuple[Path, Path]:
    """Make a raw image of ``size`` GB and its sparse twin."""
    rootfs = folder / "rootfs"
    (rootfs / "etc/azaion").mkdir(parents=True)
    (rootfs / DEVICE_CONF).write_text(
        "AZAION_DEVICE_EMAIL=azaion-jetson-1@azaion.com\n"
        "AZAION_DEVICE_PASSWORD=00112233445566778899aabbccddeeff\n"
    )
    for number in range(2000):
        path = rootfs / f"usr/share/{number % 50}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(2000))
    raw, sparse = folder / "system.img.raw", folder / "system.img"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", rootfs, raw, f"{size}G"],
        check=True,
        capture_output=True,
    )
    mksparse = [sys.executable, f"{TREE}/bootloader/mksparse", "--fillpattern=0"]
    subprocess.run([*mksparse, str(raw), str(sparse)], check=True)
    return raw, sparse


def read(path: Path) -> None:
    """Read and parse device.conf, ours."""
    entry = images.read_file(path, DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    device_conf.parse(entry.data)


def theirs(path: Path) -> None:
    """Read device.conf by other tools."""
    raw = path
    if path.name == "system.img" and shutil.which("simg2img"):
        raw = path.with_name("unpacked")
        subprocess.run(["simg2img", path, raw], check=True)
    command = ["debugfs", "-R", f"cat /{DEVICE_CONF}", str(raw)]
    assert b"PASSWORD" in subprocess.run(command, check=True, capture_output=True).stdout


def median(function: Callable[[], None], rounds: int) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def memory(path: Path) -> float:
    """Return the peak MB that Python allocates for one read."""
    tracemalloc.start()
    read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


if __name__ == "__main__":
    main()
