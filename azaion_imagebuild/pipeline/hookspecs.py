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

    All findings are shown together. An error stops the attempt (exit 3) before anything of the
    device is changed. Your plug-ins are called for each device, by ``image``, ``provision``,
    ``stamp``, ``rotate``, ``fleet`` and stations, and never without a device. The shipped ones
    check the host: for ``image`` and ``provision``, and once for a base or ``doctor``.
    """


@hookspec(firstresult=True)
def prepare(build: Build) -> Ownership | None:
    """Remove what an earlier attempt left in the rootfs; return the owner of device.conf.

    Called before any account is touched.
    """


@hookspec(firstresult=True)
def fuse(build: Build) -> FuseResult | None:
    """Burn the device's fuses, which cannot be undone.

    Called only with ``--fuse``, and only if the ledger does not show the serial as fused. If
    nothing was burned, raise a PreflightError. After any other exception the ledger says
    ``unknown``, and the step is not called again until an operator has resolved it. A signal waits
    until the step has returned.
    """


@hookspec
def pre_provision(build: Build) -> Sequence[Finding] | None:
    """Check, without changing anything, what a new credential needs.

    Like ``preflight``, but called right before the account is touched: the rootfs has been
    prepared, and the fuses may be burned. An error stops the attempt (exit 3).
    """


@hookspec(firstresult=True)
def provision_identity(build: Build) -> DeviceIdentity | None:
    """Create the device's account, or give it a new password; return its identity.

    The step must be safe to repeat. The API may issue the password: a line of printable characters.
    With ``build.rotates`` the account exists: do not create a new one.

    An existing account may belong to a device in the field, which a new password locks out. A
    plug-in that can set the password later leaves the account as it is and returns an identity
    with ``pending=Pending(plugin=NAME)``; its ``activate_identity`` then sets the password.
    """


@hookspec
def post_provision(build: Build, identity: DeviceIdentity) -> Mapping[str, Any] | None:
    """Pass the new credential on to systems that need it; return fields for the record.

    Called before the credential is written anywhere. A failure stops the attempt, and no device
    gets the credential. If ``identity.pending`` is set, the account gets it later, in
    ``activate_identity``. A signal waits until the step has returned.
    """


@hookspec
def pre_flash(
    build: Build, identity: DeviceIdentity, ownership: Ownership
) -> Sequence[StagedFile] | None:
    """Write files into the rootfs; return what was staged.

    One of the plug-ins must stage etc/azaion/device.conf.
    """


@hookspec(firstresult=True)
def build_image(
    build: Build, identity: DeviceIdentity, staged: Sequence[StagedFile]
) -> Image | None:
    """Build the APP image with this identity, without flashing it; only the first answer counts."""


@hookspec
def verify_image(
    build: Build, identity: DeviceIdentity, staged: Sequence[StagedFile], image: Image
) -> Sequence[Finding] | None:
    """Read the finished image back; return every difference from what it must carry.

    An error stops the build (exit 8).
    """


@hookspec
def activate_identity(build: Build, identity: DeviceIdentity) -> bool | None:
    """Do what cannot be undone for a device in the field: set a known account's new password.

    Called right before the flash, or with FLASH=0 before the image is handed over: by then the
    image has been built and proven. All plug-ins are called, whether the identity is pending or
    not. The plug-in that ``identity.pending.plugin`` names sets the account's password and returns
    True. A pending identity that no plug-in activates stops the build (exit 4). The step must be
    safe to repeat. ``provision`` calls it before ``pre_flash``. ``stamp`` and ``rotate`` call it
    when the new credential has been written, and only for a pending identity.
    """


@hookspec(firstresult=True)
def flash(build: Build, image: Image) -> FlashResult | None:
    """Write the proven image to the board.

    Not called with FLASH=0. Signals wait until the step has returned; they interrupt only a program
    that it runs with ``azaion_imagebuild.system.process.run``.
    """


@hookspec
def post_flash(
    build: Build,
    identity: DeviceIdentity,
    staged: Sequence[StagedFile],
    image: Image,
    result: FlashResult | None,
) -> Mapping[str, Any] | None:
    """Remove the secret from the tree and test the device; return fields for the record.

    Called with FLASH=0, too (``result`` is then None).
    """


@hookspec
def build_failed(build: Build, staged: Sequence[StagedFile], error: BaseException) -> None:
    """Undo what a failed build must not leave behind, even if another plug-in raises."""


@hookspec
def cleanup(build: Build) -> None:
    """Release temporary resources, after success and failure, even if another plug-in raises."""


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
