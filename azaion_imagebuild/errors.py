"""Errors for the operator: what is wrong, what to do next, and the exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, TypeGuard

if TYPE_CHECKING:
    from typing_extensions import Self

    from .model import BuildRecord, Finding


class ExitCode(IntEnum):
    """The exit codes; other programs rely on these numbers."""

    __str__ = int.__repr__  # as it is from Python 3.11 on

    DONE = 0
    USAGE = 2
    PREFLIGHT = 3
    PROVISIONING = 4
    STAGING = 5
    IMAGE_BUILD = 6
    FLASH = 7
    VERIFICATION = 8
    LEDGER = 9
    FLEET_INCOMPLETE = 10
    BUG = 70
    INTERRUPTED = 130


def install_hint(extra: str) -> str:
    """Return the command that installs an extra where this tool runs.

    Another environment's pip does not have the tool, and would search for its name elsewhere.
    """
    import shlex  # imported late: few calls need it

    return shlex.join([sys.executable, "-m", "pip", "install", f"azaion-imagebuild[{extra}]"])


class OperatorError(Exception):
    """Something that the operator can fix, shown as one error line and one hint line."""

    exit_code: ClassVar[ExitCode]
    facts: Mapping[str, str] = MappingProxyType({})
    """Fields that it adds to the record."""
    record: BuildRecord | None = None
    """What had been done when it was raised by a function of plain Python."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.problems: tuple[tuple[str, str], ...] = ((message, hint),)
        """Pairs of message and hint: one, or several that were found together."""

    @classmethod
    def of_problems(cls, problems: Iterable[tuple[str, str]]) -> Self:
        """Return one error for all ``problems``; there is at least one."""
        every = tuple(problems)
        error = cls("; ".join(message for message, _ in every), hint="")
        error.problems = every
        return error

    def __str__(self) -> str:
        """Return what is wrong and what to do next."""
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message

    @property
    def message(self) -> str:
        """What is wrong, on one line."""
        return "; ".join(message for message, _ in self.problems)

    @property
    def hint(self) -> str:
        """What to do next, on one line."""
        return "; ".join(dict.fromkeys(hint for _, hint in self.problems))


class UsageError(OperatorError):
    """The command line, the environment or the configuration is wrong."""

    exit_code = ExitCode.USAGE


class PreflightError(OperatorError):
    """A check before the start found a problem; no account has been touched."""

    exit_code = ExitCode.PREFLIGHT


class ProvisioningError(OperatorError):
    """The admin API did not create or update the device's account."""

    exit_code = ExitCode.PROVISIONING


class StagingError(OperatorError):
    """Reading or writing inside the root filesystem failed."""

    exit_code = ExitCode.STAGING


class ImageBuildError(OperatorError):
    """NVIDIA's script did not build an image."""

    exit_code = ExitCode.IMAGE_BUILD


class FlashError(OperatorError):
    """The proven image did not reach the device."""

    exit_code = ExitCode.FLASH


class FuseError(OperatorError):
    """The fuse command was started and failed: nobody knows what it burned."""

    exit_code = ExitCode.FLASH


class VerificationError(OperatorError):
    """What was read back is not what this device must have."""

    exit_code = ExitCode.VERIFICATION


class LedgerError(OperatorError):
    """The ledger cannot be written or read, or its chain is broken."""

    exit_code = ExitCode.LEDGER


class BugError(OperatorError):
    """An unexpected error in this tool or a plug-in; its traceback is shown, too."""

    exit_code = ExitCode.BUG


class InterruptedBuild(OperatorError):
    """The operator or the system asked the build to stop."""

    exit_code = ExitCode.INTERRUPTED


def problems_of(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Return message and hint of each error among the findings; ignore warnings."""
    return [(each.message, each.hint) for each in findings if each.severity == "error"]


def exhausted(error: BaseException) -> tuple[str, str] | None:
    """Return message and hint if this host has run out of something; None: that is not why.

    A chain of errors is searched: a library may have put its own one on top.
    """
    return next(filter(None, map(_shortage, islice(chain_of(error), _LONGEST_CHAIN))), None)


_LONGEST_CHAIN = 20
_NO_MEMORY = ("cannot allocate memory", "failed to map segment", "can't start new thread")
_AGAIN = "then run the same command again"


def _shortage(error: BaseException) -> tuple[str, str] | None:
    text, number = str(error).lower(), getattr(error, "errno", None)
    where = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
    if number in (errno.EMFILE, errno.ENFILE) or "too many open files" in text:
        return "too many files are open for this process", f"raise ulimit -n, {_AGAIN}"
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _says(text, _NO_MEMORY):
        hint = "free some memory, or raise the limit for this process (ulimit -v, ulimit -u)"
        return "there is not enough memory", f"{hint}, {_AGAIN}"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"there is no space left on the disk{where}", f"make room, {_AGAIN}"
    return None


def _says(text: str, phrases: Iterable[str]) -> bool:
    return any(each in text for each in phrases)


def raise_for(findings: Iterable[Finding], kind: type[OperatorError]) -> None:
    """Raise one error of ``kind`` for all errors among the findings; ignore warnings."""
    if problems := problems_of(findings):
        raise kind.of_problems(problems)


def is_interrupt(error: BaseException) -> bool:
    """Tell whether it is an interrupt, or what Python made of one (3.11: in ``__set_name__``)."""
    return any(isinstance(each, KeyboardInterrupt) for each in chain_of(error, contexts=False))


def chain_of(error: BaseException, *, contexts: bool = True) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, also where that leads back to the error.

    Args:
        error: the outermost one.
        contexts: without a cause, go on to what was being handled when it was raised.
    """
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        seen.append(at)
        yield at
        at = at.__cause__ or (at.__context__ if contexts else None)


def is_denied(error: BaseException) -> TypeGuard[PermissionError]:
    """Tell whether permission was denied for a path, which is not a bug."""
    return isinstance(error, PermissionError) and error.filename is not None


def denied(error: PermissionError) -> tuple[str, str]:
    """Return message and hint for a path that this user may not read."""
    return (
        f"cannot read {error.filename}: {error.strerror}",
        "run the same command as root (sudo), or make it readable for this user",
    )
