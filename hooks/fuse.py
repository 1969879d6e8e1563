"""The fuses: runs the site's own fuse command if --fuse asks for it."""

from __future__ import annotations

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, Finding, FuseResult


@hookimpl
def preflight(build: Build) -> list[Finding]:
    if not build.fuse:
        return []
    from azaion_imagebuild.l4t import fuses  # imported late: most builds do not need it

    return fuses.findings(build)


@hookimpl
def fuse(build: Build) -> FuseResult:
    from azaion_imagebuild.l4t import fuses

    return fuses.burn(build)
