"""Making a Build out of settings: on real parts or in the sandbox. The plain Python way in."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from ..config.state_dir import state_dir_of
from ..errors import UsageError
from ..identity.serial import email_for, parse_serial
from ..model import BASE, Build, BuildRecord, Finding
from ..pipeline import recipes as pipeline
from ..pipeline.attempt import Watcher
from ..pipeline.hookspecs import REQUIRED, STAGING
from ..pipeline.plugins import load_plugins
from ..pipeline.watchers import tracer_of
from ..settings import Settings

if TYPE_CHECKING:
    from ..ledger import Ledger
    from ..sandbox import Sandbox


def build_image(serial: str, settings: Settings, watcher: Watcher) -> BuildRecord:
    """Build, prove and flash one device's image; in the sandbox when no BSP and no API are set.

    Raises:
        UsageError: the serial or the settings are wrong; nothing has been done.
    """
    serial = parse_serial(serial, settings.serial.pattern)
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    with parts(settings) as (used, sandbox), the_ledger(settings) as ledger:
        return pipeline.run(_image_build(serial, used, sandbox), hook, watcher, ledger)


def build_base(settings: Settings, watcher: Watcher, out: Path | None) -> BuildRecord:
    """Build an image with a placeholder in place of an identity; copy it to ``out`` if given.

    Raises:
        UsageError: the settings are wrong, or ``out`` cannot be made; nothing has been done.
        ImageBuildError: the image was built, but cannot be copied.
    """
    from ..images.stamp import check_new_file, copy_image  # late, as all that `provision` needs not

    if out is not None:
        check_new_file(out)
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    with parts(settings) as (used, sandbox):
        record = pipeline.base(base_build(used, sandbox=sandbox), hook, watcher)
    if out is None or record.image is None or record.error is not None:
        return record
    copy_image(record.image.path, out)
    return structs.replace(record, image=structs.replace(record.image, path=out, also=()))


def provision(serial: str, settings: Settings, watcher: Watcher) -> BuildRecord:
    """Create or update the account and write device.conf, which stays (runbook, step 4).

    Raises:
        UsageError: the serial or the settings are wrong; nothing has been done.
    """
    serial = parse_serial(serial, settings.serial.pattern)
    rootfs_dir = settings.bsp.rootfs_dir
    if rootfs_dir is None or settings.admin_api.url is None:
        raise UsageError(
            "provision needs an admin API and a rootfs",
            hint="give --api-url and --rootfs-dir; to try without any: azaion-imagebuild image",
        )
    hook = load_plugins(settings.hooks, required=STAGING).hook
    return pipeline.provision(_build(serial, settings, rootfs_dir), hook, watcher)


def examine(settings: Settings, *, api: bool = False) -> list[Finding]:
    """Return what would keep a build from starting; nothing is changed (``doctor``).

    With ``api`` the admin API is held against its contract, too; without a BSP, it alone.
    """
    if api and settings.bsp.dir is None and settings.admin_api.url is not None:
        alone = "no BSP is set: only the admin API is looked at"
        return _probed(settings, [Finding(message=alone, hint="give --bsp", severity="warning")])
    hook = load_plugins(settings.hooks, required=REQUIRED).hook
    with parts(settings) as (used, sandbox):
        build = _image_build("DOCTOR-0", used, sandbox)
        findings = [finding for found in hook.preflight(build=build) for finding in found or ()]
        traces = tracer_of(settings.log)
        findings += [traces] if isinstance(traces, Finding) else []
        return _probed(used, findings) if api else findings


def parts_in_words(settings: Settings) -> str:
    """Return what a build with these settings, which :func:`examine` has taken, works with."""
    bsp, url = settings.bsp.dir, settings.admin_api.url
    if bsp is None and url is None:
        return "the SANDBOX: neither a BSP nor an API is set by flags, variables or imagebuild.toml"
    return ", ".join([*([f"the BSP {bsp}"] if bsp else []), f"the admin API {url}"])


def _probed(settings: Settings, findings: list[Finding]) -> list[Finding]:
    """Add what a probe of the admin API finds, unless a plug-in has knocked in vain already."""
    from ..admin_api.client import REACH_HINT
    from ..admin_api.probe import probe  # late: asked for by name only

    if any(finding.hint == REACH_HINT for finding in findings):
        return findings
    return list(dict.fromkeys([*findings, *probe(settings.admin_api)]))


@contextmanager
def parts(settings: Settings) -> Iterator[tuple[Settings, bool]]:
    """Yield the settings to build with, and whether they are the sandbox's.

    Raises:
        UsageError: one part is set without the other: a real build never falls into the sandbox.
    """
    if is_sandbox(settings):
        with the_sandbox(settings).running(settings) as used:
            yield used, True
    else:
        yield settings, False


def is_sandbox(settings: Settings) -> bool:
    """Tell whether a build with these settings runs on the embedded parts.

    Raises:
        UsageError: one part is set without the other: a real build never falls into the sandbox.
    """
    needed = {"BSP (--bsp)": settings.bsp.dir, "API_URL (--api-url)": settings.admin_api.url}
    given = needed | {"ROOTFS_DIR (--rootfs-dir)": settings.bsp.rootfs_dir}
    if all(value is not None for value in needed.values()):
        return False
    if all(value is None for value in given.values()):
        return True
    there = " and ".join(name for name, value in given.items() if value is not None)
    missing = " and ".join(name for name, value in needed.items() if value is None)
    raise UsageError(
        f"{there} is set, but not {missing}",
        hint="a real build needs both; with none of them the build runs in the sandbox",
    )


@contextmanager
def parts_of_api(settings: Settings) -> Iterator[Settings]:
    """Yield the settings with an admin API: the configured one, or the sandbox's."""
    if settings.admin_api.url is not None:
        yield settings
    else:
        with the_sandbox(settings).running(settings) as used:
            yield used


def stamping_build(serial: str, settings: Settings, *, sandbox: bool = False) -> Build:
    """Return the build of a device whose image is stamped: no rootfs takes part in it."""
    return _build(serial, settings, Path(os.devnull), sandbox=sandbox)


def device_build(serial: str, settings: Settings, *, sandbox: bool) -> Build:
    """Return the build of a device, with the settings' BSP."""
    return _image_build(serial, settings, sandbox)


def base_build(settings: Settings, *, sandbox: bool) -> Build:
    """Return the build of an image with a placeholder, which is never flashed."""
    quiet = structs.replace(settings.build, flash=False)
    return _image_build(BASE, structs.replace(settings, build=quiet), sandbox)


def the_ledger(settings: Settings) -> Ledger:
    """Return the ledger of these settings: by default the one of this user's state folder."""
    from ..ledger import ledger_of  # late, as all that `provision` needs not

    return ledger_of(settings.ledger, state_dir_of(settings))


def ledger_to_read(settings: Settings) -> Ledger:
    """Return the ledger, an empty one where there is none yet: a look makes no file."""
    from ..ledger import Ledger
    from ..ledger.store import FILE

    if settings.ledger.database is None and not (state_dir_of(settings) / FILE).exists():
        return Ledger("sqlite://")
    return the_ledger(settings)


def the_sandbox(settings: Settings) -> Sandbox:
    """Return the sandbox of this user's state folder."""
    from ..sandbox import Sandbox  # late: a real build needs none

    return Sandbox(state_dir_of(settings) / "sandbox")


def _image_build(serial: str, settings: Settings, sandbox: bool) -> Build:
    bsp_dir = settings.bsp.dir
    assert bsp_dir is not None  # noqa: S101 - parts() has looked
    rootfs_dir = settings.bsp.rootfs_dir or bsp_dir / "rootfs"
    return _build(serial, settings, rootfs_dir, bsp_dir=bsp_dir, sandbox=sandbox)


def _build(
    serial: str,
    settings: Settings,
    rootfs_dir: Path,
    *,
    bsp_dir: Path | None = None,
    sandbox: bool = False,
) -> Build:
    attempt = unique_name()
    return Build(
        serial=serial,
        email=email_for(serial),
        attempt=attempt,
        settings=settings,
        rootfs_dir=rootfs_dir,
        bsp_dir=bsp_dir,
        log_dir=state_dir_of(settings) / "logs" / serial / attempt,
        sandbox=sandbox,
        flash=settings.build.flash,
        fuse=settings.build.fuse and bsp_dir is not None,
    )


def unique_name() -> str:
    """Return a name that no other attempt or fleet has; names sort by their time (UTC)."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(6)}"
