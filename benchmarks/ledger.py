"""How long does a big ledger take to answer?

    .venv/bin/python benchmarks/ledger.py [--rows 100000]

Writes that many rows into a SQLite ledger, then calls the command line as whole processes, five
times each, and prints the medians: `ledger show` of one device, `ledger verify`, `ledger list`.
Beside them: what a Python process costs that only imports SQLAlchemy.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msgspec import structs

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))

BATCH = 2000


def main() -> None:
    """Write the rows, ask, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.sqlite3"
        write(url, args.rows)
        ours = [sys.executable, "-m", "azaion_imagebuild", "ledger"]
        middle = f"AZJN-{args.rows // 4:06d}"
        calls = {
            "import sqlalchemy": [sys.executable, "-c", "import sqlalchemy"],
            "ledger show SERIAL": [*ours, "show", middle, "--database", url],
            "ledger list --serial": [*ours, "list", "--serial", middle, "--database", url],
            "ledger verify": [*ours, "verify", "--database", url],
        }
        for name, argv in calls.items():
            print(f"{name:22} {seconds(argv):6.3f} s", flush=True)


def write(url: str, count: int) -> None:
    """Write ``count`` rows: two for each device, as a fleet does."""

    from azaion_imagebuild.ledger import Entry, Ledger, this_process
    from azaion_imagebuild.ledger.entry import now
    from azaion_imagebuild.ledger.process_id import this_host
    from azaion_imagebuild.ledger.store import Ticket

    first = Entry(
        attempt="",
        serial="",
        email="",
        sandbox=False,
        step="provision_identity",
        outcome="started",
        at=now(),
        host=this_host(),
        process=this_process(),
        operator="shift A",
        board="jetson-orin-nano-devkit",
        release="R35.3.1",
    )
    began = time.perf_counter()
    with Ledger(url) as ledger:
        ledger.head()
        tickets: list[Ticket] = []
        for number in range(count // 2):
            entry = structs.replace(
                first,
                attempt=f"20261123T000000Z-{number:012x}",
                serial=f"AZJN-{number:06d}",
                email=f"azaion-jetson-{number:06d}@azaion.com",
            )
            done = structs.replace(
                entry,
                step="post_flash",
                outcome="done",
                account="created",
                credential="0123456789abcdef",
                image=f"/srv/images/AZJN-{number:06d}.img",
                image_format="ext4",
                base_sha256="0" * 64,
                flashed=True,
                seconds=0.321,
            )
            tickets += [Ticket(entry, None), Ticket(done, None)]
            if len(tickets) >= BATCH:
                ledger._commit(tickets)
                tickets = []
        ledger._commit(tickets)
        print(f"{ledger.head().row} rows written in {time.perf_counter() - began:.1f} s")


def seconds(argv: list[str]) -> float:
    """Return the median time of a process that must succeed."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True, cwd=HERE.parent.parent)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


if __name__ == "__main__":
    main()
