"""The exit code is the record's, whatever becomes of the terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest
from thorough import one_of
from world import SERIAL

BROKEN = {
    "a full disk": "2>/dev/full",
    "a reader that goes away": "2>&1 >/dev/null | true",
    "a reader of the first line": "2>&1 >/dev/null | head -n 1 >/dev/null",
    "a closed descriptor": "2>&-",
}
COMMANDS = {
    f"image --serial {SERIAL} --json": 0,
    "verify nothing.img --serial AZJN-0042": 2,
    "doctor --bsp nowhere --api-url http://127.0.0.1:1": 3,
}


@pytest.mark.parametrize("stderr", one_of(BROKEN.values()), ids=list(BROKEN))
@pytest.mark.parametrize(("command", "code"), one_of(COMMANDS.items()))
def test_a_broken_stderr_does_not_change_the_exit_code(
    command: str, code: int, stderr: str
) -> None:
    line = f"{sys.executable} -m azaion_imagebuild {command} {stderr}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], check=False, capture_output=True)
    assert done.returncode == code
