"""The smoke test: logs in at the Loader of the flashed device with the device's credentials."""

from __future__ import annotations

from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import UsageError
from azaion_imagebuild.identity.device_conf import DeviceConf
from azaion_imagebuild.model import Build, DeviceIdentity, Finding, FlashResult


@hookimpl
def preflight(build: Build) -> list[Finding]:
    settings = build.settings.smoke
    if settings.loader_url is None:
        return []
    from azaion_imagebuild.loader import (
        client as loader,
    )  # imported late: most builds do not need it

    try:
        loader.loader_url(settings, build.serial, build.usb_instance)
        loader.transport(settings)
    except UsageError as error:
        return [Finding(message=error.message, hint=error.hint)]
    return []


@hookimpl
def post_flash(
    build: Build, identity: DeviceIdentity, result: FlashResult | None
) -> dict[str, str] | None:
    settings = build.settings.smoke
    if settings.loader_url is None or result is None:
        return None
    from azaion_imagebuild.loader import client as loader

    url = loader.loader_url(settings, build.serial, result.usb_instance)
    credentials = DeviceConf(email=identity.email, password=identity.password)
    loader.smoke_test(url, credentials, settings)
    return {"smoke": loader.LOGGED_IN}
