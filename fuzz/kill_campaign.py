"""Builds that are killed at their end: record, ledger and exit code must agree every time.

usage: python fuzz/kill_campaign.py [--builds 200] [--seed 1] [--signal TERM]

Every build runs in the sandbox. Its events tell when the flash begins; the signal is sent at a
random moment between then and 100 ms after the flash succeeded. Ends with 1 if any build's exit
code, its record and the last row of the ledger tell different things, or nothing at all, or if
flash.sh came to its successful end and the device is not done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TOOL = (sys.executable, "-m", "azaion_imagebuild")
WINDOW = 0.1  # seconds
MOMENTS = {"flash": 0.3, "flashed": 1.0}
"""The event that a kill follows, and the part of the builds up to which it is chosen."""


def killed(serial: str, after: str, wait: float, number: int) -> tuple[int, list[str], list[str]]:
    """Run a build and kill it; return its exit code, the lines of stdout and those of stderr."""
    argv = [*TOOL, "image", "--serial", serial, "--json", "--log-format", "json"]
    build = subprocess.Popen(
        ["env", "--default-signal=INT,TERM,HUP", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert build.stderr is not None
    said = []
    for line in build.stderr:
        said.append(line)
        event = json.loads(line)
        begun = (event["event"], event.get("step")) == ("started", "flash")
        done = (event["event"], event.get("step")) == ("step", "flash")
        if (after == "flash" and begun) or (after == "flashed" and done):
            time.sleep(wait)
            build.send_signal(number)
            break
    out, err = build.communicate(timeout=300)
    return build.returncode, out.splitlines(), [*said, *err.splitlines()]


def last_row(serial: str) -> dict[str, Any]:
    done = subprocess.run(
        [*TOOL, "ledger", "show", serial, "--json"], capture_output=True, text=True, check=True
    )
    row: dict[str, Any] = json.loads(done.stdout)[-1]
    return row


def note_flashes(state: Path) -> Path:
    """Have the sandbox's flash.sh leave a file behind when it has succeeded; return its path."""
    subprocess.run([*TOOL, "image", "--serial", "AZJN-X", "-q"], check=True)
    script = state / "azaion-imagebuild/sandbox/Linux_for_Tegra/flash.sh"
    said = 'echo "*** The target $board has been flashed successfully. ***"'
    text = script.read_text()
    assert said in text
    script.write_text(text.replace(said, f"{said}; : > {state}/flashed"))
    return state / "flashed"


def disagreement(code: int, out: list[str], err: list[str], row: dict[str, Any]) -> str | None:
    """Return what does not fit together; None: all tell the same."""
    if any("Traceback" in line for line in err):
        return f"a traceback: {err[-3:]}"
    if len(out) != 1:
        return f"{len(out)} lines on stdout"
    record = json.loads(out[0])
    ended = json.loads(err[-1])
    told = (code, record.get("exit_code") or 0, row["exit_code"] or 0, ended.get("exit_code"))
    if len(set(told)) != 1:
        return f"exit code, record, ledger and log: {told}"
    if record["outcome"] != row["outcome"]:
        return f"record {record['outcome']}, ledger {row['outcome']}"
    if (code == 0) != (row["outcome"] == "done"):
        return f"exit {code}, {row['outcome']}"
    if bool(record["flashed"]) != bool(row["flashed"]):
        return f"record flashed {record['flashed']}, ledger {row['flashed']}"
    return None


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--builds", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--signal", default="TERM", choices=["TERM", "INT", "HUP"])
    args = options.parse_args()
    chance = random.Random(args.seed)
    number = signal.Signals[f"SIG{args.signal}"]
    seen: Counter[str] = Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        os.environ |= {"XDG_STATE_HOME": name, "PYTHONPATH": str(ROOT)}
        os.environ.pop("PYTHONUNBUFFERED", None)  # it hides faults
        succeeded = note_flashes(Path(name))
        for count in range(args.builds):
            succeeded.unlink(missing_ok=True)
            serial = f"AZJN-{count:04}"
            draw = chance.random()
            after = next(event for event, share in MOMENTS.items() if draw < share)
            result = killed(serial, after, chance.uniform(0, WINDOW), number)
            row = last_row(serial)
            seen[f"{row['outcome']}, exit {result[0]}"] += 1
            problem = disagreement(*result, row)
            if succeeded.exists() and row["outcome"] != "done":
                problem = f"flash.sh succeeded, and the device is {row['outcome']}"
            if problem:
                faults += 1
                print(f"build {count} ({after}): {problem}", file=sys.stderr)
    print(
        f"{args.builds} builds, SIG{args.signal}, seed {args.seed}: {dict(seen)}, {faults} faults"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
