from __future__ import annotations

import io
import logging
import sys
import threading

import pytest

from azaion_imagebuild.cli import live_line as progress
from azaion_imagebuild.cli.console import Console
from azaion_imagebuild.errors import PreflightError
from azaion_imagebuild.pipeline import events
from azaion_imagebuild.secret import Secret

_script = logging.getLogger("azaion_imagebuild.system.process")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_a_long_step_says_its_last_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    console = Console(stream)
    console(events.started("build_image"))
    _script.debug("first")
    assert stream.getvalue() == ""
    monkeypatch.setattr(progress, "_PAUSE", 0.0)
    _script.debug("making system.img")
    assert stream.getvalue() == "    … 0 s: making system.img\n"
    console(events.ended("build_image", 1.5, "done"))
    assert stream.getvalue().endswith("  build_image             1.50 s  done\n")


def test_on_a_terminal_the_live_line_goes_when_the_step_ends() -> None:
    stream = Terminal()
    console = Console(stream)
    console(events.started("build_image"))
    _script.debug("making [bold]system.img[/bold]")
    console(events.ended("build_image", 1.5, ""))
    assert "making [bold]system.img[/bold]" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("1.50 s")


def test_debug_shows_every_line_of_a_script() -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.debug = True
    _script.debug("a line")
    assert stream.getvalue() == "    | a line\n"


def test_every_line_is_redacted_and_every_problem_has_its_hint() -> None:
    stream = io.StringIO()
    secret = Secret("hunter2hunter2")
    problems = [(f"first {secret.reveal()}", "do this"), ("second", "do that")]
    Console(stream).failed(PreflightError.of_problems(problems))
    assert stream.getvalue().splitlines() == [
        "error: first ***", "hint: do this", "error: second", "hint: do that",
    ]  # fmt: skip


def test_a_fleet_counts_upwards_though_two_lanes_report_at_once() -> None:
    class Interrupted(io.StringIO):
        def write(self, text: str) -> int:
            if second.ident is None:
                second.start()
                second.join(0.2)  # in vain: it is not its turn
            return super().write(text)

    stream = Interrupted()
    tell = Console(stream).fleet(scans=False)
    second = threading.Thread(target=tell, args=[events.Event(name="device", message="B")])
    tell(events.Event(name="device", message="A"))
    second.join()
    assert [line.split() for line in stream.getvalue().splitlines()] == [["1", "A"], ["2", "B"]]


def test_a_closed_stream_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    Console(stream).say("x")
    Console(None).say("x")
    assert sys.stdout is not None
