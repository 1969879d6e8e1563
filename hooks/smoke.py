"""The smoke test: logs in at the Loader of the flashed device with the device's credentials."""

from __future__ import annotations

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import Build, DeviceIdentity, FlashResult


@hookimpl
def post_flash(
    build: Build, identity: DeviceIdentity, result: FlashResult | None
) -> dict[str, str] | None:
    url = build.settings.smoke.loader_url
    if url is None or result is None:
        return None
    from azaion_imagebuild.loader import smoke_test  # late: most builds need none

    smoke_test(url.replace("{serial}", build.serial), identity.email, identity.password)
    return {"smoke": "logged in"}
