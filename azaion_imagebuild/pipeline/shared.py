"""What the builds of one thread share: a fleet's connection to the admin API."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class SharedResources:
    """What one build opens and the next one can use; a context manager that closes it all.

    For one thread.
    """

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._found: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def open_once(self, name: str, make: Callable[[], AbstractContextManager[T]]) -> T:
        """Return what ``make`` opened, now or for an earlier build."""
        if name not in self._found:
            self._found[name] = self._opened.enter_context(make())
        found: T = self._found[name]
        return found
