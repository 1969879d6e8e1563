"""Escrow: keeps each new credential, encrypted to the public keys of [escrow]."""

from __future__ import annotations

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, DeviceIdentity, Finding


@hookimpl
def preflight(build: Build) -> list[Finding]:
    return pre_provision(build)


@hookimpl
def pre_provision(build: Build) -> list[Finding]:
    if not build.settings.escrow.recipients:
        return []
    from azaion_imagebuild.identity import escrow  # imported late: most sites have none

    return escrow.findings(build)


@hookimpl
def post_provision(build: Build, identity: DeviceIdentity) -> dict[str, str] | None:
    if not build.settings.escrow.recipients:
        return None
    from azaion_imagebuild.identity import escrow

    return {"escrow": str(escrow.keep(build, identity))}
