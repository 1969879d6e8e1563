"""The report of a fleet run: how long it takes to write, how large it is, how fast it is shown.

With Chromium on the PATH the page is loaded, laid out and painted as well; --picture FILE saves
what the docs show of a run of 200 devices.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from azaion_imagebuild.report import summary_lines, write_report
from azaion_imagebuild.secret import Secret

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/support"))

import browser
import fleets

SIZES = (200, 1000, 10_000)
ROUNDS = 5
PAINTED = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
OPEN_ALL = "document.querySelectorAll('.group').forEach(group => group.open = true)"


def main() -> None:
    """Measure, print a table, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", metavar="FILE", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| devices | written in | memory | JSON | CSV | HTML | last lines in |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for size in SIZES:
            print(written(folder / str(size), size))
        if browser.CHROMIUM:
            print("\n| devices | loaded and painted | every group opened |\n| --- | --- | --- |")
            with browser.browser(folder / "profile") as page:
                for size in SIZES:
                    print(shown(page, folder / str(size) / "report.html", size))
                if args.picture:
                    take(page, folder / "200" / "report.html", args.picture)


def written(folder: Path, size: int) -> str:
    """Write a report some times; two secrets are alive, as a token and a password would be."""
    alive = [Secret("0123456789abcdef" * 2), Secret("fedcba9876543210" * 2)]
    run = fleets.a_days_work(size)
    took = statistics.median(timed(lambda: write_report(folder, run)) for _ in range(ROUNDS))
    told = statistics.median(timed(lambda: summary_lines(run)) for _ in range(ROUNDS))
    tracemalloc.start()
    write_report(folder, run)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    sizes = [(folder / f"report.{kind}").stat().st_size / 1e6 for kind in ("json", "csv", "html")]
    columns = " | ".join(f"{each:.2f} MB" for each in sizes)
    assert alive
    return f"| {size:,} | {took:.2f} s | {peak:.0f} MB | {columns} | {told:.2f} s |"


def shown(page: browser.Browser, html: Path, size: int) -> str:
    """Load a page some times, up to its first frame; then open all that is closed."""
    page.look(1280)
    loads, opens = [], []
    for _ in range(ROUNDS):
        loads.append(timed(lambda: page.open(html, PAINTED)))
        opens.append(timed(lambda: page.value(f"{OPEN_ALL}; {PAINTED}")))
    return f"| {size:,} | {statistics.median(loads):.2f} s | {statistics.median(opens):.2f} s |"


def take(page: browser.Browser, html: Path, picture: Path) -> None:
    """Save the top of the page, from the totals to the first devices."""
    page.look(1280)
    page.open(html)
    clip = {"x": 0, "y": 0, "width": 1280, "height": 1440, "scale": 0.7}
    shot = page.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    picture.write_bytes(base64.b64decode(shot["data"]))


def timed(work: Callable[[], object]) -> float:
    """Return how long something takes, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
