"""What an initrd flash uses and changes on the host; only one may run at a time."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field, structs

from ..errors import PreflightError
from ..model import Build
from ..system.locks import host_lock, locked_on_host
from ..system.process import Finished, find_program, processes_of, run
from ..system.signals import check_interrupt

_SCRIPT = re.compile(r"l4t_initrd_flash(_internal)?\.sh")
_SHELLS = ("sh", "bash", "dash")
_REFERENCE_HOST = "tools/reference_host"
REFERENCE_MARK = ".azaion-sandbox"
"""The file that marks a reference BSP, which this tool made."""

_PAUSE = 0.5
_logger = logging.getLogger(__name__)


class Host(Struct, frozen=True, kw_only=True):
    """The paths on a host that an initrd flash changes; a sandbox has all of them in a folder."""

    udev_rules: Path = Path("/etc/udev/rules.d")
    exports: Path = Path("/etc/exports")
    exports_dir: Path = Path("/etc/exports.d")
    autosuspend: Path = Path("/sys/module/usbcore/parameters/autosuspend")
    lock: Path = field(default_factory=lambda: host_lock("initrd-flash"))
    commands: Path | None = None
    """A folder with its own exportfs and service; None: the host's."""
    environ: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def in_folder(cls, folder: Path, commands: Path) -> Host:
        """Return a host that is a folder."""
        return cls(
            udev_rules=folder / "udev",
            exports=folder / "exports",
            exports_dir=folder / "exports.d",
            autosuspend=folder / "autosuspend",
            lock=folder / "initrd-flash.lock",
            commands=commands,
            environ={"REFERENCE_HOST": str(folder)},
        )

    @property
    def exports_file(self) -> Path:
        """Return our own file of exports (see :mod:`.nfs_exports`)."""
        return self.exports_dir / "azaion-imagebuild.exports"

    def has(self, command: str) -> bool:
        """Tell whether the host has a command."""
        return self._found(command) is not None

    def run(self, *argv: str) -> Finished:
        """Run a command of this host.

        Raises:
            PreflightError: it is not installed.
        """
        found = self._found(argv[0])
        if found is None:
            raise PreflightError(f"{argv[0]} is not installed", hint="install its package")
        return run([found, *argv[1:]], cwd=Path("/"), environ=self.environ, timeout=120)

    def _found(self, command: str) -> str | None:
        return find_program(command, self.commands)


def host_of(build: Build) -> Host:
    """Return the host that a build changes: this one, or the folder that a reference BSP uses.

    The scripts of a reference BSP (see :mod:`azaion_imagebuild.sandbox`) export in their own
    folder, never on this host, in a sandbox build or not. They are recognized by the mark of this
    tool, so that a folder's name can never make a real BSP skip this host.
    """
    tree = build.bsp_dir
    if tree is None or not is_reference(tree):
        return Host()
    return Host.in_folder(tree.parent / "host", tree / _REFERENCE_HOST)


def is_reference(tree: Path) -> bool:
    """Tell whether a tree is a reference BSP, whose scripts leave this host alone."""
    return (tree / REFERENCE_MARK).is_file() and (tree / _REFERENCE_HOST).is_dir()


@contextlib.contextmanager
def exclusive(build: Build) -> Iterator[Build]:
    """Lock the host for an initrd flash; yield the build whose scripts inherit the lock.

    Two of NVIDIA's wrappers at once, even from two trees, give their devices the same address, and
    the first one that ends removes the exports of the other (l4t-facts).

    Raises:
        PreflightError: another one is at work for longer than ``[build] lock_wait`` seconds.
    """
    host = host_of(build)
    host.lock.parent.mkdir(parents=True, exist_ok=True)
    wait = build.settings.build.lock_wait
    with locked_on_host(host.lock, wait) as descriptor:
        if host.commands is None:
            _wait_for_others(time.monotonic() + wait)
        host.exports_file.unlink(missing_ok=True)  # of killed lanes
        yield structs.replace(build, lock_fds=(*build.lock_fds, descriptor))


def _wait_for_others(deadline: float) -> None:
    """Wait for scripts that were started by hand, which do not use our lock."""
    told = False
    while others := ", ".join(wrappers_at_work()):
        if time.monotonic() >= deadline:
            raise PreflightError(
                f"an initrd flash is at work on this host: {others}",
                hint="wait for it to end, or stop it: two at once damage each other without a word,"
                " even from two BSPs",
            )
        if not told:
            _logger.warning("waiting for another initrd flash on this host: %s", others)
            told = True
        check_interrupt()
        time.sleep(_PAUSE)


def wrappers_at_work(proc: Path = Path("/proc")) -> list[str]:
    """Return the processes of this host that run a script of the initrd flash."""
    found = []
    for process in processes_of(proc):
        names = [word.rpartition("/")[2] for word in process.argv[:2]]
        if names[0] in _SHELLS and _SCRIPT.fullmatch(names[-1]):
            found.append(f"process {process.pid}")
    return found
