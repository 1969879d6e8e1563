"""Three stations on one PostgreSQL: one is killed, one frozen, the database restarted and away.

    .venv/bin/python benchmarks/stations.py [--devices 300] [--lanes 4] [--flash 0.3]

Real processes, a real PostgreSQL and a real HTTP admin API; a site's plug-in flashes into a file, a
line for each time. Meanwhile a station is killed (kill -9) while it flashes, the database is
restarted, then stopped for eight seconds, and another station is frozen (SIGSTOP) for longer than
it takes to be taken for dead. At the end every device must be done, and able to log in, or unknown
with its reason, none flashed twice, the ledger whole, and no password in a dump of the database.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent.parent / "tests/support")]

import postgres  # noqa: E402 - after the path
from stations import Factory, serials, until  # noqa: E402

from azaion_imagebuild.cli.console import Console  # noqa: E402
from azaion_imagebuild.config.loading import load  # noqa: E402
from azaion_imagebuild.ledger import Ledger  # noqa: E402
from azaion_imagebuild.operations.image import build_base  # noqa: E402
from azaion_imagebuild.sandbox import Accounts  # noqa: E402
from azaion_imagebuild.sandbox.admin_api import admin_api  # noqa: E402
from azaion_imagebuild.stations.status import read_status  # noqa: E402
from azaion_imagebuild.stations.submit import SubmitOrder, submit  # noqa: E402

DEAD_AFTER = 6.0
AWAY = 8.0  # seconds


def main() -> None:
    """Run it, and print what was seen."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=300)
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--flash", type=float, default=0.3, help="seconds that a flash takes")
    args = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.chdir(folder)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        server = postgres.started()
        stack.callback(shutil.rmtree, server.folder)
        stack.callback(server.stop)
        accounts = Accounts(folder / "accounts.sqlite3")
        api = stack.enter_context(admin_api(accounts))
        base = build_base(load({}, {}, None), Console(None), folder / "base.img")
        assert base.error is None, base.error
        factory = Factory(url=server.url, api_url=api.url, base=folder / "base.img")
        factory.build(DEAD_AFTER)
        script = factory.line / "line.py"
        script.write_text(script.read_text().replace("sleep(0.02)", f"sleep({args.flash})"))
        seconds = one_day(factory, server, args.devices, args.lanes)
        judged(factory, server, accounts, args.devices, seconds)


def one_day(factory: Factory, server: postgres.Postgres, devices: int, lanes: int) -> float:
    """Make all devices, whatever happens meanwhile; return the seconds that it took."""
    settings = load({("ledger", "database"): factory.url}, {}, None)
    began = time.monotonic()
    submission = submit(SubmitOrder(sources=(f"AZJN-0001..AZJN-{devices:04}",)), settings)
    say(began, f"{len(submission.queued)} devices queued")
    with contextlib.ExitStack() as working:
        one, two, three = (
            working.enter_context(factory.station(name, lanes=lanes)) for name in ("S1", "S2", "S3")
        )
        until(lambda: done(factory) > devices * 0.15, "devices")
        until(lambda: flashing(factory, "S2"), "S2 to flash")
        factory.kill(two)
        say(began, f"S2 is killed: {flashing(factory, 'S2')} of its devices were being flashed")
        until(lambda: done(factory) > devices * 0.3, "devices")
        server.restart()
        say(began, "the database was restarted")
        until(lambda: done(factory) > devices * 0.5, "devices")
        server.stop()
        time.sleep(AWAY)
        server.start()
        say(began, f"the database was away for {AWAY:g} s")
        until(lambda: done(factory) > devices * 0.6, "devices")
        until(lambda: flashing(factory, "S3"), "S3 to flash")
        three.send_signal(signal.SIGSTOP)
        say(began, f"S3 is frozen: {flashing(factory, 'S3')} of its devices were being flashed")
        until(lambda: unknown(factory, "S3"), "S1 to take over from S3")
        three.send_signal(signal.SIGCONT)
        say(began, "S3 goes on")
        with Ledger(factory.url) as ledger:
            until(
                lambda: (
                    not any(
                        each["waiting"] or each["running"] for each in read_status(ledger)["queues"]
                    )
                ),
                "the rest",
                600,
            )
        say(began, "the queue is empty")
        for process in (one, three):
            print(f"  {factory.stop(process)}")
    return time.monotonic() - began


def judged(
    factory: Factory, server: postgres.Postgres, accounts: Accounts, devices: int, seconds: float
) -> None:
    """Print what came of it."""
    rows = factory.attempts()  # and the chain is whole
    outcomes = factory.outcomes()
    with Ledger(factory.url) as ledger:
        count, shown = ledger.head().row, read_status(ledger)["undone"]
    print(f"{devices} devices in {seconds:.0f} s: {dict(outcomes)}; {count} rows, all in place")
    twice = [serial for serial, times in factory.flashed().items() if times > 1]
    print(f"flashed twice: {twice or 'none'}")
    done = [serial for serial in rows if rows[serial].outcome == "done"]
    out = [serial for serial in done if not factory.opens_its_account(accounts, serial)]
    print(f"done, but cannot log in: {out or 'none'}")
    dump, passwords = server.dump(), factory.noted("passwords")
    found = sum(password in dump for password in passwords)
    print(f"passwords made: {len(passwords)}; in the dump of {len(dump)} bytes: {found}")
    for each in shown:
        print(f"  {each['serial']} {each['outcome']}: {each['error']}")
    assert sorted(rows) == serials(devices)
    assert set(outcomes) <= {"done", "unknown"}
    assert (twice, out, found) == ([], [], 0)


def done(factory: Factory) -> int:
    return factory.outcomes()["done"]


def flashing(factory: Factory, station: str) -> int:
    """Return how many devices a station is flashing."""
    now = ("flash", "started", station)
    return sum((row.step, row.outcome, row.station) == now for row in factory.attempts().values())


def unknown(factory: Factory, station: str) -> int:
    return sum(row.outcome == "unknown" and row.station == station
               for row in factory.attempts().values())  # fmt: skip


def say(began: float, line: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)


if __name__ == "__main__":
    main()
