"""The steps of an attempt, one function each: what a step asks plug-ins, and what it checks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

from ..errors import (
    FlashError,
    LedgerError,
    OperatorError,
    PreflightError,
    ProvisioningError,
    StagingError,
    VerificationError,
)
from ..identity import device_conf
from ..images.digest import fingerprints, image_digest
from ..model import (
    DEVICE_CONF,
    LUKS,
    Build,
    DeviceIdentity,
    Finding,
    FuseResult,
    Image,
    Ownership,
    StagedFile,
)
from ..system.signals import held_back
from . import events
from .answers import add_fields, keep_staged, refuse_errors, require_answer
from .attempt import Attempt
from .plugins import preflight, preflight_of_site

if TYPE_CHECKING:
    from .target import Blank, Opened, Target

T = TypeVar("T")


def prepare(attempt: Attempt) -> Ownership:
    """Check everything that can be checked, then clear the rootfs of an earlier attempt."""
    with attempt.step("preflight"):
        objections = _ledger_objections(attempt)
        findings = preflight(attempt.build, attempt.hook)
        refuse_errors([*findings, objections], PreflightError, attempt.watcher)
    with attempt.step("prepare"):
        ownership: Ownership = require_answer("prepare", attempt.hook.prepare(build=attempt.build))
    return ownership


def prepare_device(attempt: Attempt) -> Ownership:
    """Prepare, and burn the device's fuses where that was asked for."""
    ownership = prepare(attempt)
    attempt.release = _release(attempt.build) if attempt.ledger else None
    if attempt.build.fuse:
        fuse(attempt)
    return ownership


def fuse(attempt: Attempt) -> None:
    """Burn the device's fuses, and write that down before anything else is done."""
    with held_back():  # an interrupted fuse command leaves the device in an unknown state
        attempt.intend("fuse")
        with attempt.step("fuse") as notes:
            result: FuseResult = require_answer("fuse", attempt.hook.fuse(build=attempt.build))
            attempt.extra |= {
                "fused": "now",
                "fuse_command": result.command,
                "fuse_device": result.device,
            }
            _write_down_fusing(attempt)
            notes.append(f"the device at USB {result.device} is fused")


def _write_down_fusing(attempt: Attempt) -> None:
    try:
        attempt.conclude("fuse")
    except LedgerError as error:
        message = (
            f"the fuses of {attempt.build.serial} are burned, but the ledger could not record it"
        )
        error.problems += ((message, "fix the ledger, then: ledger resolve … fused"),)
        raise


def admit(attempt: Attempt) -> None:
    """Ask a site's plug-ins for a device that needs no check of the host: its base had one."""
    attempt.current = "preflight"
    refuse_errors(preflight_of_site(attempt.build, attempt.hook), PreflightError, attempt.watcher)


def provision_identity(
    attempt: Attempt,
    intent: str = "provision_identity",
    *,
    make_room: Callable[[], None] = lambda: None,
    to_the_end: bool = False,
) -> DeviceIdentity:
    """Give the device a credential, and pass it on; every recipe gets its credential here.

    Signals are held back meanwhile, or with ``to_the_end`` until the record is out. ``make_room``
    is called right before the account is touched.
    """
    hook = attempt.hook
    attempt.current = "preflight"
    refuse_errors(hook.pre_provision(build=attempt.build), PreflightError, attempt.watcher)
    attempt.intend(intent)
    make_room()
    with contextlib.ExitStack() as held, attempt.step("provision_identity") as notes:
        identity: DeviceIdentity = require_answer(
            "provision_identity", hook.provision_identity(build=attempt.build)
        )
        _check_owner(attempt.build, identity)
        attempt.identity = identity
        _check_usable(identity)
        known = "exists: its password changes last" if identity.pending else identity.enrolled
        notes.append(f"account {identity.email} {known}")
        if to_the_end:
            attempt.hold_signals()
        else:
            held.enter_context(held_back())
        answers = hook.post_provision(build=attempt.build, identity=identity)
        add_fields(attempt, "post_provision", answers)
    return identity


def _check_owner(build: Build, identity: DeviceIdentity) -> None:
    """Raise if a plug-in answered with the identity of another device."""
    if (identity.serial, identity.email) != (build.serial, build.email):
        raise ProvisioningError(
            f"a plug-in answered with {identity.serial!a} and {identity.email!a}, not with"
            f" {build.serial} and {build.email}",
            hint="fix the provisioning plug-in: azaion-imagebuild hooks shows which one it is",
        )


def _check_usable(identity: DeviceIdentity) -> None:
    if why := device_conf.unusable(identity):
        raise ProvisioningError(
            f"the credential of {identity.serial} cannot be written to device.conf: {why}",
            hint="fix the provisioning plug-in, or the credential that its API returns",
        )


def stage(attempt: Attempt, identity: DeviceIdentity, ownership: Ownership) -> None:
    """Have device.conf, and whatever else a site wants, written into the rootfs."""
    with attempt.step("pre_flash") as notes:
        answers = attempt.hook.pre_flash(
            build=attempt.build, identity=identity, ownership=ownership
        )
        keep_staged(attempt, answers)
        if not any(staged.path == DEVICE_CONF for staged in attempt.staged):
            raise StagingError(
                f"no plug-in staged {DEVICE_CONF}",
                hint="enable the plug-in device_conf, or one that returns its StagedFile",
            )
        notes += [_described(staged) for staged in attempt.staged]


def build_image(attempt: Attempt, identity: DeviceIdentity) -> Image:
    """Have the image built with this identity."""
    with attempt.step("build_image") as notes:
        image: Image = require_answer(
            "build_image",
            attempt.hook.build_image(build=attempt.build, identity=identity, staged=attempt.staged),
        )
        attempt.image = image
        notes.append(f"{image.path} ({image.format})")
    return image


def build_base(attempt: Attempt, ownership: Ownership) -> None:
    """Build an image with a placeholder."""
    from ..l4t import base_image  # imported late: `provision` does not need it

    with attempt.step("build_image") as notes:
        attempt.image = image = base_image.build_base(attempt.build, ownership)
        attempt.image_sha256, attempt.proven = image.base_sha256, True
        notes.append(_holds_placeholder(image))


def ensure_base(attempt: Attempt, ownership: Ownership) -> Blank:
    """Return an image with a placeholder; rebuild it if it is out of date."""
    from ..identity.placeholder import placeholder
    from ..l4t import base_image
    from .target import Blank

    build = attempt.build
    size = build.settings.image.placeholder_size
    with attempt.step("build_image") as notes:
        attempt.image = image = base_image.current_base(build, ownership)
        # A base from an earlier build may still hold an identity.
        base_image.stamp_base(build, image, placeholder(size))
        attempt.image_sha256 = image.base_sha256
        notes.append(_holds_placeholder(image))
    return Blank(image=image, ownership=ownership, size=size, release=_release(build))


def stamp_image(attempt: Attempt, identity: DeviceIdentity, blank: Blank) -> Image:
    """Write the identity over the placeholder of a finished image."""
    from ..images.stamp import stamped_content, to_be_stamped
    from ..l4t import base_image

    with attempt.step("build_image"):
        content = stamped_content(attempt.build, identity, blank.size)
        attempt.staged = (to_be_stamped(content, blank.ownership),)
        base_image.stamp_base(attempt.build, blank.image, content)
        attempt.image = blank.image
    return blank.image


def verify(attempt: Attempt, identity: DeviceIdentity, image: Image) -> None:
    """Have the finished image read back; refuse every difference."""
    with attempt.step("verify_image") as notes:
        findings = attempt.hook.verify_image(
            build=attempt.build, identity=identity, staged=attempt.staged, image=image
        )
        refuse_errors(findings, VerificationError, attempt.watcher)
        attempt.proven = True
        proven = "staged, not read back:" if image.format == LUKS else "carries"
        notes.append(f"{proven} {identity.email}")


def digest(attempt: Attempt, image: Image) -> None:
    """Note what identifies the image: its digest, or that of the base that was stamped."""
    if image.base_sha256 is not None:
        attempt.base_sha256 = image.base_sha256
        return
    with attempt.step("digest_image") as notes:
        attempt.image_sha256 = image_digest(image.path)
        notes.append(attempt.image_sha256[:16])


def activate(attempt: Attempt, identity: DeviceIdentity) -> DeviceIdentity:
    """Have a known account's password changed: a device in the field cannot log in from then on."""
    if identity.pending is None:
        return _activated(attempt, identity)
    attempt.intend("activate_identity")
    with attempt.step("activate_identity") as notes:
        identity = _activated(attempt, identity)
        notes.append(f"account {identity.email} {identity.enrolled}")
    return identity


def _activated(attempt: Attempt, identity: DeviceIdentity) -> DeviceIdentity:
    attempt.current = "activate_identity"
    answers = attempt.hook.activate_identity(build=attempt.build, identity=identity)
    if identity.pending is not None and not any(answers):
        raise ProvisioningError(
            f"no plug-in gave the account {identity.email} its new password: the old one is valid",
            hint=f"enable the plug-in {identity.pending.plugin}; its activate_identity must return"
            " True",
        )
    attempt.identity = structs.replace(identity, pending=None)
    return attempt.identity


def activate_proven(
    attempt: Attempt, identity: DeviceIdentity, image: Image, before: list[tuple[int, ...]]
) -> DeviceIdentity:
    """Activate the identity of a proven image, unless one of its files has changed since."""
    attempt.current = "verify_image"
    _refuse_changed(image, before)
    if not attempt.build.flash:
        attempt.hold_signals()  # the image is handed over as soon as the account is changed
    try:
        return activate(attempt, identity)
    except OperatorError:
        _keep_for_retry(attempt, image)
        raise


def _keep_for_retry(attempt: Attempt, image: Image) -> None:
    """Keep what was built, without the identity, and say so."""
    from ..l4t.retry import keep_for_retry

    if kept := keep_for_retry(attempt.build, image, attempt.staged):
        attempt.watcher(
            events.problem(
                "warning",
                f"what was built is kept, without the identity: {', '.join(map(str, kept))}",
                "run the same command again: it is not built again; azaion-imagebuild clean --bsp"
                f" {attempt.build.bsp_dir} removes it",
            )
        )


def _refuse_changed(image: Image, before: list[tuple[int, ...]]) -> None:
    if fingerprints(image) != before:
        raise VerificationError(
            f"{image.path} was changed by another program after its proof",
            hint="let nothing else work in this BSP tree, then run the same command again",
        )


def flash(attempt: Attempt, image: Image, before: list[tuple[int, ...]]) -> None:
    """Flash the image, unless one of its files has changed since the proof."""
    if not attempt.build.flash:
        return
    attempt.intend("flash")
    with attempt.step("flash") as notes:
        _refuse_changed(image, before)
        attempt.hold_signals_until_checked()  # no signal comes between a success and its record
        attempt.flashed = require_answer(
            "flash", attempt.hook.flash(build=attempt.build, image=image)
        )
        attempt.hold_signals()
        if fingerprints(image) != before:
            raise FlashError(
                f"{image.path} was changed while it was flashed: what the device got is not"
                " what was proven",
                hint="do not ship this device; run the same command again",
            )
        notes.append(f"wrote {attempt.flashed.device}")


def finish(attempt: Attempt, identity: DeviceIdentity, image: Image) -> None:
    """Have the secret removed from the tree, and the device tested."""
    with attempt.step("post_flash") as notes:
        answers = attempt.hook.post_flash(
            build=attempt.build,
            identity=identity,
            staged=attempt.staged,
            image=image,
            result=attempt.flashed,
        )
        fields = add_fields(attempt, "post_flash", answers)
        notes += [f"{name}: {_short(value)}" for name, value in fields.items() if value]


def open_targets(
    attempt: Attempt, targets: Sequence[Target], held: contextlib.ExitStack
) -> list[Opened]:
    """Check and lock what a new credential is to be written into, until ``held`` is closed."""
    build = attempt.build
    with attempt.step("preflight"):
        objections = _ledger_objections(attempt)
        if build.rotates:  # its purpose is to end the old password: warnings of that are noise
            objections = [each for each in objections if each.severity == "error"]
        findings = preflight_of_site(build, attempt.hook)
        refuse_errors([*findings, objections], PreflightError, attempt.watcher)
        return [held.enter_context(target.opened(build)) for target in targets]


def issue(attempt: Attempt, opened: Sequence[Opened]) -> None:
    """Give the device a new credential, and write it into every target."""
    rotates = attempt.build.rotates
    name = "rotate" if rotates else "stamp"
    intent = name if rotates else "provision_identity"
    attempt.extra["written"] = []
    identity = provision_identity(attempt, intent, to_the_end=True)
    with attempt.step(name) as notes:
        staged: dict[int, StagedFile | None] = {}
        errors = _try_each(
            range(len(opened)), lambda at: staged.update({at: opened[at].write(identity)})
        )
        if identity.pending is not None:
            with _undone_on_failure(opened):
                _raise_all(errors)
                attempt.intend("activate_identity")
                identity = _activated(attempt, identity)
            attempt.current = name
        # The account has the new password: if one target fails, another may save the device.
        errors += _try_each(staged, lambda at: _publish(attempt, opened[at], staged[at]))
        _raise_all(errors)
        notes += attempt.extra["written"]


def _publish(attempt: Attempt, each: Opened, staged: StagedFile | None) -> None:
    each.publish()
    attempt.extra["written"] += map(str, each.files)
    attempt.staged += (staged,) if staged else ()
    if each.image is not None:
        attempt.image, attempt.proven = each.image, True
        attempt.extra["also"] = [str(path) for path in each.image.also]


@contextlib.contextmanager
def _undone_on_failure(opened: Sequence[Opened]) -> Iterator[None]:
    """Put back what the targets held: the account still has the password that belongs to it."""
    try:
        yield
    except BaseException as error:
        failures = _try_each(opened, lambda each: each.undo())
        if isinstance(error, OperatorError):
            error.problems += tuple(pair for each in failures for pair in each.problems)
        raise


def _try_each(items: Iterable[T], do: Callable[[T], object]) -> list[OperatorError]:
    errors = []
    for each in items:
        try:
            do(each)
        except OperatorError as error:
            errors.append(error)
    return errors


def _raise_all(errors: Sequence[OperatorError]) -> None:
    if errors:
        errors[0].problems = tuple(pair for error in errors for pair in error.problems)
        raise errors[0]


def _ledger_objections(attempt: Attempt) -> list[Finding]:
    """Return the ledger's objections to another attempt for this serial.

    A device that the ledger shows as fused is not fused again: the build goes on without fusing.
    """
    if attempt.ledger is None:
        return []
    build = attempt.build
    standings = attempt.ledger.standings({build.serial: build.email}, sandbox=build.sandbox)
    policy, known = build.settings.ledger, standings[build.serial]
    if build.fuse and known.fused is not None:
        attempt.build = structs.replace(build, fuse=False)
        attempt.extra["fused"] = "before"
    return [
        *known.findings(policy.reprovision, confirmed=policy.confirmed),
        *known.findings_of_fuses(asked=build.fuse),
    ]


def _release(build: Build) -> str | None:
    if build.bsp_dir is None:
        return None
    from ..l4t.releases import release_name

    return release_name(build.rootfs_dir)


def _holds_placeholder(image: Image) -> str:
    return f"{image.path} ({image.format}) holds a placeholder"


def _described(staged: StagedFile) -> str:
    owner = f"{staged.ownership.uid}:{staged.ownership.gid}"
    return f"{staged.path} {staged.mode:04o} {owner}"


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
