"""Checking whether a build could start here, without changing anything."""

from __future__ import annotations

from msgspec import structs

from ..model import Finding
from ..pipeline.answers import flatten
from ..pipeline.hookspecs import REQUIRED
from ..pipeline.new import base_build
from ..pipeline.plugins import load_plugins, preflight
from ..pipeline.watchers import tracer_of
from ..settings import Settings
from .parts import parts


def examine(settings: Settings, *, api: bool = False) -> list[Finding]:
    """Return what would stop a build from starting.

    With ``api`` the admin API is also tested against its contract; without a BSP, only the API is.
    """
    if api and settings.bsp.dir is None and settings.admin_api.url is not None:
        alone = "no BSP is set: only the admin API is checked"
        return _probed(settings, [Finding(message=alone, hint="give --bsp", severity="warning")])
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    with parts(settings) as (used, sandbox):
        build = structs.replace(base_build(used, sandbox=sandbox), flash=used.build.flash)
        findings = [*flatten(preflight(build, hook))]
        traces = tracer_of(settings.log)
        findings += [traces] if isinstance(traces, Finding) else []
        return _probed(used, findings) if api else findings


def parts_in_words(settings: Settings) -> str:
    """Describe what a build with these settings, which :func:`examine` has accepted, works with."""
    bsp, url = settings.bsp.dir, settings.admin_api.url
    if bsp is None and url is None:
        return "the SANDBOX: neither a BSP nor an API is set by flags, variables or imagebuild.toml"
    return ", ".join([*([f"the BSP {bsp}"] if bsp else []), f"the admin API {url}"])


def _probed(settings: Settings, findings: list[Finding]) -> list[Finding]:
    """Add what a probe of the admin API finds, unless a plug-in could not reach it already."""
    from ..admin_api.client import is_not_reached
    from ..admin_api.probe import probe  # imported late: only --api needs it

    if any(map(is_not_reached, findings)):
        return findings
    return list(dict.fromkeys([*findings, *probe(settings.admin_api)]))
