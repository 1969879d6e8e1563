"""What `make check` and CI run in full, and `make test` by a representative each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet

thorough = pytest.mark.thorough


def one_of(cases: Iterable[Any], *, kept: int = 0) -> list[ParameterSet]:
    """Return the cases of a parametrized test; all but one are thorough.

    Args:
        cases: each a value, or a tuple of values.
        kept: the number of the one that `make test` runs, too.
    """
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)),
                     marks=() if number == kept else thorough)
        for number, case in enumerate(cases)
    ]  # fmt: skip
