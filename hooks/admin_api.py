"""The account: checks the admin API, creates the account, sets a known one's password last."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from azaion_imagebuild import hookimpl
from azaion_imagebuild.admin_api.client import (
    PLUGIN,
    ROTATE_HINT,
    UPDATE_HINT,
    AdminApi,
    not_reached,
)
from azaion_imagebuild.errors import ProvisioningError, UsageError
from azaion_imagebuild.identity.serial import new_password
from azaion_imagebuild.model import Build, DeviceIdentity, Finding
from azaion_imagebuild.pipeline.shared import SharedResources
from azaion_imagebuild.settings import AdminApiSettings
from azaion_imagebuild.system.unreachable import Unreachable
from azaion_imagebuild.system.url import is_loopback

_logger = logging.getLogger(__name__)


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
    with _api(build) as api:
        give = api.renew if build.rotates else api.create
        identity = give(build.serial, build.email, new_password())
    if identity.pending is not None and build.bsp_dir is not None and not build.stamps:
        _require_update(build.settings.admin_api)
    return identity


@hookimpl
def activate_identity(build: Build, identity: DeviceIdentity) -> bool:
    if identity.pending is None or identity.pending.plugin != PLUGIN:
        return False
    with _api(build) as api:
        api.activate(identity, ROTATE_HINT if build.rotates else UPDATE_HINT)
    return True


@contextmanager
def _api(build: Build) -> Iterator[AdminApi]:
    settings = build.settings.admin_api
    with nullcontext(build.shared) if build.shared else SharedResources() as shared:
        yield shared.open_once("admin_api", lambda: AdminApi(settings))


def _require_update(settings: AdminApiSettings) -> None:
    """Check that the API can set the password, before building an image, which takes minutes.

    Raises:
        ProvisioningError: the admin API has no request that updates an account.
    """
    from azaion_imagebuild.admin_api.probe import (
        missing_update,
    )  # imported late: few builds need it

    found = missing_update(settings)
    if found is None:
        return
    if found.severity == "error":
        raise ProvisioningError(f"the account exists, but {found.message}", hint=found.hint)
    _logger.warning("the account exists, but %s (%s)", found.message, found.hint)


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
    """Connect to the API, to find a VPN that is down before anything changes."""
    try:
        api.reach()
    except Unreachable as error:
        return [not_reached(settings, error)]
    return []
