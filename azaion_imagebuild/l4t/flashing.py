"""NVIDIA's two ways to build and write an image: flash.sh, and the initrd flash."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ..errors import FlashError, ImageBuildError
from ..images import format_of
from ..images.formats import EXT4_ZST, TAR_ZST
from ..images.version import Version
from ..model import LUKS, Build, FlashResult, Image, InLane
from ..system.files import opened_plain
from . import cleanup, image_files, initrd_wrapper
from .bsp import FLASH_SH, INITRD_FLASH_SH, INITRD_INTERNAL_SH
from .chip_id import read_chip_id
from .initrd_host import exclusive
from .releases import external_device, network_of
from .scripts import check_result, evidence_for, log_hint, run_script, said
from .usb import RecoveryDevice, device_at, recovery_devices

_LONGEST_LOG = 1 << 16  # bytes of the end of a target's log


class FlashSh(Struct, frozen=True):
    """``flash.sh --no-flash``, later ``flash.sh -r``."""

    tree: Path

    def build_image(self, build: Build) -> Image:
        """Build the APP image with flash.sh, without a device.

        Raises:
            ImageBuildError: by its exit code, its own words, or a missing image.
        """
        _clear(self.tree, build)
        argv = [f"./{FLASH_SH}", "--no-flash", *self._options(build)]
        success = evidence_for(build, "package", ImageBuildError).watched(self.tree)
        finished = run_script(self.tree, build, argv, success, ImageBuildError)
        cleanup.remove_unusable(self.tree)
        check_result(finished, build, success, ImageBuildError)
        images = image_files.present_images(self.tree)
        raw = [path for path in images if image_files.is_raw(path)]
        # Other tools can read the raw image; flash.sh writes its sparse twin.
        ordered = [*raw, *(path for path in images if path not in raw)]
        sparse = self.tree / "bootloader/system.img"
        if sparse not in images:
            raise ImageBuildError(
                f"flash.sh reported success, but {sparse} is missing", hint=log_hint(build)
            )
        return Image(path=ordered[0], format=_format(ordered[0], build), also=tuple(ordered[1:]))

    def flash(self, build: Build) -> FlashResult:
        """Write the image to the device with flash.sh (``-r``).

        Raises:
            FlashError: by its exit code or its own words.
        """
        device = _device(build)
        success = evidence_for(build, "flash", FlashError).watched(self.tree)
        finished = run_script(
            self.tree,
            build,
            self.flash_command(build),
            success,
            FlashError,
            is_done=lambda lines: success.missing(said(lines)) is None,
        )
        check_result(finished, build, success, FlashError)
        return _flashed(build, device)

    def flash_command(self, build: Build) -> list[str]:
        """Return the call that writes the image."""
        # With --sign, flash.sh signs and exits before it has flashed anything.
        options = [word for word in self._options(build) if word != "--sign"]
        return [f"./{FLASH_SH}", "-r", *_instance(build), *options]

    def _options(self, build: Build) -> list[str]:
        settings = build.settings.bsp
        other = [] if build.rootfs_dir == self.tree / "rootfs" else ["-R", str(build.rootfs_dir)]
        return [*_size(build), *other, *settings.args, settings.board, settings.rootdev]


class InitrdFlash(Struct, frozen=True):
    """``l4t_initrd_flash.sh --no-flash``, later ``--flash-only``; in a lane its inner script."""

    tree: Path
    devices: int = 1
    """For how many devices at once the packages are built (``--massflash``)."""

    def build_image(self, build: Build) -> Image:
        """Build the packages of the initrd flash, without a device.

        Raises:
            ImageBuildError: by its exit code, its own words, or a missing image.
            PreflightError: another initrd flash is at work on this host.
        """
        _clear(self.tree, build)
        devices = ["--massflash", str(self.devices)] if self.devices > 1 else []
        argv = [f"./{INITRD_FLASH_SH}", "--no-flash", *devices, *self._options(build)]
        success = evidence_for(build, "package", ImageBuildError).watched(self.tree)
        with exclusive(build) as held:
            finished = run_script(self.tree, held, argv, success, ImageBuildError)
        cleanup.remove_unusable(self.tree)
        if devices:
            cleanup.remove_massflash_archives(self.tree)  # the whole rootfs again; no lane needs it
        check_result(finished, build, success, ImageBuildError)
        where = "external" if external_device(build, self.tree) else "internal"
        packed = image_files.packed_app(self.tree / f"tools/kernel_flash/images/{where}")
        if not packed.is_file():
            raise ImageBuildError(
                f"the initrd flash reported success, but {packed} is missing",
                hint=log_hint(build),
            )
        others = [path for path in image_files.present_images(self.tree) if path != packed]
        second = [path for path in others if path.parent == packed.parent]
        aside = [path for path in others if path not in second]
        return Image(
            path=packed, format=_format(packed, build), also=tuple(second), aside=tuple(aside)
        )

    def flash(self, build: Build) -> FlashResult:
        """Write the packages to the device with the initrd flash.

        Raises:
            FlashError: by its exit code, its own words, or those of its log.
            PreflightError: another initrd flash is at work on this host.
        """
        device = _device(build)
        before = self._logs()
        success = evidence_for(build, "flash", FlashError).watched(self.tree)

        def is_done(lines: Sequence[str]) -> bool:
            return success.missing(said(lines, self._logged(before))) is None

        if build.lane is not None:
            argv, environ = self._call_in_lane(build, build.lane), initrd_wrapper.ENVIRON
            finished = run_script(self.tree, build, argv, success, FlashError, environ, is_done)
        else:
            argv = self.flash_command(build)
            with exclusive(build) as held:
                finished = run_script(self.tree, held, argv, success, FlashError, None, is_done)
        check_result(finished, build, success, FlashError, logged=self._logged(before))
        return _flashed(build, device)

    def flash_command(self, build: Build) -> list[str]:
        """Return the call that writes the packages."""
        options = [*_instance(build), *self._options(build)]
        return [f"./{INITRD_FLASH_SH}", "--flash-only", *options]

    def _call_in_lane(self, build: Build, lane: InLane) -> list[str]:
        """Return the call that NVIDIA's wrapper makes for each device (l4t-facts)."""
        network = network_of(build)
        return [
            f"./{INITRD_INTERNAL_SH}",
            *(["--network", network] if network else []),
            *_instance(build),
            "--device-instance",
            str(lane.number),
            "--flash-only",
            *initrd_wrapper.packed_parameters(self.tree, build),
        ]

    def _logs(self) -> dict[Path, Version]:
        logs = self.tree.glob("initrdlog/*.log")
        return {log: Version.of(log) for log in logs if log.is_file()}

    def _logged(self, before: Mapping[Path, Version]) -> str:
        """Return the target's logs of this run: the host may print no success line.

        Those of an earlier one, which flashed another device perhaps, do not count.
        """
        now = self._logs().items()
        return "\n".join(_end_of(log) for log, at in sorted(now) if before.get(log) != at)

    def _options(self, build: Build) -> list[str]:
        settings = build.settings.bsp
        external = ["--external-device", settings.external_device or ""]
        layout = ["-c", settings.partition_xml or ""]
        network = network_of(build)
        return [
            *(external if settings.external_device else []),
            *(layout if settings.partition_xml else []),
            *_size(build),
            *settings.args,
            *(["--network", network] if network else []),
            settings.board,
            settings.rootdev,
        ]


def flash_method(build: Build, tree: Path, devices: int = 1) -> FlashSh | InitrdFlash:
    """Return the method that ``[bsp] method`` chooses, to build and flash images in ``tree``.

    Args:
        build: for its settings.
        tree: the Linux_for_Tegra folder.
        devices: how many devices an image is packed for, to be flashed at once.
    """
    return InitrdFlash(tree, devices) if build.settings.bsp.method == "initrd" else FlashSh(tree)


def _clear(tree: Path, build: Build) -> None:
    """Undo what an earlier run left: its images must not be taken for new ones."""
    cleanup.release(tree, ImageBuildError)
    cleanup.clear_images(tree)


def _end_of(log: Path) -> str:
    with opened_plain(log, sys.maxsize) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(-min(size, _LONGEST_LOG), os.SEEK_END)
        return stream.read().decode("utf-8", "replace")


def _size(build: Build) -> list[str]:
    return ["-S", build.settings.bsp.size] if build.settings.bsp.size else []


def _instance(build: Build) -> list[str]:
    return ["--usb-instance", build.usb_instance] if build.usb_instance is not None else []


def _device(build: Build) -> RecoveryDevice | None:
    """Return the device that will be flashed, if the host can tell."""
    sysfs = build.settings.bsp.sysfs_usb
    if build.usb_instance is not None:
        return device_at(sysfs, build.usb_instance)
    found = [] if build.sandbox else recovery_devices(sysfs)
    return found[0] if len(found) == 1 else None


def _flashed(build: Build, device: RecoveryDevice | None) -> FlashResult:
    chosen = build.usb_instance or (device.instance if device else None)
    where = f" at USB {chosen}" if build.usb_instance else ""
    return FlashResult(
        device=build.settings.bsp.board + where,
        usb_instance=chosen,
        ecid=read_chip_id(build.log_dir / "flash.log") or (device.ecid if device else None),
    )


def _format(path: Path, build: Build) -> str:
    found = format_of(path)
    if found == LUKS and build.settings.bsp.environment.get("ROOTFS_ENC") != "1":
        raise ImageBuildError(
            f"{path} is encrypted, but ROOTFS_ENC is not set",
            hint='set [bsp] environment = { ROOTFS_ENC = "1" } when that is meant',
        )
    if found in (TAR_ZST, EXT4_ZST) and (found == EXT4_ZST) != (path.suffix == ".zst"):
        way = "writes it as a raw image" if path.suffix == ".zst" else "unpacks it as an archive"
        raise ImageBuildError(
            f"{path} is {found}, but the device {way}: it goes by the name",
            hint=log_hint(build),
        )
    return found
