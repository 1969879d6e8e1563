"""The Linux_for_Tegra tree, and whether it can build and flash a board."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from ..errors import OperatorError
from ..model import RELEASE_FILE, Build, Finding
from ..system import log_files
from ..system.process import find_program, processes_of
from . import disk_space, firmware, host_needs, releases, tree_needs
from .usb import MOST_AT_ONCE, device_findings

FLASH_SH = "flash.sh"
INITRD_FLASH_SH = "tools/kernel_flash/l4t_initrd_flash.sh"
INITRD_INTERNAL_SH = "tools/kernel_flash/l4t_initrd_flash_internal.sh"
"""What NVIDIA's wrapper runs for each device."""
WHOLE_ROOTFS = ("internal", "mmcblk0p1")
"""Root devices with which plain flash.sh packs the whole rootfs; with others, only /boot."""

_BOARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*", re.ASCII)
_TOOLS = ("mke2fs", "debugfs", "e2fsck")
_MOST_BOARDS = 12
_OURS = (
    "-r",
    "-R",
    "-S",
    "--no-flash",
    "--flash-only",
    "--usb-instance",
    "--network",
    "--massflash",
    "--device-instance",
)
_AT_WORK = re.compile(r"flash\.sh|l4t_[a-z_]+\.sh")


class LinuxForTegra(Struct, frozen=True):
    """A BSP tree on disk."""

    dir: Path

    def findings(self, build: Build) -> list[Finding]:
        """Return everything that would stop a build of this board; change nothing."""
        if not self.dir.is_dir():
            return [
                _error(
                    f"there is no BSP at {self.dir}",
                    "give the Linux_for_Tegra folder by --bsp (BSP=)",
                )
            ]
        script = self.script(build)
        if not script.is_file() or not os.access(script, os.X_OK):
            hint = "give the Linux_for_Tegra folder itself by --bsp (BSP=)"
            return [_error(f"{script} is not an executable script", hint)]
        return [
            *self._board_findings(build),
            *releases.findings(build, self.dir),
            *self._firmware_findings(build),
            *self._rootfs_findings(build),
            *tree_needs.findings(build, self.dir),
            *self._host_findings(build),
            *host_needs.findings(build),
            *log_files.findings(build),
            *device_findings(build),
        ]

    def script(self, build: Build) -> Path:
        """Return NVIDIA's script of the configured method."""
        initrd = build.settings.bsp.method == "initrd"
        return self.dir / (INITRD_FLASH_SH if initrd else FLASH_SH)

    def _board_findings(self, build: Build) -> Iterator[Finding]:
        settings = build.settings.bsp
        if (
            not _BOARD.fullmatch(settings.board)
            or not (self.dir / f"{settings.board}.conf").is_file()
        ):
            yield _error(f"the BSP has no board {settings.board!a}", self._near_boards(build))
        if settings.method == "flash" and settings.rootdev not in WHOLE_ROOTFS:
            yield _error(
                f"with the root device {settings.rootdev!a} flash.sh packs only /boot into"
                " system.img: the identity would not be in it",
                'set [bsp] method = "initrd" and external_device, or use --rootdev internal',
            )
        for word in settings.args:
            if word in _OURS or word[:2] in _OURS:  # -S8GiB, as getopts reads it
                yield _error(
                    f"[bsp] args holds {word}, which this tool sets itself",
                    "leave it out; see size, rootfs_dir, usb_instance and network",
                )
        if not 1 <= settings.massflash <= MOST_AT_ONCE:
            yield _error(
                f"a base cannot be packed for {settings.massflash} devices at once",
                f"set [bsp] massflash to 1 to {MOST_AT_ONCE}",
            )
        if settings.method == "initrd":
            yield from self._initrd_findings(build)

    def _near_boards(self, build: Build) -> str:
        """Return the hint that names the boards most similar to the given one."""
        known = sorted(conf.stem for conf in self.dir.glob("*.conf"))
        near = difflib.get_close_matches(build.settings.bsp.board, known, n=5, cutoff=0.5)
        if not near:
            shown = ", ".join(known[:_MOST_BOARDS]) or "none"
            return f"set --board (BOARD=) to the name of a .conf in {self.dir}: {shown}"
        return f"set --board (BOARD=) to one that the BSP has, for example: {', '.join(near)}"

    def _there(self, pattern: str) -> str:
        return ", ".join(sorted(str(each.relative_to(self.dir)) for each in self.dir.glob(pattern)))

    def _initrd_findings(self, build: Build) -> Iterator[Finding]:
        settings = build.settings.bsp
        layout = releases.external_layout(build, self.dir)
        if settings.external_device and not layout:
            yield _error(
                "an external device needs a partition layout",
                f'set [bsp] partition_xml = "{releases.release_of(build).nvme_layout}"',
            )
        if layout and not (self.dir / layout).is_file():
            yield _error(
                f"the BSP has no partition layout {layout}",
                "set [bsp] partition_xml to one that the BSP has:"
                f" {self._there('tools/kernel_flash/*.xml') or 'none'}",
            )
        if build.overlays or build.rootfs_dir.resolve() != (self.dir / "rootfs").resolve():
            yield _error(
                "the initrd flash packs the BSP's own rootfs only",
                'leave --rootfs-dir out, and [image] staging = "rootfs"',
            )

    def _firmware_findings(self, build: Build) -> Iterator[Finding]:
        for name in build.settings.bsp.required_files:
            path = self.dir / name
            if not path.is_file() or not path.stat().st_size:
                yield _error(
                    f"the BSP lacks {name}, or it is empty",
                    "install it: flash.sh drops a firmware file that is missing without a word",
                )
        yield from firmware.preflight_findings(self.dir, build)

    def _rootfs_findings(self, build: Build) -> Iterator[Finding]:
        try:
            if releases.release_name(build.rootfs_dir) is None:
                yield _error(
                    f"{build.rootfs_dir} does not name its L4T release in {RELEASE_FILE}",
                    "extract the sample rootfs there, then run sudo ./apply_binaries.sh in the BSP",
                )
        except OperatorError:
            return  # the plug-in device_conf reports it

    def _host_findings(self, build: Build) -> Iterator[Finding]:
        if not build.sandbox and os.geteuid() != 0:
            yield _error("NVIDIA's scripts need root", "run the same command with sudo")
        missing = [tool for tool in _TOOLS if find_program(tool) is None]
        if missing:
            yield _error(f"{', '.join(missing)} is not installed", "sudo apt-get install e2fsprogs")
        others = [] if build.sandbox else self.others_at_work()
        if others:
            yield _error(
                f"another NVIDIA script is at work in {self.dir}: {', '.join(others)}",
                "wait for it to end: two scripts in one tree silently damage each other",
            )
        yield from disk_space.findings(build, self.dir)

    def others_at_work(self) -> list[str]:
        """Return the processes that run an NVIDIA script in this tree, not started by this one."""
        found, tree = [], self.dir.resolve()
        for process in processes_of():
            try:
                where = (process.path / "cwd").readlink()
            except OSError:
                continue
            if where.is_relative_to(tree) and _AT_WORK.search("\0".join(process.argv)):
                found.append(f"process {process.pid}")
        return found


def _error(message: str, hint: str) -> Finding:
    return Finding(message=message, hint=hint)
