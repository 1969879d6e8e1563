"""The smoke test: logs in at the Loader of the flashed device with the device's credentials."""

from __future__ import annotations

from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import UsageError
from azaion_imagebuild.model import Build, DeviceIdentity, Finding, FlashResult


@hookimpl
def preflight(build: Build) -> list[Finding]:
    url = _loader_url(build, build.settings.bsp.usb_instance)
    if url is not None:
        from azaion_imagebuild.http_client import checked_url

        try:
            checked_url(url, "[smoke] loader_url")
        except UsageError as error:
            return [Finding(message=error.message, hint=error.hint)]
    return []


@hookimpl
def post_flash(
    build: Build, identity: DeviceIdentity, result: FlashResult | None
) -> dict[str, str] | None:
    url = _loader_url(build, result.usb_instance if result else None)
    if url is None or result is None:
        return None
    from azaion_imagebuild.loader import smoke_test  # late: most builds need none

    smoke_test(url, identity.email, identity.password, build.settings.smoke.wait)
    return {"smoke": "logged in"}


def _loader_url(build: Build, usb_instance: str | None) -> str | None:
    url = build.settings.smoke.loader_url
    if url is None:
        return None
    return url.replace("{serial}", build.serial).replace("{usb_instance}", usb_instance or "")
