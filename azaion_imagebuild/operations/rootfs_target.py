"""A root filesystem in a folder, into which a credential is written outside a build."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct, structs

from ..errors import PreflightError, VerificationError, raise_for
from ..identity import device_conf
from ..identity.placeholder import placeholder
from ..model import (
    DEVICE_CONF,
    DEVICE_CONF_MODE,
    Build,
    DeviceIdentity,
    Finding,
    Ownership,
    StagedFile,
)
from ..pipeline.target import Opened
from ..proof.identity import Expected, prove
from ..rootfs import staging
from ..rootfs.tree import Rootfs
from ..system.locks import locked
from .existing import refuse_other_device

_logger = logging.getLogger(__name__)


class RootfsFolder(Struct, frozen=True, kw_only=True):
    """A root filesystem in a folder."""

    path: Path

    @contextmanager
    def opened(self, build: Build) -> Iterator[Opened]:
        """Check it as a build does, and try to write, with its present content."""
        held = structs.replace(build, rootfs_dir=self.path)
        with locked([self.path], build.settings.build.lock_wait):
            _heed(staging.findings(held))
            with Rootfs(self.path) as rootfs:
                ownership = staging.ownership_in(held, rootfs)
                existing = rootfs.read_file(DEVICE_CONF, device_conf.LONGEST)
                if existing is not None:
                    refuse_other_device(existing.data, self.path / DEVICE_CONF, build)
                tried = rootfs.write_file(
                    DEVICE_CONF,
                    existing.data if existing else placeholder(),
                    mode=DEVICE_CONF_MODE,
                    ownership=ownership,
                )
            opened = _OpenedRootfs(held, ownership, existing.data if existing else None)
            try:
                yield opened
            finally:
                if existing is None and not opened.written:
                    staging.unstage(held, (tried,))


class _OpenedRootfs:
    image = None

    def __init__(self, build: Build, ownership: Ownership, before: bytes | None) -> None:
        self._before = before
        self.files = (build.rootfs_dir / DEVICE_CONF,)
        self.written = False
        self._build, self._ownership = build, ownership

    def write(self, identity: DeviceIdentity) -> StagedFile:
        staged = staging.stage(self._build, identity, self._ownership)
        self.written = True
        with Rootfs(self._build.rootfs_dir) as rootfs:
            entry = rootfs.read_file(DEVICE_CONF, device_conf.LONGEST)
        expected = Expected(
            email=identity.email,
            owner=(self._ownership.uid, self._ownership.gid),
            password=identity.password,
            sha256=staged.sha256,
        )
        raise_for(prove(entry, str(self._build.rootfs_dir), expected), VerificationError)
        return staged

    def publish(self) -> None:
        pass

    def undo(self) -> None:
        if self._before is None:
            self.written = False  # opened() removes the file that it tried to write
            return
        with Rootfs(self._build.rootfs_dir) as rootfs:
            rootfs.write_file(
                DEVICE_CONF, self._before, mode=DEVICE_CONF_MODE, ownership=self._ownership
            )


def _heed(findings: Sequence[Finding]) -> None:
    for each in findings:
        if each.severity == "warning":
            _logger.warning("%s (%s)", each.message, each.hint)
    raise_for(findings, PreflightError)
