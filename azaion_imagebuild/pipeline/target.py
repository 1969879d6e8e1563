"""What an identity can be written into without a build: a blank image, or another target."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from ..model import Build, DeviceIdentity, Image, Ownership, StagedFile


class Blank(Struct, frozen=True, kw_only=True):
    """A finished image that holds a placeholder, for one device's identity."""

    image: Image
    """With ``base_sha256``, unless nobody needs it."""
    ownership: Ownership
    size: int
    """Size of the placeholder in bytes."""
    release: str | None = None
    make_room: Callable[[], None] = lambda: None
    """Removes what a new credential makes out of date, right before the account is touched."""
    publish: Callable[[], Image] | None = None
    """Moves the image, once stamped and proven, to where it belongs."""


class Opened(Protocol):
    """A target that was checked and is locked."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that will hold the credential, to show to a person."""
        ...

    @property
    def image(self) -> Image | None:
        """Return the image, if the target is one."""
        ...

    def write(self, identity: DeviceIdentity) -> StagedFile | None:
        """Write the whole credential or nothing, and read it back.

        Raises:
            OperatorError: it could not be written, or reads back differently.
        """
        ...

    def publish(self) -> None:
        """Move what was written to its final name: the account has this credential now.

        Raises:
            OperatorError: it cannot be moved.
        """
        ...

    def undo(self) -> None:
        """Put back what was there before: the account still has its old password.

        Raises:
            OperatorError: it cannot be written.
        """
        ...


class Target(Protocol):
    """Something that a credential can be written into."""

    def opened(self, build: Build) -> AbstractContextManager[Opened]:
        """Check and lock it; its content stays as it is.

        Raises:
            OperatorError: the credential could not be written.
        """
        ...
