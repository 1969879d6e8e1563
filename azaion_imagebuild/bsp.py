"""The Linux_for_Tegra tree: where NVIDIA puts things, and how flash.sh is called."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import FlashError, ImageBuildError, OperatorError
from .images import format_of
from .model import Build, Finding, FlashResult, Image
from .process import TIMED_OUT, Finished, run
from .rootfs import Rootfs

RELEASE_FILE = "etc/nv_tegra_release"
BUILT = "*** no-flash flag enabled. Exiting now... ***"
FLASHED = "has been flashed successfully. ***"
_NO_DEVICE = "probing the target board failed"
_BOARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*", re.ASCII)
_WHOLE_ROOTFS = ("internal", "mmcblk0p1")


@dataclass(frozen=True, slots=True)
class LinuxForTegra:
    """One BSP tree, on disk."""

    dir: Path

    @property
    def flash_sh(self) -> Path:
        return self.dir / "flash.sh"

    @property
    def raw_image(self) -> Path:
        """The APP image as raw ext4."""
        return self.dir / "bootloader" / "system.img.raw"

    @property
    def sparse_image(self) -> Path:
        """The APP image as flash.sh writes it to the device."""
        return self.dir / "bootloader" / "system.img"

    def findings(self, build: Build) -> list[Finding]:
        """Look, without changing anything, whether this tree can build and flash the board."""
        if not self.dir.is_dir():
            return [
                Finding(
                    message=f"there is no BSP at {self.dir}",
                    hint="give the Linux_for_Tegra folder by --bsp (BSP=)",
                )
            ]
        if not self.flash_sh.is_file() or not os.access(self.flash_sh, os.X_OK):
            return [
                Finding(
                    message=f"{self.flash_sh} is not an executable script",
                    hint="give the Linux_for_Tegra folder itself by --bsp (BSP=)",
                )
            ]
        return [*self._board_findings(build), *self._right_findings(build)]

    def _board_findings(self, build: Build) -> list[Finding]:
        found = []
        board, rootdev = build.settings.bsp.board, build.settings.bsp.rootdev
        if not _BOARD.fullmatch(board) or not (self.dir / f"{board}.conf").is_file():
            known = ", ".join(sorted(conf.stem for conf in self.dir.glob("*.conf"))[:12])
            found.append(
                Finding(
                    message=f"the BSP has no board {board!a}",
                    hint=f"--board (BOARD=) is one of: {known}",
                )
            )
        if rootdev not in _WHOLE_ROOTFS:
            found.append(
                Finding(
                    message=f"with the root device {rootdev!a} flash.sh packs only /boot into"
                    " system.img: the identity would not be in it",
                    hint=f"use --rootdev {_WHOLE_ROOTFS[0]}",
                )
            )
        return found

    def _right_findings(self, build: Build) -> list[Finding]:
        if build.sandbox or os.geteuid() == 0:
            return []
        return [Finding(message="flash.sh needs root", hint="run the same command with sudo")]

    def forget_images(self) -> None:
        """Remove the APP images of an earlier build: a stale one must not pass for a new one."""
        for path in (self.raw_image, self.sparse_image):
            path.unlink(missing_ok=True)

    def build_image(self, build: Build) -> Image:
        """Have flash.sh build the APP image, without a device.

        Raises:
            ImageBuildError: by its exit code, its own last line, or a missing image.
        """
        self.forget_images()
        finished = self._run(build, ["--no-flash", *self._options(build)], ImageBuildError)
        self.hide_images()
        if finished.returncode != 0 or not _said(finished, BUILT):
            raise ImageBuildError(_failure(finished, BUILT), hint=_advice(finished, build))
        images = [path for path in (self.raw_image, self.sparse_image) if path.is_file()]
        if not images:
            raise ImageBuildError(
                f"flash.sh reported success, but {self.sparse_image} is not there",
                hint=f"see its log {_log(build)}",
            )
        return Image(path=images[0], format=format_of(images[0]), also=tuple(images[1:]))

    def hide_images(self) -> None:
        """Take the images out of other users' sight: NVIDIA leaves them world-readable (0755)."""
        for path in (self.raw_image, self.sparse_image):
            with contextlib.suppress(FileNotFoundError):
                path.chmod(0o600)

    def flash(self, build: Build) -> FlashResult:
        """Have flash.sh write the image that it built before (``-r``) to the device.

        Raises:
            FlashError: by its exit code or its own last line.
        """
        finished = self._run(build, ["-r", *self._options(build)], FlashError)
        if finished.returncode != 0 or not _said(finished, FLASHED):
            raise FlashError(_failure(finished, FLASHED), hint=_advice(finished, build))
        return FlashResult(device=build.settings.bsp.board)

    def _options(self, build: Build) -> list[str]:
        settings = build.settings.bsp
        size = ["-S", settings.size] if settings.size else []
        default = self.dir / "rootfs"
        other = [] if build.rootfs_dir == default else ["-R", str(build.rootfs_dir)]
        return [*size, *other, *settings.args, settings.board, settings.rootdev]

    def _run(self, build: Build, options: list[str], error: type[OperatorError]) -> Finished:
        environ = dict(build.settings.bsp.environment)
        if os.geteuid() == 0:
            environ["USER"] = "root"  # flash.sh looks at the variable, not at the uid
        try:
            return run(
                [str(self.flash_sh), *options],
                cwd=self.dir,
                environ=environ,
                log=_log(build),
                timeout=build.settings.build.script_timeout,
                keep_open=build.lock_fds,
            )
        except OSError as cause:
            raise error(
                f"cannot run {self.flash_sh}: {cause.strerror}",
                hint="check that it is executable and that its first line names a shell",
            ) from None


def release(rootfs: Rootfs) -> str | None:
    """Return the L4T release that a rootfs says it is, e.g. ``R35.3.1``; None: it does not say.

    The first line of etc/nv_tegra_release is ``# R35 (release), REVISION: 3.1, …``.
    """
    entry = rootfs.read_file(RELEASE_FILE, limit=4096)
    if entry is None:
        return None
    match = re.search(rb"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", entry.data)
    return f"R{match[1].decode()}.{match[2].decode()}" if match else None


def _log(build: Build) -> Path:
    return build.log_dir / "flash.log"


def _said(finished: Finished, words: str) -> bool:
    return any(words in line for line in finished.tail)


def _failure(finished: Finished, wanted: str) -> str:
    if finished.returncode == TIMED_OUT:
        return "flash.sh was stopped at its time limit"
    if finished.returncode == 0:
        return f"flash.sh ended with 0, but never said “{wanted}”; last: {finished.last_words()}"
    return f"flash.sh failed (exit {finished.returncode}): {finished.last_words()}"


def _advice(finished: Finished, build: Build) -> str:
    if any(_NO_DEVICE in line for line in finished.tail):
        return "hold FORCE RECOVERY, press RESET, then look for 0955: in lsusb"
    return f"see its log {_log(build)}; to repeat it: {finished.command_line}"
