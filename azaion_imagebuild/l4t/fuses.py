"""The site's own fuse command: nothing can undo it, so it is shown before it runs.

It does not replace the security phase, whose checklist (secure boot, fTPM) the site works through
before or after. odmfuse.sh may fail with exit code 0: only the words that it must print count.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import FuseError, PreflightError, UsageError, raise_for
from ..model import Build, Finding, FuseResult
from ..system.log_files import make_log_dir
from ..system.process import Finished, run
from .releases import Evidence
from .scripts import environment, failure_reason, said, telling, wrong_lines
from .usb import device_findings, recovery_devices

_SERIAL, _USB_INSTANCE = "{serial}", "{usb_instance}"
_REHEARSALS = ("--noburn", "--test")  # odmfuse.sh then prints its success line and burns nothing
_SANDBOX_DEVICE = "sandbox"
_logger = logging.getLogger(__name__)


def findings(build: Build) -> list[Finding]:
    """Return what would keep the fuses from being burned; change nothing.

    Raises:
        UsageError: fusing was asked for, but no command is configured.
    """
    words = build.settings.fuse.command
    if not words:
        raise UsageError(
            "fuses are to be burned (--fuse, FUSE=1), but no command for it is configured",
            hint='set [fuse] command = ["./odmfuse.sh", …] to the site\'s own, or leave --fuse out',
        )
    return [*_command_findings(build, words), *_device_findings(build, words)]


def burn(build: Build) -> FuseResult:
    """Run the command once, in the BSP tree, without a shell.

    Raises:
        PreflightError: it was not started; nothing was burned.
        FuseError: it was started, and failed or may have failed.
    """
    device = _device(build)
    argv = [
        word.replace(_SERIAL, build.serial).replace(_USB_INSTANCE, device)
        for word in build.settings.fuse.command
    ]
    line = f"cd {shlex.quote(str(_tree(build)))} && {shlex.join(argv)}"
    _logger.warning("permanently burning the fuses of the device at USB %s by: %s", device, line)
    _logger.warning("this does not replace the security phase's checklist (secure boot, fTPM)")
    success = Evidence(line=build.settings.fuse.success, source="[fuse] success")
    finished = _run(build, argv, telling(success))
    lines = said((*finished.telling, *finished.tail))
    wrong = wrong_lines(lines)  # fuses cannot be read back here: one such line is too many
    missing = f"said: {wrong[-1]}" if wrong else success.watched(_tree(build)).missing(lines)
    what = failure_reason(finished, missing, lines, limit="[fuse] timeout")
    if what is not None:
        raise FuseError(f"{what}: which fuses are burned is not known", hint=_hint(build))
    return FuseResult(command=line, device=device)


def _run(build: Build, argv: list[str], is_telling: Callable[[str], bool]) -> Finished:
    make_log_dir(build)
    tree = _tree(build)
    try:
        return run(
            argv,
            cwd=tree,
            environ=environment(build),
            log=_log(build),
            timeout=build.settings.fuse.timeout,
            keep_open=build.lock_fds,
            is_telling=is_telling,
        )
    except OSError as error:
        if error.filename is None:  # it is not about starting the command
            raise FuseError(f"{argv[0]}: {error.strerror}", hint=_hint(build)) from None
        raise PreflightError(
            f"cannot run {argv[0]} in {tree}: {error.strerror} ({error.filename})",
            hint="nothing was burned; check [fuse] command: that it is there and executable, and"
            " that its first line names a shell",
        ) from None


def _device(build: Build) -> str:
    """Return the USB instance of the device to fuse.

    Raises:
        PreflightError: no device is in recovery mode, or several are.
    """
    if build.sandbox:
        return _SANDBOX_DEVICE
    command = build.settings.fuse.command
    raise_for([*device_findings(build), *_device_findings(build, command)], PreflightError)
    return build.usb_instance or recovery_devices(build.settings.bsp.sysfs_usb)[0].instance


def _command_findings(build: Build, words: list[str]) -> Iterator[Finding]:
    program, tree = words[0], _tree(build)
    path = tree / program if "/" in program else Path(shutil.which(program) or program)
    if not (path.is_file() and os.access(path, os.X_OK)):
        yield Finding(
            message=f"[fuse] command: {path} is not an executable program",
            hint="name it with its path, from the BSP tree on: ./odmfuse.sh",
        )
    elif build.sandbox and not path.resolve().is_relative_to(tree.resolve()):
        yield Finding(
            message=f"[fuse] command: {path} is not part of the sandbox",
            hint="leave --fuse out in the sandbox; a real build needs --bsp and --api-url",
        )
    for word in words:
        if word in _REHEARSALS:
            yield Finding(
                message=f"[fuse] command has {word}: it would burn nothing, and the ledger would"
                " say that it did",
                hint=f"rehearse by hand, and leave {word} out of the configuration",
            )


def _device_findings(build: Build, words: list[str]) -> Iterator[Finding]:
    """Check that the command cannot burn another device."""
    if build.sandbox or build.usb_instance is None or any(_USB_INSTANCE in w for w in words):
        return
    found = recovery_devices(build.settings.bsp.sysfs_usb)
    if len(found) > 1:
        yield Finding(
            message=f"{len(found)} devices are in recovery mode, and [fuse] command does not say"
            " which one it burns",
            hint="put {usb_instance} into it where the command takes one, or unplug the others",
        )


def _tree(build: Build) -> Path:
    assert build.bsp_dir is not None  # noqa: S101 - only a build with a BSP is asked to fuse
    return build.bsp_dir


def _log(build: Build) -> Path:
    return build.log_dir / "fuse.log"


def _hint(build: Build) -> str:
    sandbox = "--sandbox " if build.sandbox else ""
    return (
        "the command is never repeated automatically: read the device's fuses, see the log"
        f" {_log(build)}, then"
        f" azaion-imagebuild ledger resolve {sandbox}--reason … {build.serial} fused (or unfused)"
    )
