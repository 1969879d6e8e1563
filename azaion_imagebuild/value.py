"""Frozen values: dataclasses that share their methods, instead of compiling them at every start.

``@frozen`` stands for ``@dataclass(frozen=True, slots=True, kw_only=True)``; ``fields()``,
``replace()`` and ``asdict()`` take what it makes. A dataclass writes the source of eight methods
and compiles it: for the classes that `provision` imports, that took a fifth of its whole time.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**told):
        return lambda decorator: decorator


T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a frozen value of a class with annotated fields; a decorator."""
    for name, method in vars(_Frozen).items():
        if callable(method) and name not in vars(cls):
            setattr(cls, name, method)
    return dataclass(init=False, repr=False, eq=False, slots=True, kw_only=True)(cls)


class _Frozen:
    """The methods of every value, which ``self`` is."""

    def __init__(self: Any, **given: Any) -> None:
        for each in fields(self):
            taken = given.pop(each.name) if each.name in given else _default(self, each)
            object.__setattr__(self, each.name, taken)
        if given:
            raise TypeError(f"{type(self).__name__} has no {', '.join(given)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _compared(self) == _compared(other)

    def __hash__(self) -> int:
        return hash(_compared(self))

    def __repr__(self: Any) -> str:
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, each.name) for each in fields(self)]

    def __setstate__(self: Any, state: list[Any]) -> None:
        for each, kept in zip(fields(self), state, strict=True):
            object.__setattr__(self, each.name, kept)


def _default(of: object, missing: Field[Any]) -> Any:
    if missing.default is not MISSING:
        return missing.default
    if missing.default_factory is not MISSING:
        return missing.default_factory()
    raise TypeError(f"{type(of).__name__} needs {missing.name}")


def _compared(of: Any) -> tuple[Any, ...]:
    return tuple(getattr(of, each.name) for each in fields(of) if each.compare)
