from __future__ import annotations

import pytest

from azaion_imagebuild.errors import PreflightError, VerificationError, is_interrupt, raise_for
from azaion_imagebuild.model import Finding

WARNING = Finding(message="the label is old", hint="print it again", severity="warning")


@pytest.mark.parametrize("findings", [[], [WARNING]])
def test_warnings_stop_nothing(findings: list[Finding]) -> None:
    raise_for(iter(findings), PreflightError)


def test_all_errors_are_raised_together() -> None:
    errors = [Finding(message=f"problem {i}", hint=f"do {i}") for i in range(2)]
    with pytest.raises(VerificationError) as caught:
        raise_for([errors[0], WARNING, errors[1]], VerificationError)
    assert caught.value.problems == (("problem 0", "do 0"), ("problem 1", "do 1"))


def test_a_cause_that_leads_back_to_its_error_is_no_interrupt() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert not is_interrupt(first)
    second.__cause__ = KeyboardInterrupt()
    assert is_interrupt(first)
