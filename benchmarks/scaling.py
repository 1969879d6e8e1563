"""From one device to 100,000 and from one station to 50: what saturates first?

    .venv/bin/python benchmarks/scaling.py [--flash 420] [--lanes 10] [--api 50] [--usb 40]

A simulation, event by event, beside the sum that can be done on paper. Each device passes, in turn,
a lane of a station (held until its end), the admin API, the ledger's lock, the station's disk for
stamp and proof, the station's USB for the image's bytes, and the ledger again. The costs of our own
parts are measured (docs/explanation/scaling.md says where); those of a site (API, flash
time, USB) are flags.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

CPU = 0.004
"""Seconds of one core for a device: requests, stamp, proof, rows (benchmarks/fleet.py)."""
STAMP = 0.001
"""Seconds of the disk for stamp and proof, syncs included (benchmarks/stamp.py)."""
COMMIT = 0.004
"""Seconds that a row holds the ledger's lock in PostgreSQL (benchmarks/stations.py)."""


@dataclass(slots=True)
class Resource:
    """Something that serves so many at a time, in the order in which they come."""

    name: str
    servers: int
    busy: float = 0.0
    _free: int = field(init=False)
    _queue: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._free = self.servers

    def take(self, clock: Clock, seconds: float, then: Callable[[], None]) -> None:
        """Serve for ``seconds``, as soon as there is room, then go on."""
        if not self._free:
            self._queue.append((seconds, then))
            return
        self._free -= 1
        self.busy += seconds

        def done() -> None:
            self._free += 1
            if self._queue:
                self.take(clock, *self._queue.popleft())
            then()

        clock.after(seconds, done)


@dataclass(slots=True)
class Clock:
    """Events in their order."""

    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let something happen later."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, event))

    def run(self) -> None:
        """Go on until nothing is left."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()


@dataclass(frozen=True, slots=True)
class Site:
    """What a site brings along."""

    flash: float
    """Seconds of a device in its lane while it is flashed, beside the image's transfer."""
    lanes: int
    """Of one station; NVIDIA's tools allow 10."""
    api: float
    """Accounts that the admin API makes in a second."""
    api_parallel: int
    usb: float
    """MB/s that a station's USB controllers carry in all."""
    image: float
    """MB that go over the wire for a device."""


def simulate(site: Site, devices: int, stations: int) -> tuple[float, dict[str, float]]:
    """Return the seconds until the last device, and how busy each resource was (0 to 1)."""
    clock, chance = Clock(), random.Random(1)  # noqa: S311 - no secret
    api = Resource("admin API", site.api_parallel)
    ledger = Resource("ledger", 1)
    disks = [Resource("disk", 1) for _ in range(stations)]
    cores = [Resource("cores", 2) for _ in range(stations)]
    buses = [Resource("USB", 1) for _ in range(stations)]
    left = iter(range(devices))

    def device(station: int) -> None:
        if next(left, None) is None:
            return
        steps = iter(
            [
                (ledger, COMMIT),
                (api, chance.expovariate(site.api / site.api_parallel)),
                (cores[station], CPU),
                (disks[station], STAMP),
                (ledger, COMMIT if site.flash else 0.0),
                (buses[station], site.image / site.usb if site.flash else 0.0),
                (None, site.flash * chance.uniform(0.9, 1.1)),
                (ledger, COMMIT),
            ]
        )
        advance(steps, station)

    def advance(steps: Iterator[tuple[Resource | None, float]], station: int) -> None:
        resource, seconds = next(steps, (None, -1.0))
        if seconds < 0:
            device(station)
        elif resource is None:
            clock.after(seconds, lambda: advance(steps, station))
        else:
            resource.take(clock, seconds, lambda: advance(steps, station))

    for station in range(stations):
        for _ in range(site.lanes):
            device(station)
    clock.run()
    whole = clock.now
    shared = {"admin API": api.busy / api.servers, "ledger": ledger.busy}
    each = {"disk": disks, "cores": cores, "USB": buses}
    local = {name: sum(r.busy / r.servers for r in some) / stations for name, some in each.items()}
    lanes = devices * _in_lane(site) / (stations * site.lanes)
    return whole, {name: b / whole for name, b in {**shared, **local, "lanes": lanes}.items()}


def on_paper(site: Site, stations: int) -> dict[str, float]:
    """Return how many devices an hour each resource allows."""
    rows = 3 if site.flash else 2
    allowed = {
        "admin API": site.api,
        "ledger": 1 / (rows * COMMIT),
        "cores": stations * 2 / CPU,
        "disk": stations / STAMP,
        "lanes": stations * site.lanes / _in_lane(site),
    }
    if site.flash:
        allowed["USB"] = stations * site.usb / site.image
    return {name: rate * 3600 for name, rate in allowed.items()}


def _in_lane(site: Site) -> float:
    """Return the seconds that a device holds its lane when nobody is in its way."""
    rows = 3 if site.flash else 2
    transfer = site.image / site.usb if site.flash else 0.0
    return rows * COMMIT + site.api_parallel / site.api + CPU + STAMP + transfer + site.flash


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flash", type=float, default=420.0, help="seconds; 0: bake images only")
    parser.add_argument("--lanes", type=int, default=10)
    parser.add_argument("--api", type=float, default=50.0, help="accounts a second")
    parser.add_argument("--api-parallel", type=int, default=4)
    parser.add_argument("--usb", type=float, default=300.0, help="MB/s of a station")
    parser.add_argument("--image", type=float, default=3000.0, help="MB over the wire")
    site = Site(**vars(parser.parse_args()))
    print("| devices | stations | simulated | devices/h | on paper | saturated by |")
    print("| --- | --- | --- | --- | --- | --- |")
    for devices in (1, 100, 1_000, 10_000, 100_000):
        for stations in (1, 3, 10, 50):
            if stations * site.lanes > devices and stations > 1:
                continue
            whole, busy = simulate(site, devices, stations)
            paper = on_paper(site, stations)
            first = min(paper, key=lambda name: paper[name])
            print(
                f"| {devices:,} | {stations} | {_spoken(whole)} | {devices / whole * 3600:,.0f}"
                f" | {paper[first]:,.0f} | {first} ({busy.get(first, 0):.0%} busy) |",
                flush=True,
            )


def _spoken(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes:02d} min"


if __name__ == "__main__":
    main()
