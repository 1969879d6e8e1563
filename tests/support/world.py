"""The values that fixtures hand to tests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import fastjsonschema

import azaion_imagebuild

SERIAL = "AZJN-0042"
EMAIL = "azaion-jetson-0042@azaion.com"
TOOL = (sys.executable, "-m", "azaion_imagebuild")


@dataclass
class Tree:
    """A rootfs to write into, on the real filesystem or on a fake one."""

    path: Path
    fake: bool

    def snapshot(self) -> dict[str, tuple[Any, ...]]:
        """Return all that can be seen of the tree: kind, mode, owner, time, content."""
        seen: dict[str, tuple[Any, ...]] = {}
        for folder, names, files in os.walk(self.path):
            for name in [".", *names, *files]:
                path = os.path.normpath(os.path.join(folder, name))
                found = os.lstat(path)
                content: Any = None
                if os.path.islink(path):
                    content = os.readlink(path)
                elif os.path.isfile(path):
                    with open(path, "rb") as stream:
                        content = stream.read()
                owner = (found.st_uid, found.st_gid)
                shown = (found.st_mode, owner, found.st_mtime_ns, content)
                if os.path.relpath(path, self.path) not in CHANGED_BY_NVIDIA:
                    seen[os.path.relpath(path, self.path)] = shown
        return seen


@dataclass
class Request:
    """One request that a scripted server got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Script:
    """What a scripted server answers, in turn (the last one for ever), and what it got."""

    url: str
    answers: list[tuple[int, dict[str, str], bytes | None]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def answer(self, status: int, body: bytes | str | None = b"{}", **headers: str) -> None:
        """Add an answer; a body of None closes the connection without one."""
        content = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, named, content))


@dataclass
class Ran:
    """What a call of the command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        (line,) = self.out.splitlines()
        value = json.loads(line)
        check_records(value)
        return value

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def hints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("hint: ")]


Run = Callable[..., Ran]


@cache
def record_schema() -> Callable[[Any], Any]:
    """Return the check that docs/reference/record.schema.json makes of a record."""
    page = Path(azaion_imagebuild.__file__).parent.parent / "docs/reference/record.schema.json"
    check: Callable[[Any], Any] = fastjsonschema.compile(json.loads(page.read_text()))
    return check


def check_records(value: Any) -> None:
    """Hold every record of an attempt in what a command printed to the published schema."""
    if isinstance(value, dict) and "attempt" in value and "image_sha256" in value:
        record_schema()(value)
    for record in value.get("records", ()) if isinstance(value, dict) else ():
        check_records(record)


def replace_script(path: Path, text: str) -> None:
    """Put another script in place of a BSP's; the real one is beside it as NAME.real."""
    path.rename(path.with_name(path.name + ".real"))
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)


CHANGED_BY_NVIDIA = (
    "boot/Image",
    "boot/extlinux/extlinux.conf",
    "etc/nv_boot_control.conf",
    "etc/user_release_version",
)
"""What NVIDIA's scripts write into the rootfs themselves."""


def add_usb_device(sysfs: Path, instance: str, vendor: str, product: str) -> None:
    """Add a device to a made-up /sys/bus/usb/devices."""
    folder = sysfs / instance
    folder.mkdir(parents=True)
    bus, _, path = instance.partition("-")
    for name, text in (("idVendor", vendor), ("idProduct", product), ("busnum", bus),
                       ("devpath", path)):  # fmt: skip
        (folder / name).write_text(text + "\n")


def mounts_of(folder: Path) -> list[str]:
    """Return the mounts that speak of a folder: in it, or an overlay over it, wherever that is."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(folder) in line]


@contextlib.contextmanager
def tool_started(*argv: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the tool in a process that heeds signals; end it with the test."""
    process = subprocess.Popen(
        ["env", "--default-signal=INT,TERM,HUP", *TOOL, *argv],
        stdout=subprocess.PIPE,
        text=True,
        **{"stderr": subprocess.PIPE, **options},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def outcomes(ran: Ran) -> dict[str, str]:
    """Return what a fleet says of each serial."""
    return {record["serial"]: record["outcome"] for record in ran.json["records"]}
