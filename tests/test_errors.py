from __future__ import annotations

import pytest

from azaion_imagebuild.errors import PreflightError, VerificationError, raise_for
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
