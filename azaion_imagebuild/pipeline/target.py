"""What a new credential can be written into outside a build, as the pipeline sees it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ..model import Build, DeviceIdentity, Image, StagedFile


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


class Target(Protocol):
    """Something that a credential can be written into."""

    def opened(self, build: Build) -> AbstractContextManager[Opened]:
        """Check and lock it; its content stays as it is.

        Raises:
            OperatorError: the credential could not be written.
        """
        ...
