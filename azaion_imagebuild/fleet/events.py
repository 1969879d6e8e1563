"""What happens in a fleet or at a station: one event for each thing that happened.

Events of a device hold its ``lane`` and ``serial``; events of the base build hold no lane.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..pipeline.events import Event, Level, problem, said
from .plan import Plan


def planned(plan: Plan) -> Iterator[Event]:
    """Yield the events of a plan, without what stops the fleet."""
    fields = {"sandbox": plan.sandbox, "total": plan.total, "todo": len(plan.todo),
              "done_before": len(plan.done_before), "unknown": len(plan.unknown)}  # fmt: skip
    yield Event(name="planned", message=plan.headline(), fields=fields)
    yield from map(said, plan.details())
    for _, error in plan.refused:
        yield problem("error", error.message, error.hint)


def opened(lanes: Sequence[str]) -> Event:
    """Return the event of lanes that begin to take devices."""
    message = f"{len(lanes)} lanes are open"
    return Event(name="opened", message=message, level="debug", fields={"lanes": list(lanes)})


def closed() -> Event:
    """Return the event of the last device's end: no lane takes another one."""
    return Event(name="closed", message="the lanes are closed", level="debug")


def assigned(lane: str, serial: str) -> Event:
    """Return the event of a device that a lane takes; it may not be plugged in yet."""
    fields = {"lane": lane, "serial": serial}
    return Event(name="assigned", message=f"{serial} is for {lane}", level="debug", fields=fields)


def ready(free: int) -> Event:
    """Return the event of a lane that waits for the next label; ``free``: how many wait."""
    return Event(name="ready", message="ready for the next label", fields={"free": free})


def ended(record: Mapping[str, Any]) -> Event:
    """Return the event of a device that has ended, successfully or not."""
    level: Level = "info" if record["outcome"] == "done" else "error"
    return Event(name="device", message=_ending(record), level=level, fields=record)


def _ending(record: Mapping[str, Any]) -> str:
    """Return ``PASS`` or ``FAIL``, then the serial, the lane, and the time or the error."""
    lane = f"  {spoken_lane(record['lane'])}" if record.get("lane") else ""
    if record["outcome"] != "done":
        word = _WORDS.get(record["outcome"], record["outcome"].upper())
        step = f"{record['step']}: " if record.get("step") else ""
        error = record.get("error") or "interrupted before it began"
        return f"{word}  {record['serial']}{lane}  {step}{error}"
    return f"PASS  {record['serial']}{lane}  {record['seconds']:.1f} s  → {_where(record)}"


def _where(record: Mapping[str, Any]) -> str:
    """Return what has the identity now; a device's port is its lane's, and said before."""
    if not record["flashed"]:
        return str(record["image"])
    return str(record["device"]).removesuffix(f" at USB {record.get('lane')}")


def spoken_lane(lane: str) -> str:
    """Return a lane's name for the operator: ``USB 1-3``; other lanes have a name already."""
    return f"USB {lane}" if _USB_INSTANCE.fullmatch(lane) else lane


_WORDS = {"failed": "FAIL"}
_USB_INSTANCE = re.compile(r"[0-9]+-[0-9.]+")
