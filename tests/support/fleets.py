"""Made-up fleet runs, as ``azaion-imagebuild fleet --json`` prints them."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from azaion_imagebuild.identity.serial import email_for

API_DOWN = {
    "step": "provision_identity",
    "error": "cannot reach the admin API at https://admin.example.com: connection refused",
    "hint": "check DNS, VPN, firewall and API_URL, then run the same command again",
    "exit_code": 4,
}
_STEPS = {"provision_identity": 0.021, "build_image": 0.0012, "verify_image": 0.0009, "flash": 12.0}


def record(number: int, outcome: str = "done", **other: Any) -> dict[str, Any]:
    """Return the record of one device; the same number gives the same record."""
    chance = random.Random(number)  # noqa: S311 - no secret
    serial = f"AZJN-{number:04}"
    port = chance.randrange(1, 9)
    took = {step: round(usual * chance.lognormvariate(0, 0.35), 4) for step, usual in
            _STEPS.items()}  # fmt: skip
    found: dict[str, Any] = {
        "serial": serial,
        "email": email_for(serial),
        "outcome": outcome,
        "attempt": f"20261123T170000Z-{number:06x}",
        "account": chance.choice(["created", "created", "created", "updated"]),
        "image": f"/srv/images/{serial}.img",
        "image_format": "ext4",
        "image_sha256": hashlib.sha256(serial.encode()).hexdigest(),
        "base_sha256": "ba" * 32,
        "flashed": True,
        "device": "NVIDIA APX",
        "usb_instance": f"1-{port}",
        "ecid": f"0x{chance.getrandbits(64):016X}",
        "lane": number % 4,
        "began": f"2026-11-23T{17 + number % 3600 // 1800}:{number % 60:02}:{number * 7 % 60:02}Z",
        "seconds": round(sum(took.values()), 3),
        "steps": took,
        "ledger": {"row": number, "hash": hashlib.sha256(bytes(number % 251)).hexdigest()},
    }
    if outcome in ("failed", "unknown", "not started"):
        found |= {"flashed": False, "device": None, "ledger": None, "image_sha256": None,
                  "image": None, "image_format": None, "ecid": None}  # fmt: skip
        found["steps"] = {"provision_identity": took["provision_identity"]}
    if outcome == "unknown":
        found |= {"seconds": None}
    if outcome == "not started":
        found |= {"attempt": None, "account": None, "began": None, "seconds": None, "steps": {}}
    return found | other


def fleet(records: list[dict[str, Any]], seconds: float = 612.3, **other: Any) -> dict[str, Any]:
    """Return a whole run over ``records``."""
    counts = {
        name.replace(" ", "_"): sum(each["outcome"] == name for each in records)
        for name in ("done", "done before", "failed", "unknown", "not started")
    }
    whole = counts["done"] + counts["done_before"] == len(records)
    return {
        "outcome": "done" if whole else "incomplete",
        "exit_code": 0 if whole else 10,
        "sandbox": False,
        "command": "fleet",
        "version": "0.1.0",
        "host": "flash-host-3",
        "station": "S1",
        "operator": "m.kovacs",
        "began": "2026-11-23T17:00:00Z",
        "ended": "2026-11-23T17:10:12Z",
        "seconds": seconds,
        "total": len(records),
        **counts,
        "records": records,
        **other,
    }


def a_days_work(count: int = 200) -> dict[str, Any]:
    """Return a run in which a little of everything went wrong."""
    records = [record(number) for number in range(1, count + 1)]
    for number in range(1, 4):
        records[number] = record(number + 1, "done before")
    for place in range(40, 40 + count // 40):
        records[place] = record(place + 1, "failed", **API_DOWN)
    for place in range(90, 90 + count // 100):
        port = records[place]["usb_instance"]
        records[place] = record(
            place + 1,
            "failed",
            step="flash",
            error=f"flash.sh -r ended with 1: USB {port} does not answer",
            hint=f"hold FORCE RECOVERY, press RESET; the log:"
            f" /var/lib/azaion/logs/AZJN-{place + 1:04}/20261123T170000Z-{place:06x}/flash.log",
            exit_code=7,
        )
    records[120] = record(121, "unknown", step="flash")
    for place in range(count - count // 50, count):
        records[place] = record(place + 1, "not started")
    return fleet(records)
