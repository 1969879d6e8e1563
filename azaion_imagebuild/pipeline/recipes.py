"""One device from start to end: the steps in their order, and what happens when one fails."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pluggy
from msgspec import Struct, structs

from ..errors import (
    BugError,
    FlashError,
    InterruptedBuild,
    LedgerError,
    OperatorError,
    PreflightError,
    ProvisioningError,
    StagingError,
    VerificationError,
    denied,
    is_denied,
)
from ..identity import device_conf
from ..images.digest import fingerprints, sha256_of
from ..model import (
    DEVICE_CONF,
    LUKS,
    RECORD_FIELDS,
    Build,
    BuildRecord,
    DeviceIdentity,
    Finding,
    FuseResult,
    Image,
    Ownership,
    StagedFile,
)
from ..system.locks import locked
from ..system.signals import held_back
from .attempt import Attempt, Book, Watcher
from .watchers import observed

if TYPE_CHECKING:
    from .target import Opened, Target

_logger = logging.getLogger(__name__)
T = TypeVar("T")


def run(build: Build, hook: pluggy.HookRelay, watcher: Watcher, ledger: Book) -> BuildRecord:
    """Run every step for one device and return what was done.

    Whatever goes wrong ends in the record, an interrupt and a bug (with its traceback in the log)
    too. Every ``cleanup`` is tried, and after a failure every ``build_failed`` before it.

    The ledger gets the intent before the account is touched, before the image is built and before
    the device is flashed, and the end. An attempt that preflight refuses has changed nothing and
    is not in it.
    """
    return _attempt(build, hook, watcher, _every_step, ledger)


def provision(build: Build, hook: pluggy.HookRelay, watcher: Watcher) -> BuildRecord:
    """Run the steps up to the staged device.conf, which stays: the runbook's step 4."""
    return _attempt(build, hook, watcher, _steps_to_staged)


def base(build: Build, hook: pluggy.HookRelay, watcher: Watcher) -> BuildRecord:
    """Build an image that holds a placeholder, to be stamped: no account is touched."""
    return _attempt(build, hook, watcher, _steps_to_base)


def with_base(
    build: Build, hook: pluggy.HookRelay, watcher: Watcher, use: Callable[[Blank], None]
) -> BuildRecord:
    """Make sure that there is a base, built anew only when it is out of date, and have it used.

    ``use`` is called while the BSP is locked; what it raises ends in the record.
    """

    def steps(done: Attempt) -> None:
        blank = _steps_to_blank(done)
        done.current = "fleet"
        use(blank)

    return _attempt(build, hook, watcher, steps)


def stamped(
    build: Build, blank: Blank, hook: pluggy.HookRelay, watcher: Watcher, ledger: Book
) -> BuildRecord:
    """Give one device its identity in an image that is built already; return what was done.

    As :func:`run`, without a rootfs: the account, the stamp, the proof, then ``publish`` or flash.
    """

    def steps(done: Attempt) -> None:
        _steps_to_stamped(done, blank)

    return _attempt(build, hook, watcher, steps, ledger)


def issued(
    build: Build,
    targets: Sequence[Target],
    hook: pluggy.HookRelay,
    watcher: Watcher,
    ledger: Book,
) -> BuildRecord:
    """Give one device a new credential in what is finished already; return what was done.

    As :func:`run`, without building anything: every target is looked at before the account is
    touched; then the account, and all targets, whatever becomes of one of them.
    """

    def steps(done: Attempt) -> None:
        with contextlib.ExitStack() as held:
            _steps_to_issued(done, targets, held)

    return _attempt(build, hook, watcher, steps, ledger)


class Blank(Struct, frozen=True, kw_only=True):
    """A finished image that holds a placeholder, for one device's identity."""

    image: Image
    ownership: Ownership
    sha256: str
    """Of the image with the placeholder."""
    size: int
    """Bytes of the placeholder."""
    release: str | None = None
    publish: Callable[[], Image] | None = None
    """Brings the image, once stamped and proven, to where it belongs."""


class _Steps(Protocol):
    def __call__(self, done: Attempt) -> None: ...


def _attempt(
    build: Build,
    hook: pluggy.HookRelay,
    watcher: Watcher,
    steps: _Steps,
    ledger: Book | None = None,
) -> BuildRecord:
    with observed(build, watcher) as observers:
        done = Attempt(build=build, hook=hook, watcher=observers, ledger=ledger)
        record = structs.replace(_ended(done, steps), log=observers.log)
        observers.finished(record)
    return record


def _ended(done: Attempt, steps: _Steps) -> BuildRecord:
    """Do the steps; whatever goes wrong ends in the record."""
    try:
        with _locked(done.build) as held, _always_cleaned_up(done):
            done.build = held
            steps(done)
    except OperatorError as error:
        return done.recorded(error)
    except KeyboardInterrupt:
        interrupted = InterruptedBuild(
            f"interrupted during {done.current}",
            hint="run the same command again: it starts over and ends well",
        )
        interrupted.problems += tuple(done.left_behind)
        return done.recorded(interrupted)
    except BaseException as error:  # sys.exit(), a panic of a Rust extension
        if is_denied(error) and done.current in ("lock", "preflight"):
            return done.recorded(PreflightError.of_problems([denied(error)]))
        _logger.exception("a bug in the step %s", done.current)
        bug = BugError(
            f"a bug in {_culprit(error)}, step {done.current}: {type(error).__name__}: {error}",
            hint="report it with the traceback above; a plug-in is left out by --disable",
        )
        return done.recorded(bug)
    return done.recorded()


def _every_step(done: Attempt) -> None:
    identity, ownership = _steps_to_identity(done)
    _stage(done, identity, ownership)
    done.intends("build_image")
    image = _build_image(done, identity)
    before = fingerprints(image)
    _verify(done, identity, image)
    done.image_sha256 = sha256_of(image.path)
    _flash(done, image, before)
    _finish(done, identity, image)


def _flash(done: Attempt, image: Image, before: list[tuple[int, ...]]) -> None:
    """Flash an image that is, file by file, still what was proven."""
    if done.build.flash:
        done.intends("flash")
        with done.step("flash") as notes:
            if fingerprints(image) != before:
                raise VerificationError(
                    f"{image.path} was changed by another program after its proof",
                    hint="let nothing else work in this BSP tree, then run the same command again",
                )
            done.flashed = _answered("flash", done.hook.flash(build=done.build, image=image))
            if fingerprints(image) != before:
                raise FlashError(
                    f"{image.path} was changed while it was flashed: what the device got is not"
                    " what was proven",
                    hint="do not ship this device; run the same command again",
                )
            notes.append(f"wrote {done.flashed.device}")


def _finish(done: Attempt, identity: DeviceIdentity, image: Image) -> None:
    with done.step("post_flash") as notes:
        answers = done.hook.post_flash(
            build=done.build,
            identity=identity,
            staged=done.staged,
            image=image,
            result=done.flashed,
        )
        said = _add_fields(done, "post_flash", answers)
        notes += [f"{name}: {_short(value)}" for name, value in said.items() if value]


def _steps_to_base(done: Attempt) -> None:
    from ..l4t.base_image import build_base  # late, as all that `provision` needs not

    ownership = _steps_to_prepared(done)
    with done.step("build_image") as notes:
        done.image, done.proven = build_base(done.build, ownership), True
        done.image_sha256 = sha256_of(done.image.path)
        notes.append(f"{done.image.path} ({done.image.format}) holds a placeholder")


def _steps_to_blank(done: Attempt) -> Blank:
    from ..identity.placeholder import placeholder
    from ..l4t.base_image import current_base, stamp_base

    ownership = _steps_to_prepared(done)
    with done.step("build_image") as notes:
        done.image = current_base(done.build, ownership)
        size = done.build.settings.image.placeholder_size
        stamp_base(done.build, done.image, placeholder(size))  # one that was kept holds an identity
        done.image_sha256 = sha256_of(done.image.path)
        notes.append(f"{done.image.path} ({done.image.format}) holds a placeholder")
    return Blank(
        image=done.image,
        ownership=ownership,
        sha256=done.image_sha256,
        size=size,
        release=_release(done.build),
    )


def _steps_to_stamped(done: Attempt, blank: Blank) -> None:
    from ..l4t import base_image as bases
    from ..rootfs import staging

    done.release = blank.release
    identity = _provision(done)
    with done.step("build_image"):
        content = staging.stamped_content(done.build, identity, blank.size)
        done.staged = (staging.to_be_stamped(content, blank.ownership),)
        bases.stamp_base(done.build, blank.image, content)
        done.image = blank.image
    before = fingerprints(blank.image)
    _verify(done, identity, blank.image)
    done.base_sha256 = blank.sha256
    if blank.publish is not None:
        done.image = blank.publish()
    _flash(done, blank.image, before)
    _finish(done, identity, done.image)


def _steps_to_issued(done: Attempt, targets: Sequence[Target], held: contextlib.ExitStack) -> None:
    build = done.build
    name = "rotate" if build.rotates else "stamp"
    with done.step("preflight"):
        against = _spoken_against(done)
        if build.rotates:  # that the old password ends is what it is for
            against = [each for each in against if each.severity == "error"]
        _refuse([against], PreflightError, done.watcher)
        opened = [held.enter_context(target.opened(build)) for target in targets]
    intent = name if build.rotates else "provision_identity"
    with _provisioned(done, intent) as identity, done.step(name) as notes:
        _write(done, opened, identity)
        notes += done.extra["written"]


def _write(done: Attempt, opened: Sequence[Opened], identity: DeviceIdentity) -> None:
    """Write a credential into every target: where one fails, another one may save the device."""
    done.extra["written"] = []
    errors = []
    for each in opened:
        try:
            staged = each.write(identity)
        except OperatorError as error:
            errors.append(error)
            continue
        done.extra["written"] += map(str, each.files)
        done.staged += (staged,) if staged else ()
        if each.image is not None:
            done.image, done.proven = each.image, True
            done.extra["also"] = [str(path) for path in each.image.also]
    if errors:
        errors[0].problems = tuple(pair for error in errors for pair in error.problems)
        raise errors[0]


def _steps_to_staged(done: Attempt) -> None:
    identity, ownership = _steps_to_identity(done)
    _stage(done, identity, ownership)


def _steps_to_prepared(done: Attempt) -> Ownership:
    with done.step("preflight"):
        against = _spoken_against(done)
        findings = done.hook.preflight(build=done.build)
        _refuse([*findings, against], PreflightError, done.watcher)
    with done.step("prepare"):
        ownership: Ownership = _answered("prepare", done.hook.prepare(build=done.build))
    return ownership


def _steps_to_identity(done: Attempt) -> tuple[DeviceIdentity, Ownership]:
    ownership = _steps_to_prepared(done)
    done.release = _release(done.build) if done.ledger else None
    if done.build.fuse:
        _fuse(done)
    return _provision(done), ownership


def _fuse(done: Attempt) -> None:
    """Burn the device's fuses; that it was done is written down before anything else is."""
    with held_back():  # a fuse command that is torn off leaves a device that nobody knows
        done.intends("fuse")
        with done.step("fuse") as notes:
            result: FuseResult = _answered("fuse", done.hook.fuse(build=done.build))
            done.extra |= {
                "fused": "now",
                "fuse_command": result.command,
                "fuse_device": result.device,
            }
            try:
                done.concludes("fuse")
            except LedgerError as error:
                said = (
                    f"the fuses of {done.build.serial} are burned, but the ledger has no word of it"
                )
                error.problems += ((said, "mend the ledger, then: ledger resolve … fused"),)
                raise
            notes.append(f"the device at USB {result.device} is fused")


def _provision(done: Attempt) -> DeviceIdentity:
    with _provisioned(done, "provision_identity") as identity:
        return identity


@contextlib.contextmanager
def _provisioned(done: Attempt, intent: str) -> Iterator[DeviceIdentity]:
    """Give the device a credential, the one way to one; signals wait while it is in use."""
    done.current = "preflight"
    _refuse(done.hook.pre_provision(build=done.build), PreflightError, done.watcher)
    done.intends(intent)
    with contextlib.ExitStack() as held:
        with done.step("provision_identity") as notes:
            identity: DeviceIdentity = _answered(
                "provision_identity", done.hook.provision_identity(build=done.build)
            )
            _refuse_foreign(done.build, identity)
            done.identity = identity
            if why := device_conf.unusable(identity):
                raise ProvisioningError(
                    f"the credential that {identity.serial} was given cannot stand in device.conf:"
                    f" {why}",
                    hint="mend the plug-in that provisions, or what its API issues",
                )
            notes.append(f"account {identity.email} {identity.enrolled}")
            held.enter_context(held_back())
            answers = done.hook.post_provision(build=done.build, identity=identity)
            _add_fields(done, "post_provision", answers)
        yield identity


def _refuse_foreign(build: Build, identity: DeviceIdentity) -> None:
    """Raise unless an identity, which a plug-in may have from anywhere, is the device's."""
    if (identity.serial, identity.email) != (build.serial, build.email):
        raise ProvisioningError(
            f"a plug-in answered with {identity.serial!a} and {identity.email!a}, not with"
            f" {build.serial} and {build.email}",
            hint="mend the plug-in that provisions: azaion-imagebuild hooks shows which it is",
        )


def _spoken_against(done: Attempt) -> list[Finding]:
    """Return what the ledger knows against another attempt for this serial.

    What it shows as fused is not fused again: that is then no part of the build any more.
    """
    if done.ledger is None:
        return []
    build = done.build
    standings = done.ledger.standings({build.serial: build.email}, sandbox=build.sandbox)
    policy, known = build.settings.ledger, standings[build.serial]
    if build.fuse and known.fused is not None:
        done.build = structs.replace(build, fuse=False)
        done.extra["fused"] = "before"
    return [
        *known.findings(policy.reprovision, confirmed=policy.confirmed),
        *known.findings_of_fuses(asked=build.fuse),
    ]


def _release(build: Build) -> str | None:
    if build.bsp_dir is None:
        return None
    from ..l4t.bsp import LinuxForTegra

    return LinuxForTegra(build.bsp_dir).release(build.rootfs_dir)


def _stage(done: Attempt, identity: DeviceIdentity, ownership: Ownership) -> None:
    with done.step("pre_flash") as notes:
        answers = done.hook.pre_flash(build=done.build, identity=identity, ownership=ownership)
        done.staged = tuple(_flat(answers))
        if not any(staged.path == DEVICE_CONF for staged in done.staged):
            raise StagingError(
                f"no plug-in staged {DEVICE_CONF}",
                hint="enable the plug-in device_conf, or one that returns its StagedFile",
            )
        notes += [_described(staged) for staged in done.staged]


def _build_image(done: Attempt, identity: DeviceIdentity) -> Image:
    with done.step("build_image") as notes:
        image: Image = _answered(
            "build_image",
            done.hook.build_image(build=done.build, identity=identity, staged=done.staged),
        )
        done.image = image
        notes.append(f"{image.path} ({image.format})")
    return image


def _verify(done: Attempt, identity: DeviceIdentity, image: Image) -> None:
    with done.step("verify_image") as notes:
        findings = done.hook.verify_image(
            build=done.build, identity=identity, staged=done.staged, image=image
        )
        _refuse(findings, VerificationError, done.watcher)
        done.proven = True
        proven = "staged, not read back:" if image.format == LUKS else "carries"
        notes.append(f"{proven} {identity.email}")


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _described(staged: StagedFile) -> str:
    owner = f"{staged.ownership.uid}:{staged.ownership.gid}"
    return f"{staged.path} {staged.mode:04o} {owner}"


def _answered(step: str, answer: T | None) -> T:
    if answer is None:
        raise PreflightError(
            f"no plug-in answered the step {step}",
            hint="azaion-imagebuild hooks lists the plug-ins; enable one that does this step",
        )
    return answer


def _flat(answers: Iterable[Sequence[T] | None]) -> Iterator[T]:
    for answer in answers:
        yield from answer or ()


def _add_fields(done: Attempt, step: str, answers: Iterable[object]) -> dict[str, Any]:
    """Add what plug-ins answered a step with to the record; return that."""
    said: dict[str, Any] = {}
    for answer in answers:
        said |= _mapping(step, answer)
    done.extra |= said
    return said


def _mapping(step: str, answer: object) -> Mapping[str, Any]:
    if not isinstance(answer, Mapping):
        raise TypeError(f"a plug-in answered {step} with {type(answer).__name__}, not a mapping")
    if taken := RECORD_FIELDS & set(answer):
        raise TypeError(f"a plug-in's answer to {step} would replace {', '.join(sorted(taken))}")
    try:
        json.dumps(answer, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"a plug-in's answer to {step} is no JSON: {error}") from None
    return answer


def _culprit(error: BaseException) -> str:
    """Return the file and line that raised: a plug-in's or ours."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "azaion-imagebuild"


def _refuse(
    answers: Iterable[Sequence[Finding] | None], kind: type[OperatorError], watcher: Watcher
) -> None:
    """Show the warnings; raise one error of ``kind`` for all that must stop the build."""
    errors = []
    for finding in _flat(answers):
        if finding.severity == "error":
            errors.append((finding.message, finding.hint))
        else:
            watcher.warned(finding)
    if errors:
        raise kind.of_problems(errors)


@contextlib.contextmanager
def _locked(build: Build) -> Iterator[Build]:
    folders = [folder for folder in (build.bsp_dir, build.rootfs_dir) if folder is not None]
    with locked(folders, build.settings.build.lock_wait) as descriptors:
        held = structs.replace(build, lock_fds=(*build.lock_fds, *descriptors), began=time.time())
        if build.settings.image.staging == "overlay" and build.rootfs_dir.is_dir():
            from ..rootfs.overlay import staged_over  # late: it is rarely wanted

            with staged_over(build.rootfs_dir) as staging_dir:
                yield structs.replace(held, rootfs_dir=staging_dir)
        else:
            yield held


@contextlib.contextmanager
def _always_cleaned_up(done: Attempt) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        with held_back():
            left = _try_all(
                done.hook.build_failed, build=done.build, staged=done.staged, error=error
            )
            left += _try_all(done.hook.cleanup, build=done.build)
            done.left_behind += left
        if isinstance(error, OperatorError):
            error.problems += tuple(each for each in left if each not in error.problems)
        raise
    with held_back():
        left = _try_all(done.hook.cleanup, build=done.build)
    for message, hint in left:
        done.watcher.warned(Finding(message=message, hint=hint, severity="warning"))


def _try_all(caller: pluggy.HookCaller, **arguments: object) -> list[tuple[str, str]]:
    """Call every implementation, whatever the others raise; return the problems they had."""
    problems = []
    for impl in reversed(caller.get_hookimpls()):
        try:
            impl.function(*(arguments[name] for name in impl.argnames))
        except OperatorError as error:
            problems += list(error.problems)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if is_denied(error):
                problems.append(denied(error))
                continue
            _logger.exception("%s of the plug-in %s", caller.name, impl.plugin_name)
            message = f"{caller.name} of the plug-in {impl.plugin_name} failed: {error}"
            problems.append((message, "see the traceback above; look for what it left behind"))
    return problems
