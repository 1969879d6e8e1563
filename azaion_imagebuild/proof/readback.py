"""Reading a device's credentials back, from its device.conf, a rootfs or an image."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path

from .. import images
from ..errors import StagingError, UsageError, VerificationError
from ..identity import device_conf
from ..identity.device_conf import DeviceConf
from ..model import DEVICE_CONF, FileEntry
from ..rootfs.tree import Rootfs
from ..system.files import read_plain


def of_device_conf(path: Path) -> DeviceConf:
    """Return the credentials in a device.conf on this host.

    Raises:
        UsageError: it cannot be read, or is not a device.conf.
    """
    try:
        data = read_plain(path, device_conf.LONGEST).removeprefix(BOM_UTF8)
        return device_conf.parse(data)
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="check --device-conf"
        ) from None
    except device_conf.MalformedDeviceConf as error:
        raise UsageError(
            f"{path} is not a device.conf: {error}", hint="check --device-conf"
        ) from None


def of_rootfs(folder: Path) -> DeviceConf:
    """Return the credentials in the device.conf of a rootfs folder.

    Raises:
        VerificationError: it is not there, cannot be read, or is malformed.
    """
    try:
        with Rootfs(folder) as rootfs:
            entry = rootfs.read_file(DEVICE_CONF, device_conf.LONGEST)
    except StagingError as error:
        raise VerificationError(error.message, hint=error.hint) from None
    return _parsed(entry, folder)


def of_image(image: Path) -> DeviceConf:
    """Return the credentials in the device.conf of an image of any format.

    Raises:
        VerificationError: it is not there, cannot be read, or is malformed.
    """
    return _parsed(images.read_file(image, DEVICE_CONF, device_conf.LONGEST), image)


def _parsed(entry: FileEntry | None, where: Path) -> DeviceConf:
    hint = "name what the device was flashed with, or its device.conf by --device-conf"
    if entry is None:
        raise VerificationError(f"{where} holds no /{DEVICE_CONF}", hint=hint)
    try:
        return device_conf.parse(entry.data)
    except device_conf.MalformedDeviceConf as error:
        raise VerificationError(f"/{DEVICE_CONF} in {where} is {error.what}", hint=hint) from None
