"""The NFS exports of lanes: a flashed device mounts its lane's rootfs and packages over USB.

A file in ``/etc/exports.d`` lists them while lanes are open, each for the address of its own
device only (fc00:1:1:<number>::/64, as read in NVIDIA's ``nv_enable_remote.sh``). NVIDIA's scripts
export by ``exportfs -o``, restart the NFS server for each device (R35) and call ``exportfs -ra`` at
the end: each of these drops every export that no file lists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import PreflightError, StagingError
from ..system.files import read_plain, replace_file
from ..system.mounts import unescaped
from .initrd_host import Host

_FOLDERS = ("rootfs", "tools/kernel_flash")  # R35 exports these; newer releases, parts of them
_OPTIONS = "rw,nohide,insecure,no_subtree_check,async,no_root_squash"  # NVIDIA's
_MARK = "# Entry added by NVIDIA initrd flash tool"


def export(host: Host, lanes: Mapping[int, Path]) -> None:
    """Export the trees of lanes (device instance → tree), each to its own device.

    Raises:
        PreflightError: the NFS server does not export them.
    """
    folders = [(number, tree / name) for number, tree in lanes.items() for name in _FOLDERS]
    for _, folder in folders:
        _open_up(folder)
    lines = [f"{_escaped(path)} fc00:1:1:{number}::/64({_OPTIONS})\n" for number, path in folders]
    host.exports_dir.mkdir(parents=True, exist_ok=True)
    host.exports_file.write_text("".join(lines))
    host.run("service", "nfs-kernel-server", "start")
    host.run("exportfs", "-a")
    there = {path for path, _ in _exported(host)}
    if missing := [path for _, path in folders if str(path) not in there]:
        raise PreflightError(
            f"the NFS server does not export {missing[0]}",
            hint="check exportfs -s and journalctl -u nfs-server; the filesystem must be one that"
            " NFS can export (ext4, xfs, btrfs)",
        )


def unexport(host: Host, folder: Path) -> None:
    """Remove every export of ``folder``, including those that scripts have added.

    Raises:
        StagingError: some of it is still exported.
    """
    host.exports_file.unlink(missing_ok=True)
    _remove_nvidias_entry(host.exports, folder)
    for path, client in _exported(host):
        if folder in Path(path).parents:
            host.run("exportfs", "-u", f"{f'[{client}]' if ':' in client else client}:{path}")
    if left := [path for path, _ in _exported(host) if folder in Path(path).parents]:
        raise StagingError(
            f"the host still exports {', '.join(left)}", hint="unexport it: exportfs -ra"
        )


def _open_up(folder: Path) -> None:
    """Give an exported folder the owner and mode that NVIDIA's scripts give it."""
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(folder, 0, 0)


def _exported(host: Host) -> list[tuple[str, str]]:
    """Return (path, client) of everything that the host exports (``exportfs -s``, exports(5))."""
    lines = [line.split() for line in host.run("exportfs", "-s").tail]
    return [(unescaped(line[0]), line[1].partition("(")[0]) for line in lines if len(line) == 2]


def _escaped(path: Path) -> str:
    """Return a path in the form of exports(5), with unusual bytes in octal."""
    return re.sub(rb"[^\w./+,@=~-]", lambda byte: b"\\%03o" % ord(byte[0]), bytes(path)).decode()


def _remove_nvidias_entry(exports: Path, folder: Path) -> None:
    """Remove what NVIDIA's scripts added to /etc/exports for a lane: a mark and a line."""
    try:
        lines = read_plain(exports).decode().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return
    kept: list[str] = []
    for line in lines:
        if kept and kept[-1].startswith(_MARK) and line.startswith(f"{folder}/"):
            kept.pop()
        else:
            kept.append(line)
    if kept != lines:
        replace_file(exports, "".join(kept).encode(), like=exports)
