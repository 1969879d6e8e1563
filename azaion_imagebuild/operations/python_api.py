"""The tool as plain Python: one function a command, settings by name, failures raised.

The functions are re-exported by :mod:`azaion_imagebuild`. Each takes

* ``config``: the configuration file; None takes ``imagebuild.toml`` of this folder, if there is
  one;
* ``watcher``: a callable that is told each :class:`~azaion_imagebuild.pipeline.events.Event`;
* any setting by the name of its variable, without ``AZAION_IMAGEBUILD_`` and in lower case:
  ``flash=False``, ``bsp="/srv/l4t/Linux_for_Tegra"``, ``bsp_method="initrd"``. These come before
  the environment, and the environment before the file, as with the command line's flags.

A failure is raised as the :class:`~azaion_imagebuild.errors.OperatorError` that the command would
show: ``str()`` gives what is wrong and the hint, ``exit_code`` the command's exit code, and
``record`` what had been done by then, if a build had begun. An interrupt stays a KeyboardInterrupt.
No handler is added to the root logger, and no stream is redirected.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.loading import keys, load, named_config, unknown
from ..errors import InterruptedBuild, UsageError, VerificationError, raise_for
from ..identity.serial import parse_serial
from ..settings import ENV_PREFIX, Settings

if TYPE_CHECKING:
    from ..model import BuildRecord
    from ..pipeline.events import Event, Watcher
    from .smoke import SmokeReport
    from .stamp import StampRecord
    from .verify import Report

StrPath = str | os.PathLike[str]


def _nobody(event: Event) -> None:
    """Watch nothing."""


def build_image(
    serial: str, *, config: StrPath | None = None, watcher: Watcher = _nobody, **settings: Any
) -> BuildRecord:
    """Build, prove and flash one device's image, as ``azaion-imagebuild image`` does.

    With neither ``bsp`` nor ``api_url`` set anywhere, it runs in the sandbox. Repeating it is safe.

    Raises:
        OperatorError: it failed, and why.
    """
    from .image import build_image

    return _of(build_image(serial, _settings(config, settings), watcher))


def provision(
    serial: str, *, config: StrPath | None = None, watcher: Watcher = _nobody, **settings: Any
) -> BuildRecord:
    """Create or update the account and write device.conf into ``rootfs_dir``, where it stays.

    Raises:
        OperatorError: it failed, and why.
    """
    from .image import provision

    return _of(provision(serial, _settings(config, settings), watcher))


def stamp(
    image: StrPath,
    serial: str,
    *,
    out: StrPath | None = None,
    device_conf: StrPath | None = None,
    replace: bool = False,
    config: StrPath | None = None,
    watcher: Watcher = _nobody,
    **settings: Any,
) -> BuildRecord | StampRecord:
    """Put a device's identity into a finished image, and prove it.

    Args:
        image: a raw ext4, Android sparse, tar or tar.zst image.
        serial: the device.
        out: a new file for the stamped image; ``image`` then stays as it is.
        device_conf: stamp these credentials (a StampRecord is returned); None: new ones.
        replace: overwrite the identity of another device, too.
        config: see the module.
        watcher: see the module; it is told nothing where ``device_conf`` is given.
        settings: see the module.

    Raises:
        OperatorError: it failed, and why.
    """
    from .stamp import stamp, stamp_given

    used, target = _settings(config, settings), Path(image)
    new = None if out is None else Path(out)
    if device_conf is not None:
        return stamp_given(target, serial, used, Path(device_conf), out=new, replace=replace)
    return _of(stamp(target, serial, used, watcher, out=new, replace=replace))


def verify(
    target: StrPath, serial: str, *, config: StrPath | None = None, **settings: Any
) -> Report:
    """Return what device.conf of a rootfs folder or an image was found to hold: this identity.

    Raises:
        VerificationError: it holds another identity or none, or cannot be read.
        OperatorError: the call is wrong.
    """
    from .verify import verify

    used = _settings(config, settings)
    report = verify(Path(target), parse_serial(serial, used.serial.pattern), used.device_conf)
    raise_for(report.findings, VerificationError)
    return report


def smoke(
    serial: str | None = None,
    *,
    image: StrPath | None = None,
    device_conf: StrPath | None = None,
    config: StrPath | None = None,
    **settings: Any,
) -> SmokeReport:
    """Log in at a booted device's Loader with the device's own credentials.

    They are read from ``image``, ``device_conf``, or the setting ``rootfs_dir``: one of these.
    ``smoke_loader_url`` names the Loader; ``smoke_wait`` gives it seconds to boot (default: 0).

    Raises:
        OperatorError: the device does not log in, and why.
    """
    from ..proof import readback
    from .smoke import smoke

    used = _settings(config, {"smoke_wait": 0, **settings})
    if image is not None and device_conf is not None:
        raise UsageError("image and device_conf are both given", hint="give one of them")
    if device_conf is not None:
        credentials = readback.of_device_conf(Path(device_conf))
    elif image is not None:
        credentials = readback.of_image(Path(image))
    elif used.bsp.rootfs_dir is not None:
        credentials = readback.of_rootfs(used.bsp.rootfs_dir)
    else:
        raise UsageError(
            "nothing to read the credentials from", hint="give image, device_conf or rootfs_dir"
        )
    report = smoke(credentials, serial, used)
    if report.error is not None:
        raise report.error
    return report


def _settings(config: StrPath | None, given: dict[str, Any]) -> Settings:
    places = {key.env.removeprefix(ENV_PREFIX).lower(): (key.section, key.name) for key in keys()}
    for name in given:
        if name not in places:
            raise unknown(f"setting {name}", name, set(places))
    flags = {places[name]: value for name, value in given.items()}
    return load(flags, os.environ, named_config(config))


def _of(record: BuildRecord) -> BuildRecord:
    """Return the record of a success; raise the error of any other."""
    if isinstance(record.error, InterruptedBuild):
        raise KeyboardInterrupt from record.error
    if record.error is not None:
        record.error.record = record
        raise record.error
    return record
