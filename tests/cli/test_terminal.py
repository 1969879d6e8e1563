"""What a person sees at a terminal: one live display, and nothing of it at the end."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from terminal import SHELL, at_a_terminal, screen
from thorough import one_of, thorough
from world import Run, replace_script

from azaion_imagebuild.cli.console import Console
from azaion_imagebuild.cli.screen import Screen, fitted
from azaion_imagebuild.pipeline import events
from azaion_imagebuild.sandbox import Sandbox

_script = logging.getLogger("azaion_imagebuild.system.process")
PLUGIN = """
import time
from pathlib import Path
from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import FlashError

@hookimpl(tryfirst=True)
def verify_image(build):
    while Path("hold").exists():
        time.sleep(0.01)

@hookimpl(trylast=True)
def post_flash(build):
    if Path("fail").exists():
        raise FlashError("the device did not answer", hint="look at its cable")
"""
SCAN = ("fleet", "-", "--jobs", "2")


@pytest.fixture
def site(run: Run) -> None:
    """A site whose devices wait for ``hold`` to go, and fail after their flash with ``fail``."""
    Path("line").mkdir()
    Path("line/line.py").write_text(PLUGIN)
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["line"]\n')


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@thorough
def test_nothing_moves_while_lanes_wait_for_a_label(site: None) -> None:
    with at_a_terminal(*SCAN) as bench:
        bench.until("label: ")
        bench.read(1.2)
        assert bench.lines[-3:] == ["USB 0-1  free", "USB 0-2  free", "label:"]
        assert bench.read(1.8) == ""


@thorough
def test_a_line_that_comes_while_a_label_is_typed_does_not_glue_onto_it(site: None) -> None:
    Path("hold").touch()
    with at_a_terminal(*SCAN) as bench:
        bench.until("label: ")
        bench.type("AZJN-0901\n")
        bench.until("AZJN-0901 accepted for USB 0-1")
        bench.type("AZJN-09")
        Path("hold").unlink()
        bench.until("ready for the next label")
        assert bench.lines[-1] == "label: AZJN-09"
        assert any(re.fullmatch(r"PASS  AZJN-0901  USB 0-1 .*devkit", line) for line in bench.lines)
        bench.type("x\x7f0")
        bench.type("2\n")
        bench.until("AZJN-0902 accepted for USB 0-")


@thorough
def test_a_label_is_edited_as_at_a_shell(site: None) -> None:
    with at_a_terminal(*SCAN, "--out", "images") as bench:
        bench.until("label: ")
        bench.type("nonsense\x15AZJN-090\x1b[D2\x041\x7f\x7f1\r")
        bench.until("AZJN-0901 accepted for job 1")
        bench.until("PASS  AZJN-0901")
        bench.type("\x04")
        assert bench.ends() == 0


@thorough
def test_a_run_that_ctrl_z_stops_gives_the_terminal_back_and_takes_scans_after_fg(
    site: None,
) -> None:
    with at_a_terminal(*SCAN, through=(sys.executable, "-c", SHELL)) as bench:
        bench.until("label: ")
        bench.type("AZJN-09")
        bench.until("label: AZJN-09")
        bench.type("\x1a")
        bench.until("stopped")
        assert bench.lines[-2:] == ["stopped", ""]  # no row is left there
        assert bench.shows_echo
        bench.type("fg\n")
        bench.until("label: AZJN-09", after=bench.text.index("stopped"))
        assert not bench.shows_echo
        bench.type("01\n")
        bench.until("AZJN-0901 accepted for USB 0-1")
        bench.type("\x04")
        assert bench.ends() == 0
        assert bench.shows_echo


@thorough
def test_no_row_and_no_mode_of_the_terminal_survives_the_end(site: None) -> None:
    with at_a_terminal(*SCAN) as bench:
        assert bench.shows_echo
        bench.until("label: ")
        assert not bench.shows_echo
        bench.type("AZJN-0901\n")
        bench.until("PASS  AZJN-0901")
        bench.type("\x04")
        assert bench.ends() == 0
        assert bench.shows_echo
    assert not [line for line in bench.lines if line.startswith(("USB ", "label:"))]
    assert bench.lines[-2].startswith("DONE in the SANDBOX: 1 of 1")
    assert bench.lines[-1] == ""


@pytest.mark.parametrize("number", one_of([signal.SIGINT, signal.SIGTERM]))
def test_a_fleet_that_is_stopped_leaves_a_terminal_that_works(
    site: None, number: signal.Signals
) -> None:
    Path("hold").touch()
    with at_a_terminal(*SCAN) as bench:
        bench.until("label: ")
        bench.type("AZJN-0901\nAZJN-0902")
        bench.until("AZJN-0901  verify_image")
        os.kill(bench.process.pid, number)
        bench.until("interrupted: " if number == signal.SIGINT else "stopping what is running")
        Path("hold").unlink()
        assert bench.ends() in (0, 130)  # 0: after one SIGINT, what had begun is done
        assert bench.shows_echo
    assert not [line for line in bench.lines if line.startswith(("USB ", "label:"))]


@thorough
def test_a_failed_build_ends_with_its_own_words_and_no_row_of_a_script(
    site: None, tmp_path: Path
) -> None:
    Path("fail").touch()
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    sandbox.create(1.0)
    replace_script(
        sandbox.bsp / "flash.sh",
        './flash.sh.real "$@"\nif [[ $1 == -r ]]; then echo flashed successfully; sleep 0.3; fi\n',
    )
    with at_a_terminal("image", "--serial", "AZJN-0042") as bench:
        assert bench.ends() == 7
    assert re.search(r"flash  \d s  flashed successfully", bench.text)  # it was live for a moment
    assert not [line for line in bench.lines if "successfully" in line]
    at = next(n for n, line in enumerate(bench.lines) if line.startswith("error: "))
    assert bench.lines[at] == "error: the device did not answer"
    assert bench.lines[-2].startswith("FAILED AZJN-0042 at post_flash")


def test_a_fleet_of_a_list_shows_its_lanes_and_no_line_of_their_scripts(site: None) -> None:
    with at_a_terminal("fleet", "AZJN-0001..AZJN-0004", "--jobs", "2") as bench:
        bench.until("[....")
        start = len(bench.text)
        assert bench.ends() == 0
    assert re.search(r"USB 0-1  AZJN-000\d  \w+  \d+ s", bench.text)
    assert "successfully" not in bench.text[start:]
    assert bench.lines[-2].startswith("DONE in the SANDBOX: 4 of 4")


def test_a_script_s_line_is_shown_while_its_own_step_runs() -> None:
    stream = Terminal()
    console = Console(stream)
    _script.debug("a line of a step that nobody has told of")
    console(events.started("build_image"))
    _script.debug("making system.img")
    _until(lambda: "build_image  0 s  making system.img" in stream.getvalue())
    console(events.ended("build_image", 1.0, ""))
    _script.debug("a line after its end")
    console(events.started("flash"))
    time.sleep(0.3)
    assert "a line" not in stream.getvalue()
    assert "flash  " not in stream.getvalue()
    assert screen(stream.getvalue()) == ["  build_image             1.00 s", ""]


@pytest.mark.parametrize("no_colour", one_of(["", "1"]))
def test_done_is_green_and_errors_are_red_unless_no_color_is_set(
    site: None, no_colour: str
) -> None:
    with at_a_terminal("image", "--serial", "AZJN-0042", NO_COLOR=no_colour) as bench:
        assert bench.ends() == 0
    assert ("\x1b[1;32mDONE\x1b[0m in the SANDBOX" in bench.raw) is not bool(no_colour)
    with at_a_terminal("image", "--serial", "A", NO_COLOR=no_colour) as bench:
        assert bench.ends() == 2
    assert ("\x1b[1;31merror:\x1b[0m" in bench.raw) is not bool(no_colour)
    assert ("\x1b[" in bench.raw) is not bool(no_colour)


@thorough
def test_a_dumb_terminal_gets_plain_lines(site: None) -> None:
    with at_a_terminal(*SCAN, TERM="dumb") as bench:
        bench.until("ready: scan a label")
        bench.type("AZJN-0901\n")
        bench.until("PASS  AZJN-0901")
        bench.type("\x04")
        assert bench.ends() == 0
    assert "\x1b" not in bench.raw


def test_rows_are_cut_to_the_width_and_the_height_of_the_terminal() -> None:
    assert fitted("short", 10) == "short"
    assert fitted("a long row", 6) == "a lon…"
    assert fitted("→→→→→→→→", 5) == "→→→→…"
    assert fitted("漢字漢字", 5) == "漢字…"
    stream = Terminal()
    shown = Screen(stream)
    shown.show(lambda: [f"row {number}" for number in range(100)])
    shown.typed("AZJN")
    seen = screen(stream.getvalue().replace("\n", "\r\n"))
    assert (len(seen), seen[-2:]) == (23, ["… and 79 more", "label: AZJN"])
    shown.close()
    assert screen(stream.getvalue()) == [""]


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
