"""The account: checks that the admin API can be used, then enrolls the device there."""

from __future__ import annotations

import stat
from contextlib import nullcontext

from azaion_imagebuild import hookimpl
from azaion_imagebuild.admin_api.client import AdminApi, not_reached
from azaion_imagebuild.errors import UsageError
from azaion_imagebuild.identity.serial import new_password
from azaion_imagebuild.model import Build, DeviceIdentity, Finding
from azaion_imagebuild.pipeline.shared import SharedResources
from azaion_imagebuild.settings import AdminApiSettings
from azaion_imagebuild.system.unreachable import Unreachable
from azaion_imagebuild.system.url import is_loopback


@hookimpl
def preflight(build: Build) -> list[Finding]:
    settings = build.settings.admin_api
    try:
        with AdminApi(settings) as api:
            return [*_warnings(settings), *_unreachable(settings, api)]
    except UsageError as error:
        return [Finding(message=error.message, hint=error.hint)]


@hookimpl
def provision_identity(build: Build) -> DeviceIdentity:
    settings = build.settings.admin_api
    with nullcontext(build.shared) if build.shared else SharedResources() as shared:
        api = shared.open_once("admin_api", lambda: AdminApi(settings))
        give = api.rotate if build.rotates else api.enroll
        return give(build.serial, build.email, new_password())


def _warnings(settings: AdminApiSettings) -> list[Finding]:
    found = []
    if str(settings.url).startswith("http://") and not is_loopback(str(settings.url)):
        found.append(
            Finding(
                severity="warning",
                hint="use https",
                message="API_URL is plain http: passwords cross the network in the clear",
            )
        )
    secret = settings.token_file
    if secret is not None and secret.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        found.append(
            Finding(
                severity="warning",
                hint=f"chmod 600 {secret}",
                message=f"other users may read the token file {secret}",
            )
        )
    return found


def _unreachable(settings: AdminApiSettings, api: AdminApi) -> list[Finding]:
    """Knock at the API's port: a VPN that is down is better found before anything changes."""
    try:
        api.reach()
    except Unreachable as error:
        return [not_reached(settings, error)]
    return []
