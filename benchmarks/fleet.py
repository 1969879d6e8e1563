"""How fast are identities made? A fleet beside a bare loop of the same requests, in one run.

    .venv/bin/python benchmarks/fleet.py [--devices 1000] [--jobs 8] [--rounds 3]

The bare loop does nothing but POST /users, with as many threads, one requests.Session each, against
the same server (the sandbox's admin API, in a process of its own: passwords hashed by scrypt, every
account committed to SQLite). The fleet does the same POST for each device and also commits two rows
to the ledger, stamps an image in place, and reads it back. Prints the ratio of the two rates, and
how the memory of the fleet's process grows with the number of devices.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, structs

T = TypeVar("T")
HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))

SERVE = """
import sys
from pathlib import Path
from azaion_imagebuild.sandbox.admin_api import Accounts, admin_api
with admin_api(Accounts(Path(sys.argv[1]))) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def main() -> None:
    """Run both, side by side, and print what they took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fleet", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fleet:
        print(json.dumps(fleet(args.fleet, args.devices, args.jobs)))
        return
    ratios = []
    for _ in range(args.rounds):
        bare = served(lambda url: bare_loop(url, args.devices, args.jobs))
        ours = served(lambda url: in_a_process(url, args.devices, args.jobs))
        ratios.append(ours["rate"] / bare)
        print(
            f"bare loop {bare:6.1f}/s   fleet {ours['rate']:6.1f}/s   ratio {ratios[-1]:.2f}"
            f"   {ours['cpu'] * 1000:.1f} ms of a core each, {ours['memory']:.0f} MB in all",
            flush=True,
        )
    print(
        f"median ratio {statistics.median(ratios):.2f} ({args.devices} devices, {args.jobs} jobs)"
    )


def served(measure: Callable[[str], T]) -> T:
    """Call ``measure`` with the URL of a fresh admin API in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, f"{folder}/accounts.sqlite3"],
            cwd=HERE.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        try:
            return measure(server.stdout.readline().strip())
        finally:
            server.communicate()


def bare_loop(url: str, devices: int, jobs: int) -> float:
    """Return POSTs a second of a loop that does nothing else."""
    import requests

    numbers = iter(range(devices))
    lock = threading.Lock()

    def work() -> None:
        with requests.Session() as session:
            session.trust_env = False
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                account = {
                    "email": f"azaion-jetson-{number}@azaion.com",
                    "password": secrets.token_hex(16),
                    "role": "CompanionPC",
                }
                session.post(f"{url}/users", json=account, timeout=30).raise_for_status()

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return devices / (time.perf_counter() - began)


def in_a_process(url: str, devices: int, jobs: int) -> dict[str, float]:
    """Run :func:`fleet` in a process of its own, whose memory is its own."""
    argv = [
        sys.executable,
        str(HERE),
        "--fleet",
        url,
        "--devices",
        str(devices),
        "--jobs",
        str(jobs),
    ]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def fleet(url: str, devices: int, jobs: int) -> dict[str, float]:
    """Bake identities in place on as many images as jobs; return rate and peak memory."""
    import resource

    from azaion_imagebuild.fleet.run import Feed, Run
    from azaion_imagebuild.identity.serial_list import Listed, read_list
    from azaion_imagebuild.images.copy import copy_image
    from azaion_imagebuild.ledger import Ledger
    from azaion_imagebuild.model import Build, Image, Ownership
    from azaion_imagebuild.pipeline.hookspecs import REQUIRED
    from azaion_imagebuild.pipeline.new import stamping_build
    from azaion_imagebuild.pipeline.plugins import load_plugins
    from azaion_imagebuild.pipeline.target import Blank
    from azaion_imagebuild.settings import PLACEHOLDER_SIZE, Settings

    class Stamped(Struct):
        """An image that is stamped again and again; no copy is made and nothing is flashed."""

        name: str
        blank: Blank

        def has_device(self) -> bool:
            return True

        @contextlib.contextmanager
        def ready(self, each: Listed) -> Iterator[tuple[Build, Blank]]:
            yield stamping_build(each.serial, settings), self.blank

    defaults = Settings()
    settings = structs.replace(
        defaults,
        admin_api=structs.replace(defaults.admin_api, url=url),
        build=structs.replace(defaults.build, flash=False),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "base.img"
        make_base(folder, base)
        places = []
        for number in range(jobs):
            path = folder / f"lane-{number}.img"
            copy_image(base, path)
            image = Image(path=path, format="ext4")
            owner = Ownership(uid=1000, gid=1000)
            blank = Blank(image=image, ownership=owner, size=PLACEHOLDER_SIZE)
            places.append(Stamped(f"job {number}", blank))
        with Ledger(f"sqlite:///{folder}/ledger.sqlite3") as ledger:
            ledger.head()  # opens it: a fleet does so once
            run = Run(
                feed=Feed(iter(read_list(f"AZJN-000001..AZJN-{devices:06d}"))),
                hook=load_plugins(settings.hooks, required=REQUIRED).hook,
                ledger=ledger,
                watcher=lambda event: None,
            )
            before = resource.getrusage(resource.RUSAGE_SELF)
            began = time.perf_counter()
            run.to_the_end(places)
            took = time.perf_counter() - began
        assert [record["outcome"] for record in run.records.values()] == ["done"] * devices
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = (used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime) / devices
    return {"rate": devices / took, "memory": used.ru_maxrss / 1000, "cpu": cpu}


def make_base(folder: Path, base: Path) -> None:
    """Build an ext4 image that holds a placeholder, for an owner 1000:1000."""
    from azaion_imagebuild.identity.placeholder import placeholder
    from azaion_imagebuild.sandbox.bsp import create_rootfs

    rootfs = folder / "rootfs"
    create_rootfs(rootfs, 1000)
    conf = rootfs / "etc/azaion/device.conf"
    conf.parent.mkdir()
    conf.write_bytes(placeholder())
    conf.chmod(0o600)
    argv: list[str | Path] = ["mke2fs", "-q", "-t", "ext4", "-d", rootfs, base, "64M"]
    subprocess.run(argv, check=True, capture_output=True)
    for field, value in (("mode", "0100600"), ("uid", "1000"), ("gid", "1000")):
        subprocess.run(
            ["debugfs", "-w", "-R", f"sif /etc/azaion/device.conf {field} {value}", base],
            check=True,
            capture_output=True,
        )


if __name__ == "__main__":
    main()
