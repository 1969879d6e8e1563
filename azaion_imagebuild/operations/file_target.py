"""A device.conf on this host, to be brought to the device."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from ..errors import StagingError, UsageError, VerificationError
from ..identity import device_conf
from ..identity.placeholder import placeholder
from ..model import Build, DeviceIdentity
from ..pipeline.target import Opened
from ..system.files import opened_folder, prepared_file, read_plain
from ..system.locks import locked
from .existing import parsed

_logger = logging.getLogger(__name__)


class ConfFile(Struct, frozen=True, kw_only=True):
    """A device.conf on this host, 0600, to be brought to the device."""

    path: Path
    held: bool = False
    """Its folder is locked already."""

    @contextmanager
    def opened(self, build: Build) -> Iterator[Opened]:
        """Check the existing file, and prepare a new one beside it."""
        template = device_conf.template_of(build.settings.device_conf)
        trial = device_conf.render(template, device_conf.trial_identity(build.serial, build.email))
        folders = [] if self.held else [self.path.parent]
        with locked(folders, build.settings.build.lock_wait), ExitStack() as stack:
            _check_existing(self.path, build)
            try:
                folder = stack.enter_context(opened_folder(self.path.parent))
                stream, publish = stack.enter_context(prepared_file(folder, self.path.name))
                _write_all(stream, placeholder(len(trial)))  # so there is room
            except OSError as error:
                raise UsageError(
                    f"cannot write {self.path}: {error.strerror}",
                    hint="name a file in a folder of your own, with room",
                ) from None
            yield _OpenedFile(self.path, stream, publish, template)


class _OpenedFile:
    image = None

    def __init__(
        self, path: Path, stream: BinaryIO, publish: Callable[[], None], template: str
    ) -> None:
        self.files = (path,)
        self._path, self._stream, self._publish, self._template = path, stream, publish, template
        self._data = b""

    def write(self, identity: DeviceIdentity) -> None:
        self._data = device_conf.render(self._template, identity)
        with self._errors():
            _write_all(self._stream, self._data)

    def publish(self) -> None:
        with self._errors():
            self._publish()
            found = read_plain(self._path)
        if found != self._data:
            raise VerificationError(
                f"{self._path} reads back other bytes than were written", hint="check its disk"
            )

    def undo(self) -> None:
        """The new file goes when the target is closed."""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StagingError(
                f"cannot write {self._path}: {error.strerror}",
                hint="make room or name another file, then run the same command again",
            ) from None


def _check_existing(path: Path, build: Build) -> None:
    """Refuse to overwrite a file of another device, or one that is not a device.conf."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError(f"{path} is not a regular file", hint="name a new file")
        data = read_plain(path, device_conf.LONGEST)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a new file") from None
    found = parsed(data)
    if found is None or found.email != build.email:
        raise UsageError(
            f"{path} exists already, and is not a device.conf of {build.serial}",
            hint="name a new file",
        )
    _logger.warning("%s holds an older credential of %s: it is replaced", path, build.serial)


def _write_all(stream: BinaryIO, data: bytes) -> None:
    """Replace the content of an open file, and sync it."""
    stream.seek(0)
    stream.write(data)
    stream.truncate()
    stream.flush()
    os.fsync(stream.fileno())
