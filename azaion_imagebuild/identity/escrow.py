"""Escrow: a device's credential, encrypted to public keys, for sites that must keep it.

Each attempt that gives a device a credential leaves one new file, ``SERIAL/ATTEMPT.age``, in the
binary age format: device.conf as it is. It is encrypted in memory, so the disk never holds the
plain text. The owner of a private key decrypts it by ``age -d``; this host cannot.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..config.state_dir import state_dir_of
from ..errors import OperatorError, PreflightError, ProvisioningError, install_hint
from ..model import Build, DeviceIdentity, Finding
from ..system.files import NEW_SUFFIX, distrust, is_ours, make_folder, new_file
from . import device_conf

_ROOM = 1 << 20  # bytes that must be free: far more than one file takes
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_OURS = "it belongs to another user, or everybody may write it"
_HINT = "set [escrow] dir to a folder of your own, with room, that is not a link"


def folder_of(build: Build) -> Path:
    """Return the folder of a device's files; the sandbox's are separate."""
    return _top(build).joinpath(*_below(build))


def findings(build: Build) -> list[Finding]:
    """Return what would keep a credential from being saved; change nothing."""
    found = []
    for look in (_recipients_of, _check_folder):
        try:
            look(build)
        except OperatorError as error:
            found += [Finding(message=said, hint=hint) for said, hint in error.problems]
    return found


def keep(build: Build, identity: DeviceIdentity) -> Path:
    """Write a device's encrypted credential to a new file (0600), whole or not at all.

    Raises:
        ProvisioningError: it could not be written.
        OperatorError: what :func:`findings` finds.
    """
    age, recipients = _age(), _recipients_of(build)
    template = device_conf.template_of(build.settings.device_conf)
    path = folder_of(build) / f"{build.attempt}.age"
    try:
        data = age.encrypt(device_conf.render(template, identity), recipients)
        _write(build, path.name, data)
    except (OSError, age.EncryptError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        changed = "keeps its old password" if identity.pending else "has a new password"
        raise ProvisioningError(
            f"the account {changed}; the new one is not in escrow: cannot write {path}: {reason}",
            hint=f"{_HINT}; then run the same command again: it sets another one, and keeps that",
        ) from None
    return path


def _age() -> Any:
    """Return the module pyrage.

    Raises:
        PreflightError: it is not installed.
    """
    try:
        import pyrage
    except ImportError:
        raise PreflightError(
            "[escrow] recipients are set, but pyrage is not installed",
            hint=install_hint("escrow"),
        ) from None
    return pyrage


def _recipients_of(build: Build) -> list[Any]:
    """Return the public keys of the settings as pyrage's values.

    Raises:
        PreflightError: one of them is not valid.
    """
    age = _age()
    return [_recipient(age, text) for text in build.settings.escrow.recipients]


def _recipient(age: Any, text: str) -> Any:
    kind = age.ssh if text.startswith("ssh-") else age.x25519
    try:
        return kind.Recipient.from_str(text)
    except BaseException as error:
        if not isinstance(error, age.RecipientError) and type(error).__name__ != "PanicException":
            raise
        # It may be a private key: do not show it.
        shown = ascii(text) if text.startswith(("ssh-", "age1")) else "(not shown)"
        raise PreflightError(
            f"[escrow] recipients: {shown} is not a public key: {error}",
            hint="copy it again: age-keygen -y KEYFILE prints it; for SSH, use the .pub file",
        ) from None


def _top(build: Build) -> Path:
    return build.settings.escrow.dir or state_dir_of(build.settings) / "escrow"


def _below(build: Build) -> Sequence[str]:
    return ("sandbox", build.serial) if build.sandbox else (build.serial,)


def _check_folder(build: Build) -> None:
    """Check that a file can be written to the folder, which may not exist yet.

    Raises:
        PreflightError: it cannot.
    """
    folder = folder_of(build)
    ours = [_top(build).joinpath(*_below(build)[:depth]) for depth in range(len(_below(build)) + 1)]
    at = _top(build)  # what the message names: a folder that exists
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        for each in filter(os.path.lexists, ours):
            at = each
            with _opened(each):
                pass
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"this user may not write into {there}")
        space = os.statvfs(there)
        # A filesystem that does not count blocks or inodes reports 0 of 0.
        full = space.f_blocks and space.f_bavail * space.f_frsize < _ROOM
        if full or (space.f_files and not space.f_favail):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise PreflightError(
            f"the escrow cannot be written into {at}: {error.strerror}", hint=_HINT
        ) from None


def _write(build: Build, name: str, data: bytes) -> None:
    make_folder(_top(build).parent)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_made(_top(build)))
        for each in _below(build):
            folder = stack.enter_context(_made(each, folder))
        with new_file(folder, name, f".{name}{NEW_SUFFIX}") as stream:
            stream.write(data)


@contextlib.contextmanager
def _made(path: str | Path, parent: int | None = None) -> Iterator[int]:
    """Open a folder of this user, created (0700) if missing."""
    new = True
    try:
        os.mkdir(path, 0o700, dir_fd=parent)
    except FileExistsError:
        new = False
    with _opened(path, parent) as descriptor:
        if new:
            os.fchmod(descriptor, 0o700)  # regardless of the umask
            _sync_parent(descriptor)
        yield descriptor


@contextlib.contextmanager
def _opened(path: str | Path, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, _FOLDER, dir_fd=parent)
    try:
        if not is_ours(os.fstat(descriptor)):
            raise PermissionError(errno.EPERM, _why(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def _why(folder: int) -> str:
    """Return why a folder is not trusted, with the command that fixes it."""
    wrong = distrust(Path(os.readlink(f"/proc/self/fd/{folder}")))
    return f"{wrong[0]} (fix it: {wrong[1]})" if wrong else _NOT_OURS


def _sync_parent(folder: int) -> None:
    descriptor = os.open("..", _FOLDER, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
