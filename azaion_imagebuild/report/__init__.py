"""The report of a fleet run: report.json, .csv and .html, and the terminal's last lines."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from ..errors import UsageError
from ..secret import redacted
from ..system.files import NEW_SUFFIX, new_file
from ..text import counted, visible
from . import page
from . import spreadsheet as sheet
from .causes import Cause, find_causes
from .durations import device_median, spoken, step_times
from .totals import Totals, percent

_FEW = 10
"""How many failed devices are listed, and how many causes, and serials of a cause."""

_LONGEST = 500  # characters of an error on the terminal; report.json has all of it


def write_report(folder: Path, fleet: Mapping[str, Any]) -> Path:
    """Write report.json, report.csv and report.html into ``folder``; return the HTML's path.

    The folder is created (0700) if it is missing. Each file is 0600 and appears whole or not at
    all; an older report stays until then.

    Args:
        folder: of the report.
        fleet: what ``fleet --json`` prints; all of its text is untrusted.

    Raises:
        UsageError: the folder cannot be written.
    """
    plain = _plain(fleet)
    try:
        with _opened(folder) as directory:
            _write(directory, "report.json", _json_lines(plain | {"report": _figures(plain)}))
            _write(directory, "report.csv", sheet.lines(plain))
            _write(directory, "report.html", page.chunks(plain))
    except OSError as error:
        raise UsageError(
            f"cannot write the report into {folder}: {error.strerror or error}",
            hint="make room or name another folder, then run the same command again: devices that"
            " are done stay done, and it writes the report",
        ) from None
    return folder / "report.html"


def check_folder(folder: Path) -> None:
    """Create the folder of a report before the run.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        with _opened(folder), tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"cannot write a report into {folder}: {error.strerror or error}",
            hint="name another folder with --report, or make room",
        ) from None


def summary_lines(fleet: Mapping[str, Any]) -> list[str]:
    """Return the lines that a fleet run ends with; the last one sums it up."""
    plain = _plain(fleet)
    totals = Totals.of(plain)
    records = plain.get("records") or []
    causes = find_causes(records)
    if sum(len(cause.devices) for cause in causes) <= _FEW:
        causes = [alone for cause in causes for alone in _apart(cause, records)]
    lines = [*_facts(totals)]
    for cause in causes[:_FEW]:
        lines += _told(cause)
    if len(causes) > _FEW:
        lines.append(f"… and {len(causes) - _FEW:,} other causes: see the report")
    waiting = [str(each.get("serial")) for each in records if each.get("outcome") == "not started"]
    if waiting:
        lines.append(f"not started: {_some(waiting)}")
    if totals.left:
        lines.append(totals.next)
    lines.append(_last_line(plain, totals))
    return [visible(line) for line in lines]


def _plain(fleet: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fleet as plain JSON values, redacted."""
    text = json.dumps(fleet, default=str)
    # NaN and Infinity, which a plug-in may have put in, are invalid JSON for other readers.
    plain: dict[str, Any] = redacted(json.loads(text, parse_constant=lambda name: None))
    for record in plain.get("records") or ():
        for name in ("ledger", "steps"):
            if record.get(name) and not isinstance(record[name], dict):
                record[name] = None  # a plug-in may have put anything there
    return plain


def _figures(fleet: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures that the page shows, for other programs."""
    totals, records = Totals.of(fleet), fleet.get("records") or ()
    return {
        "yield": totals.yield_,
        "devices_per_hour": totals.per_hour,
        "median_seconds": device_median(records),
        "steps": [asdict(times) for times in step_times(records)],
        "causes": [
            asdict(cause) | {"devices": [serial for _, serial in cause.devices]}
            for cause in find_causes(records)
        ],
    }


def _json_lines(fleet: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fleet as JSON with one line for each field and each record."""
    opening = "{"
    for name, value in fleet.items():
        if name != "records":
            yield f"{opening}{json.dumps(name)}: {json.dumps(value)}"
            opening = ",\n "
    yield f'{opening}"records": ['
    opening = "\n  "
    for record in fleet.get("records") or ():
        yield opening + json.dumps(record)
        opening = ",\n  "
    yield "\n ]}\n"


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield directory
    finally:
        os.close(directory)


def _write(directory: int, name: str, pieces: Iterable[str]) -> None:
    with new_file(directory, name, f".{name}{NEW_SUFFIX}") as stream:
        # A lone surrogate (from a file name that is not UTF-8) must not break the report.
        stream.writelines(each.encode("utf-8", "backslashreplace") for each in pieces)


def _facts(totals: Totals) -> Iterator[str]:
    before = ", by an earlier run of the same command"
    counts = (
        ("done", totals.done, ""),
        ("done before", totals.done_before, before),
        ("failed", totals.failed, ""),
        ("unknown", totals.unknown, ": nobody saw how they ended"),
        ("not started", totals.not_started, ""),
    )
    for name, count, note in counts:
        if count or name in ("done", "failed"):
            yield f"  {name:11}  {count:,}{note}"
    if totals.attempted:
        yield f"  {'yield':11}  {percent(totals.yield_)} of {totals.attempted:,} attempted"
    if totals.per_hour is not None:
        yield f"  {'rate':11}  {totals.per_hour:,.0f} devices an hour"


def _apart(cause: Cause, records: list[Mapping[str, Any]]) -> Iterator[Cause]:
    """Return a cause for each device, unless all have the same words."""
    if cause.same:
        yield cause
        return
    for place, _ in cause.devices:
        yield from find_causes([records[place]])


def _told(cause: Cause) -> Iterator[str]:
    serials = [serial for _, serial in cause.devices]
    who = serials[0] if len(serials) == 1 else f"{len(serials):,} devices"
    where = f" at {cause.step}" if cause.step else ""
    yield f"error: {who}{where}: {visible(cause.error, _LONGEST)}"
    if len(serials) > 1:
        yield f"       {_some(serials)}"
    yield f"hint: {visible(cause.hint, _LONGEST)}"


def _some(serials: Sequence[str]) -> str:
    more = f" … and {len(serials) - _FEW:,} more" if len(serials) > _FEW else ""
    return " ".join(serials[:_FEW]) + more


def _last_line(fleet: Mapping[str, Any], totals: Totals) -> str:
    ending = str(fleet.get("outcome") or "incomplete").upper()
    if fleet.get("sandbox"):
        ending += " in the SANDBOX"
    missing = [
        f"{count:,} {name}"
        for name, count in (
            ("failed", totals.failed),
            ("unknown", totals.unknown),
            ("not started", totals.not_started),
        )
        if count
    ]
    if totals.refused:
        missing.append(f"{counted(totals.refused, 'scan')} refused")
    verb = "is" if totals.ready == 1 else "are"
    numbers = ", ".join([f"{totals.ready:,} of {totals.total:,} {verb} done", *missing])
    return f"{ending}: {numbers} ({spoken(totals.seconds)})"
