"""device.conf: writes it into the rootfs with its owner and mode, and removes it afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, DeviceIdentity, Finding, Ownership, StagedFile
from azaion_imagebuild.rootfs import staging


@hookimpl
def preflight(build: Build) -> list[Finding]:
    return staging.findings(build)


@hookimpl
def prepare(build: Build) -> Ownership:
    return staging.clear_stale(build)


@hookimpl
def pre_flash(build: Build, identity: DeviceIdentity, ownership: Ownership) -> list[StagedFile]:
    if build.stamps:
        return []  # the plug-in base puts it into the image
    return [staging.stage(build, identity, ownership)]


@hookimpl
def post_flash(build: Build, staged: Sequence[StagedFile]) -> None:
    staging.unstage(build, staged)


@hookimpl
def build_failed(build: Build, staged: Sequence[StagedFile]) -> None:
    staging.unstage(build, staged)
