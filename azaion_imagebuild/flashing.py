"""NVIDIA's two ways to build and write an image: flash.sh, and the initrd flash."""

from __future__ import annotations

import errno
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from . import residue
from .bsp import FLASH_SH, INITRD_FLASH_SH, RECOVERY_HINT
from .errors import FlashError, ImageBuildError, OperatorError, StagingError
from .images import format_of
from .leftovers import give_back
from .model import LUKS, Build, FlashResult, Image
from .process import TIMED_OUT, Finished, run
from .trust import is_own

# What the scripts print (l4t-facts: ran and seen on R35.3.1, or read there).
_FLASH_SH_BUILT = "*** no-flash flag enabled. Exiting now... ***"
_FLASH_SH_FLASHED = "has been flashed successfully. ***"
_INITRD_BUILT = "Success"
_INITRD_FLASHED = ("Flash is successful", "Success")
_FAILURES = ("Error:", "ERROR:", "Flash failure", "Timeout", "WITH FAILURES", "No devices to flash")
_NO_DEVICE = ("probing the target board failed", "No devices to flash")
_MEANINGS = {
    "chip_info": "chip_info often means a USB time-out: another cable or port, and recovery again",
    "APPSIZE might be too small": "the rootfs does not fit: set [bsp] size",
    "requires root privilege": "run the same command with sudo",
}
"""What a line of a script usually means."""


@dataclass(frozen=True, slots=True)
class FlashSh:
    """``flash.sh --no-flash``, later ``flash.sh -r``."""

    tree: Path

    def build_image(self, build: Build) -> Image:
        """Have flash.sh build the APP image, without a device.

        Raises:
            ImageBuildError: by its exit code, its own words, or a missing image.
        """
        _clear(self.tree, build)
        argv = [f"./{FLASH_SH}", "--no-flash", *self._options(build)]
        finished = _run(self.tree, build, argv, ImageBuildError)
        _judge(finished, build, (_FLASH_SH_BUILT,), ImageBuildError)
        images = residue.present_images(self.tree)
        raw = [path for path in images if path.name.endswith(".raw")]
        # The raw image is the one that other tools can look at; flash.sh writes its sparse twin.
        ordered = [*raw, *(path for path in images if path not in raw)]
        sparse = self.tree / "bootloader/system.img"
        if sparse not in images:
            raise ImageBuildError(
                f"flash.sh reported success, but {sparse} is not there", hint=_see(build)
            )
        return Image(path=ordered[0], format=_format(ordered[0], build), also=tuple(ordered[1:]))

    def flash(self, build: Build) -> FlashResult:
        """Have flash.sh write the image that it built before to the device (``-r``).

        Raises:
            FlashError: by its exit code or its own words.
        """
        argv = [f"./{FLASH_SH}", "-r", *_instance(build), *self._options(build)]
        finished = _run(self.tree, build, argv, FlashError)
        _judge(finished, build, (_FLASH_SH_FLASHED,), FlashError)
        return _flashed(build)

    def _options(self, build: Build) -> list[str]:
        settings = build.settings.bsp
        other = [] if build.rootfs_dir == self.tree / "rootfs" else ["-R", str(build.rootfs_dir)]
        return [*_size(build), *other, *settings.args, settings.board, settings.rootdev]


@dataclass(frozen=True, slots=True)
class InitrdFlash:
    """``l4t_initrd_flash.sh --no-flash``, later ``--flash-only``."""

    tree: Path

    def build_image(self, build: Build) -> Image:
        """Have the initrd flash build its packages, without a device.

        Raises:
            ImageBuildError: by its exit code, its own words, or a missing image.
        """
        _clear(self.tree, build)
        argv = [f"./{INITRD_FLASH_SH}", "--no-flash", *self._options(build)]
        finished = _run(self.tree, build, argv, ImageBuildError)
        _judge(finished, build, (_INITRD_BUILT,), ImageBuildError)
        where = "external" if build.settings.bsp.external_device else "internal"
        packed = self.tree / f"tools/kernel_flash/images/{where}/system.img"
        if not packed.is_file():
            raise ImageBuildError(
                f"the initrd flash reported success, but {packed} is not there", hint=_see(build)
            )
        others = [path for path in residue.present_images(self.tree) if path != packed]
        second = [path for path in others if path.parent == packed.parent]
        aside = [path for path in others if path not in second]
        return Image(
            path=packed, format=_format(packed, build), also=tuple(second), aside=tuple(aside)
        )

    def flash(self, build: Build) -> FlashResult:
        """Have the initrd flash write its packages to the device.

        Raises:
            FlashError: by its exit code, its own words, or those of its log.
        """
        began = time.time()
        argv = [f"./{INITRD_FLASH_SH}", "--flash-only", *_instance(build), *self._options(build)]
        finished = _run(self.tree, build, argv, FlashError)
        _judge(finished, build, _INITRD_FLASHED, FlashError, logged=self._logged(began))
        return _flashed(build)

    def _logged(self, since: float) -> str:
        """Return what the target said: with ``--network usb0`` the host prints no success."""
        logs = [
            log for log in self.tree.glob("initrdlog/*.log") if log.stat().st_mtime >= since - 2
        ]
        return "\n".join(log.read_text(errors="replace")[-65536:] for log in sorted(logs))

    def _options(self, build: Build) -> list[str]:
        settings = build.settings.bsp
        external = ["--external-device", settings.external_device or ""]
        layout = ["-c", settings.partition_xml or ""]
        return [
            *(external if settings.external_device else []),
            *(layout if settings.partition_xml else []),
            *_size(build),
            *settings.args,
            *(["--network", settings.network] if settings.network else []),
            settings.board,
            settings.rootdev,
        ]


def _clear(tree: Path, build: Build) -> None:
    """Take away what an earlier run left: its images must not pass for new ones."""
    if os.geteuid() == 0 and (stuck := give_back(tree)):
        raise ImageBuildError(
            f"an earlier run left {', '.join(stuck)} attached",
            hint="umount it or detach it by losetup -d, then run the same command again",
        )
    residue.remove_images(tree)


def _size(build: Build) -> list[str]:
    return ["-S", build.settings.bsp.size] if build.settings.bsp.size else []


def _instance(build: Build) -> list[str]:
    chosen = build.settings.bsp.usb_instance
    if chosen is None:
        return []
    return ["--usb-instance", chosen]


def _flashed(build: Build) -> FlashResult:
    chosen = build.settings.bsp.usb_instance
    return FlashResult(device=build.settings.bsp.board + (f" at USB {chosen}" if chosen else ""))


def environment(build: Build) -> dict[str, str]:
    """Return the variables that NVIDIA's scripts get."""
    environ = dict(build.settings.bsp.environment)
    if os.geteuid() == 0:
        environ["USER"] = "root"  # the scripts look at the variable, not at the uid
    return environ


def _run(tree: Path, build: Build, argv: list[str], error: type[OperatorError]) -> Finished:
    make_log_dir(build)
    try:
        with residue.out_of_sight(tree):
            return run(
                argv,
                cwd=tree,
                environ=environment(build),
                log=_log(build),
                timeout=build.settings.build.script_timeout,
                keep_open=build.lock_fds,
                on_progress=lambda: residue.hide_images(tree),
            )
    except OSError as cause:
        raise error(
            f"cannot run {tree / argv[0]}: {cause.strerror} ({cause.filename})",
            hint="check that it is executable, that its first line names a shell, and that"
            f" {build.log_dir} can be written",
        ) from None


def _judge(
    finished: Finished,
    build: Build,
    success: tuple[str, ...],
    error: type[OperatorError],
    logged: str = "",
) -> None:
    """Raise unless a script is believed."""
    what = complaint(finished, success, logged)
    if what is not None:
        lines = [*finished.tail, *logged.splitlines()]
        raise error(what, hint=_meaning(lines, finished, build))


def complaint(
    finished: Finished,
    success: tuple[str, ...],
    logged: str = "",
    *,
    limit: str = "[build] script_timeout",
) -> str | None:
    """Return what is wrong with a script's end; None: it is believed.

    That is so only when its exit code, its errors and its own success line agree.
    """
    name = Path(finished.argv[0]).name
    lines = [*finished.tail, *logged.splitlines()]
    failures = [line.strip() for line in lines if line.strip().startswith(_FAILURES)]
    if finished.returncode == TIMED_OUT:
        return f"{name} was stopped at its time limit ({limit})"
    if finished.returncode != 0:
        return f"{name} failed (exit {finished.returncode}): {finished.last_words()}"
    if failures:
        return f"{name} ended with 0, but said: {failures[-1]}"
    if not any(words in line for line in lines for words in success):
        return f"{name} ended with 0, but never said “{success[0]}”; last: {finished.last_words()}"
    return None


def _meaning(lines: list[str], finished: Finished, build: Build) -> str:
    if any(words in line for line in lines for words in _NO_DEVICE):
        return RECOVERY_HINT
    for words, meaning in _MEANINGS.items():
        if any(words in line for line in lines):
            return meaning
    return f"{_see(build)}; to repeat it: {finished.command_line}"


def _format(path: Path, build: Build) -> str:
    found = format_of(path)
    if found == LUKS and build.settings.bsp.environment.get("ROOTFS_ENC") != "1":
        raise ImageBuildError(
            f"{path} is encrypted, but ROOTFS_ENC is not set",
            hint='set [bsp] environment = { ROOTFS_ENC = "1" } when that is meant',
        )
    return found


def make_log_dir(build: Build) -> None:
    """Make the folder of this attempt's log, for this user only.

    Raises:
        StagingError: it cannot be made.
    """
    try:
        build.log_dir.mkdir(parents=True, mode=0o700, exist_ok=True)
        if not is_own(build.log_dir.parent):
            raise PermissionError(errno.EPERM, "it belongs to another user")
    except OSError as error:
        raise StagingError(
            f"cannot make the log folder {build.log_dir}: {error.strerror}",
            hint="set AZAION_IMAGEBUILD_STATE_DIR to a folder of your own",
        ) from None


def _see(build: Build) -> str:
    return f"see its log {shlex.quote(str(_log(build)))}"


def _log(build: Build) -> Path:
    return build.log_dir / "flash.log"
