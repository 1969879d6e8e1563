"""What a killed script leaves behind: mounts inside a tree, loop devices backed by its files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .process import processes_of, run

_MOUNTINFO = Path("/proc/self/mountinfo")
_BLOCK = Path("/sys/block")


def mounts_below(folder: Path, mountinfo: Path = _MOUNTINFO) -> list[Path]:
    """Return the mount points inside ``folder``, the last mounted first (proc_pid_mountinfo(5))."""
    return [point for point, _ in _mounted(folder, mountinfo)]


def _mounted(folder: Path, mountinfo: Path = _MOUNTINFO) -> list[tuple[Path, Path]]:
    """Return (mount point, what is mounted) inside ``folder``, the last mounted first."""
    root = folder.resolve()
    # A path may hold any byte, and any control character: only a newline ends a line.
    lines = os.fsdecode(mountinfo.read_bytes()).split("\n")
    fields = [line.split(" ") for line in lines if line]
    found = [(Path(unescaped(each[4])), Path(unescaped(each[-2]))) for each in fields]
    return [each for each in reversed(found) if root in each[0].parents]


def loops_of(folder: Path, block: Path = _BLOCK) -> list[Path]:
    """Return the loop devices whose backing file lies in ``folder``."""
    root = folder.resolve()
    found = []
    for backing in sorted(block.glob("loop*/loop/backing_file")):
        try:
            name = os.fsdecode(backing.read_bytes()).removesuffix("\n")
            file = Path(name.removesuffix(" (deleted)"))
        except OSError:
            continue  # detached meanwhile
        if root in file.parents:
            found.append(Path("/dev") / backing.parts[-3])
    return found


def release(folder: Path) -> list[str]:
    """Unmount and detach what scripts left in ``folder``; return what could not be released.

    NVIDIA's scripts mount images of the tree, by loop devices. Any other mount there is the site's
    own (a disk for ``bootloader/``, say) and stays.

    Only for the holder of the tree's lock: nobody else is working there.
    """
    for point in _images_mounted(folder):
        run(["umount", str(point)], cwd=Path("/"), timeout=60)
    for device in loops_of(folder):
        run(["losetup", "-d", str(device)], cwd=Path("/"), timeout=60)
    return [str(each) for each in (*_images_mounted(folder), *loops_of(folder))]


def _images_mounted(folder: Path) -> list[Path]:
    loops = loops_of(folder)
    return [point for point, source in _mounted(folder) if source in loops]


def users_of(folder: Path, proc: Path = Path("/proc")) -> list[str]:
    """Return the processes that run in ``folder`` or have a file open there, with their names."""
    root, found = folder.resolve(), []
    for process in processes_of(proc):
        if any(root in (place, *place.parents) for place in _places(process.path)):
            name = Path(process.argv[0]).name or "kernel"
            found.append((process.pid, name))
    return [f"process {pid} ({name})" for pid, name in sorted(found)]


def _places(process: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # it has ended, or it is another user's
        for link in (process / "cwd", process / "root", *(process / "fd").iterdir()):
            with contextlib.suppress(OSError):
                yield link.readlink()


def unescaped(field: str) -> str:
    """Return a field of mountinfo or of the exports without its octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
