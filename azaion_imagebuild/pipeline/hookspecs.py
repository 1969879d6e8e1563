"""The steps of a build, as hooks: what an implementer may do, and what the core does with it.

Steps run in the order of this page. Every argument is frozen; an implementation may take fewer of
them. To stop a build, raise an :class:`~azaion_imagebuild.errors.OperatorError` with a hint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from ..model import (
    Build,
    DeviceIdentity,
    Finding,
    FlashResult,
    FuseResult,
    Image,
    Ownership,
    StagedFile,
)

hookspec = pluggy.HookspecMarker("azaion_imagebuild")


@hookspec
def preflight(build: Build) -> Sequence[Finding] | None:
    """Check, without changing anything, whether this device may be built, and whether it can.

    All plug-ins are asked; every finding is shown together. An error stops the attempt (exit 3)
    before anything of the device is changed. Your plug-ins are asked for each device, by ``image``,
    ``provision``, ``stamp``, ``rotate``, ``fleet`` and stations alike, and never without one. The
    shipped ones check the host: for ``image`` and ``provision``, and once for a base or ``doctor``.
    """


@hookspec(firstresult=True)
def prepare(build: Build) -> Ownership | None:
    """Remove what an earlier attempt left in the rootfs; return the owner of device.conf.

    The first plug-in that answers has done it. Runs before any account is touched.
    """


@hookspec(firstresult=True)
def fuse(build: Build) -> FuseResult | None:
    """Burn the device's fuses, which cannot be undone; the first plug-in that answers has done it.

    Called only with ``--fuse``, and only if the ledger does not show the serial as fused. If
    nothing was burned, raise a PreflightError. After any other exception the ledger says
    ``unknown``, and the step is not called again until a person has decided. A signal waits until
    the step has returned.
    """


@hookspec
def pre_provision(build: Build) -> Sequence[Finding] | None:
    """Check, without changing anything, what a new credential needs.

    As ``preflight``, but asked right before the account is touched: the rootfs has been prepared,
    and the fuses may be burned. All plug-ins are asked. An error stops the attempt (exit 3).
    """


@hookspec(firstresult=True)
def provision_identity(build: Build) -> DeviceIdentity | None:
    """Create the device's account, or give it a new password; return its identity.

    The first plug-in that answers is the identity's source. Must be safe to repeat. The password
    may be one that the API issued: a line of printable characters. With ``build.rotates`` the
    account exists: do not create a new one.

    An account that exists may belong to a device in the field, which a new password locks out. If
    the source can set it later, it leaves the account as it is and returns an identity with
    ``pending=Pending(plugin=NAME)``; its ``activate_identity`` then sets the password.
    """


@hookspec
def post_provision(build: Build, identity: DeviceIdentity) -> Mapping[str, Any] | None:
    """Pass the new credential on to systems that need it; return fields for the record.

    All plug-ins are asked, before the credential is written anywhere; a failure stops the attempt,
    and no device gets it. If ``identity.pending`` is set, the account gets it later, in
    ``activate_identity``. A signal waits until the step has returned.
    """


@hookspec
def pre_flash(
    build: Build, identity: DeviceIdentity, ownership: Ownership
) -> Sequence[StagedFile] | None:
    """Write files into the rootfs; return what was staged.

    All plug-ins are asked. Among their answers must be etc/azaion/device.conf.
    """


@hookspec(firstresult=True)
def build_image(
    build: Build, identity: DeviceIdentity, staged: Sequence[StagedFile]
) -> Image | None:
    """Build the APP image with this identity; the first plug-in that answers has built it."""


@hookspec
def verify_image(
    build: Build, identity: DeviceIdentity, staged: Sequence[StagedFile], image: Image
) -> Sequence[Finding] | None:
    """Read the finished image back; return every difference from what it must carry.

    All plug-ins are asked, at least one must be there. An error stops the build (exit 8).
    """


@hookspec
def activate_identity(build: Build, identity: DeviceIdentity) -> bool | None:
    """Do what cannot be undone for a device in the field: set a known account's new password.

    Called right before the flash, with FLASH=0 before the image is handed over: everything that
    can fail has been built and proven. All plug-ins are asked, whether the identity is pending or
    not. The plug-in that ``identity.pending.plugin`` names gives the account the password and
    returns True; a pending identity that nobody activates stops the build (exit 4). Must be safe
    to repeat. ``provision`` calls it before ``pre_flash``; ``stamp`` and ``rotate`` call it when
    the new credential has been written, for a pending identity only.
    """


@hookspec(firstresult=True)
def flash(build: Build, image: Image) -> FlashResult | None:
    """Write the proven image to the board; the first plug-in that answers has flashed it.

    Not called with FLASH=0. Signals wait until it has returned; they interrupt only a program that
    it runs by ``azaion_imagebuild.system.process.run``.
    """


@hookspec
def post_flash(
    build: Build,
    identity: DeviceIdentity,
    staged: Sequence[StagedFile],
    image: Image,
    result: FlashResult | None,
) -> Mapping[str, Any] | None:
    """Finish: take the secret out of the tree, test the device; return fields for the record.

    All plug-ins are asked, with FLASH=0 too (``result`` is then None).
    """


@hookspec
def build_failed(build: Build, staged: Sequence[StagedFile], error: BaseException) -> None:
    """Undo what a failed build must not leave; every plug-in is tried, whatever others raise."""


@hookspec
def cleanup(build: Build) -> None:
    """Release temporary resources, after success and failure alike; every plug-in is tried."""


STAGING: tuple[str, ...] = ("prepare", "provision_identity", "pre_flash")
"""Steps that are required to write device.conf."""

REQUIRED: tuple[str, ...] = (
    "prepare",
    "provision_identity",
    "pre_flash",
    "build_image",
    "verify_image",
    "flash",
)
"""Steps that a build requires."""

EVERY_STEP: tuple[str, ...] = tuple(
    name for name, value in list(globals().items()) if hasattr(value, "azaion_imagebuild_spec")
)
"""All steps, in their order on this page."""
