from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from azaion_imagebuild.errors import PreflightError
from azaion_imagebuild.system.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from azaion_imagebuild.system.locks import locked
with locked([Path(sys.argv[1])], 0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_tree(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(PreflightError, match=f"in use by process {other.pid}"):
            locked([tmp_path], 0).__enter__()
        other.communicate()
    with locked([tmp_path], 0) as held:
        assert len(held) == 1


SCRIPT = """
import subprocess, sys
from pathlib import Path
from azaion_imagebuild.system.locks import locked
with locked([Path(sys.argv[2])], 0) as held:
    script = subprocess.Popen(["sleep", "60"], pass_fds=held)
    print("held", flush=True)
    sys.stdin.read()
    script.kill()
"""


def test_of_the_tool_and_its_scripts_one_is_named(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "/usr/bin/azaion-imagebuild", str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as tool:  # fmt: skip
        assert tool.stdout is not None
        assert tool.stdout.readline() == "held\n"
        with pytest.raises(PreflightError) as refused:
            locked([tmp_path], 0).__enter__()
        tool.communicate()
    assert f"in use by process {tool.pid} (" in refused.value.message
    assert "sleep" not in refused.value.message


def test_a_lock_leaves_nothing_in_the_tree(tmp_path: Path) -> None:
    before = os.listdir(tmp_path)
    with locked([tmp_path], 0):
        assert os.listdir(tmp_path) == before


def test_one_folder_by_two_names_is_locked_once(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "link").symlink_to("tree")
    with locked([tmp_path / "tree", tmp_path / "link", tmp_path / "nothing"], 0) as held:
        assert len(held) == 1
