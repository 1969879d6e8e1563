"""Frozen values: they do what a frozen dataclass does."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion_imagebuild.value import frozen


@frozen
class Point:
    x: int
    y: int = 0
    names: list[str] = dataclasses.field(default_factory=list)
    note: str = dataclasses.field(default="", compare=False)
    secret: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    x: int
    y: int = 0
    names: list[str] = dataclasses.field(default_factory=list)
    note: str = dataclasses.field(default="", compare=False)
    secret: str = dataclasses.field(default="", repr=False)


@frozen
class Pair:
    left: int
    right: Any = None


FIELDS = st.fixed_dictionaries(
    {"x": st.integers(0, 2)},
    optional={
        "y": st.integers(0, 2),
        "names": st.lists(st.text(max_size=1), max_size=1),
        "note": st.text(max_size=1),
        "secret": st.text(max_size=1),
    },
)


@given(FIELDS, FIELDS)
def test_a_value_is_made_shown_compared_and_changed_as_a_frozen_dataclass_is(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    value, compiled = Point(**one), Compiled(**one)
    assert dataclasses.asdict(value) == dataclasses.asdict(compiled)
    assert repr(value) == repr(compiled).replace("Compiled", "Point")
    assert (value == Point(**other)) == (compiled == Compiled(**other))
    replaced = dataclasses.replace(value, **other)
    assert dataclasses.asdict(replaced) == dataclasses.asdict(
        dataclasses.replace(compiled, **other)
    )


def test_a_value_equals_no_value_of_another_class() -> None:
    pair: object = Pair(left=1)
    assert pair != Compiled(x=1)
    assert pair != (1, None)


def test_equal_values_are_one_key_and_those_of_lists_are_none() -> None:
    assert len({Pair(left=1), Pair(left=1, right=None), Pair(left=2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(x=1))


def test_a_value_never_changes_and_takes_no_further_attribute() -> None:
    value: Any = Point(x=1)
    for name in ("x", "z"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.x
    assert not hasattr(value, "__dict__")


def test_each_value_has_a_default_of_its_own() -> None:
    assert Point(x=1).names is not Point(x=1).names


def test_a_wrong_argument_is_named() -> None:
    make: Any = Point
    with pytest.raises(TypeError, match="Point needs x"):
        make(y=1)
    with pytest.raises(TypeError, match="Point has no z"):
        make(x=1, z=2)
    with pytest.raises(TypeError):
        make(1)


def pickled(value: object) -> object:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_is_equal(again: Any) -> None:
    value = Point(x=1, names=["a"], note="b")
    assert again(value) == value
    assert again(value).note == "b"


def test_a_class_keeps_methods_of_its_own() -> None:
    @frozen
    class Shown:
        x: int

        def __repr__(self) -> str:
            return "shown"

    assert repr(Shown(x=1)) == "shown"
