"""A host that grants too little: one error line, before an account is made, never a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from thorough import one_of, thorough
from world import EMAIL, SERIAL, TOOL, Run

from azaion_imagebuild.errors import exhausted
from azaion_imagebuild.sandbox import Accounts

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
COMMANDS = {
    "image": ("image", "--serial", SERIAL),
    "fleet": ("fleet", "AZJN-1..AZJN-9", "--out", "images"),
    "lanes": ("fleet", "AZJN-1..AZJN-9"),
    "rotate": ("rotate", "--serial", SERIAL, "--device-conf", "new.conf"),
    "rotate all": ("rotate", "--all-older-than", "0h", "--out", "new"),
    "verify": ("verify", "Makefile", "--serial", SERIAL),
    "ledger": ("ledger", "verify"),
}
LIMITS = {
    "8 files": ("prlimit", "--nofile=8:8"),
    "16 files": ("prlimit", "--nofile=16:16"),
    "100 MB": ("prlimit", "--as=100000000"),
    "200 MB": ("prlimit", "--as=200000000"),
    "300 MB": ("prlimit", "--as=300000000"),
    "1 GiB": ("prlimit", f"--as={1 << 30}"),
}


def call(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("limit", "command"), one_of((limit, command) for limit in LIMITS for command in COMMANDS)
)
def test_too_little_of_a_resource_is_one_error_line(limit: str, command: str) -> None:
    done = call(*LIMITS[limit], *TOOL, *COMMANDS[command])
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in (2, 3, 8, 9)


@thorough
@pytest.mark.parametrize("command", one_of(["fleet", "lanes", "image"]))
def test_what_is_asked_for_is_enough(command: str) -> None:
    granted = ("prlimit", "--nofile=256:256", f"--as={2 << 30}")
    done = call(*granted, *TOOL, *COMMANDS[command])
    assert done.returncode == 0, done.stderr


def test_a_soft_limit_is_raised_where_it_may_be() -> None:
    done = call("prlimit", "--nofile=8:4096", *TOOL, *COMMANDS["image"])
    assert done.returncode == 0, done.stderr


@needs_root
@pytest.mark.parametrize("command", one_of(["image", "fleet", "lanes", "provision"]))
def test_a_host_that_hides_proc_is_refused_before_an_account_is_made(
    command: str, accounts: Accounts, api_url: str, bsp: Path
) -> None:
    argv = COMMANDS.get(command, ("provision", "--serial", SERIAL))
    parts = ["--api-url", api_url, "--bsp", str(bsp)]
    if command == "provision":
        parts = ["--api-url", api_url, "--rootfs-dir", str(bsp / "rootfs")]
    script = 'mount -t tmpfs none /proc && exec "$@"'
    done = call("unshare", "-m", "sh", "-c", script, "sh", *TOOL, *argv, *parts)
    assert done.returncode == 3, done.stderr
    assert "error: /proc/self/mountinfo is missing" in done.stderr
    assert accounts.list() == []


@needs_root
@pytest.mark.parametrize("free", one_of(["0", "4k"]))
def test_a_rotation_onto_a_full_disk_is_an_error_of_the_disk(
    run: Run, accounts: Accounts, api_url: str, tmp_path: Path, free: str
) -> None:
    accounts.create(EMAIL, "old", "CompanionPC")
    small = tmp_path / "small"
    small.mkdir()
    argv = [*TOOL, "rotate", "--serial", SERIAL, "--api-url", api_url, "--device-conf"]
    script = (
        "mount -t tmpfs -o size=64k none $0; dd if=/dev/zero of=$0/fill bs=4k 2>/dev/null;"
        f' [ {free} = 0 ] || truncate -s -{free} $0/fill; "$@"'
    )
    target = str(small / ("new.conf" if free == "0" else "made/of/folders/new.conf"))
    done = call("unshare", "-m", "sh", "-c", script, str(small), *argv, target)
    assert done.returncode in (2, 5), done.stderr
    assert "Traceback" not in done.stderr
    assert accounts.login(EMAIL, "old")


class Library(Exception):
    """What a library raises on top of it."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory"),
        (OSError(errno.ENOMEM, "x"), "not enough memory"),
        (RuntimeError("can't start new thread"), "not enough memory"),
        (ImportError("a.so: failed to map segment from shared object"), "not enough memory"),
        (OSError(errno.EMFILE, "x", "f"), "too many files"),
        (OSError(errno.ENFILE, "x"), "too many files"),
        (OSError(errno.ENOSPC, "x", "/srv/f"), "no space left on the disk: /srv/f"),
        (OSError(errno.EDQUOT, "x"), "no space left"),
    ],
)
@pytest.mark.parametrize("way", ["itself", "cause", "context"])
def test_what_has_run_out_is_found_under_a_librarys_own_error(
    error: Exception, message: str, way: str
) -> None:
    outer: Exception = error
    if way == "cause":
        outer = Library()
        outer.__cause__ = error
    elif way == "context":
        outer = Library()
        outer.__context__ = Library()
        outer.__context__.__context__ = error
    found = exhausted(outer)
    assert found is not None
    assert message in found[0]


def test_another_error_has_not_run_out_of_anything() -> None:
    looped = Library("x")
    looped.__context__ = Library("y")
    looped.__context__.__context__ = looped
    assert exhausted(looped) is None
    assert exhausted(OSError(errno.ENOENT, "x")) is None


HIDDEN = """
import os, subprocess, sys
from azaion_imagebuild.ledger import process_id
child = subprocess.Popen(["sleep", "60"])
name = process_id.this_process().replace(f" {os.getpid()} ", f" {child.pid} ")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
assert not os.path.exists(f"/proc/{child.pid}")
gone = name.replace(f" {child.pid} ", " 4000000 ")
print(process_id.is_running(name), process_id.is_alive(process_id.this_host(), name),
      process_id.is_running(gone))
"""


@needs_root
def test_a_process_that_proc_does_not_show_may_still_be_at_work() -> None:
    """With hidepid=2 another user's process has no folder in /proc: it is not dead for that."""
    # A process space of its own: older kernels hide in all of it, whatever is mounted where.
    script = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    own = ("unshare", "-m", "-p", "--fork", "sh", "-c", script, "sh")
    done = call(*own, sys.executable, "-c", HIDDEN)
    assert done.stdout.split() == ["None", "True", "False"], done.stderr
