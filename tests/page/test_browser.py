"""The page in a real browser, of a real fleet: scanned into, watched, killed, reloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="pip install azaion-imagebuild[page]")
pytest.importorskip("uvicorn", reason="pip install azaion-imagebuild[page]")

from browser import CHROMIUM, Browser, browser
from page_clients import HELD, end, fleet
from served_pages import Served, served
from world import Run

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
    pytest.mark.thorough,
]
TEXT = "document.body.innerText"


@pytest.fixture
def line(run: Run) -> None:
    Path("line").mkdir()
    Path("line/line.py").write_text(HELD)
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["line"]\n[build]\nstate_dir = "state"\n')
    assert run("base").code == 0


@contextmanager
def opened(page: Served, profile: Path, width: int = 1920, height: int = 1080) -> Iterator[Browser]:
    """Open the page's link in a browser of its own."""
    link, printed = page.link, len(page.lines)
    with browser(profile) as shown:
        shown.look(width, height)
        shown.go(link)
        shown.until("document.querySelector('.tile') !== null")
        while len(page.lines) == printed:
            pass
        yield shown


def shows(page: Browser, *texts: str) -> None:
    for text in texts:
        page.until(f"{TEXT}.includes({text!r})")


def colour_of(page: Browser, serial: str) -> str:
    """Return the background of the tile that shows a serial."""
    tile = f"[...document.querySelectorAll('.tile')].find(t => t.innerText.includes({serial!r}))"
    value: str = page.value(f"getComputedStyle({tile}).backgroundColor")
    return value


def test_an_operator_scans_sees_and_trusts_the_page(line: None, tmp_path: Path) -> None:
    Path("hold").touch()
    Path("fail-AZJN-0002").touch()
    with ExitStack() as held:
        run, _ = held.enter_context(fleet())
        page = held.enter_context(served())
        bench = held.enter_context(opened(page, tmp_path / "bench"))
        phone = held.enter_context(opened(page, tmp_path / "phone", 390, 844))

        assert bench.value("document.activeElement.id") == "serial"
        bench.value("document.querySelector('#tally').click()")
        bench.type("AZJN-0001\n")
        for each in (bench, phone):
            shows(each, "OK AZJN-0001 accepted", "flashing")
            assert each.value("document.querySelector('.busy progress').value") >= 5
        before = bench.value("document.querySelector('[data-elapsed]').innerText")
        bench.until(f"document.querySelector('[data-elapsed]').innerText !== {before!r}")
        assert bench.value("document.activeElement.id + serial.value") == "serial"
        bench.type("AZJN-0001\n")
        shows(bench, "AGAIN AZJN-0001 is being made")
        bench.type("<i>x</i>\n")
        shows(bench, "REFUSED '<i>x</i>' is not a serial")

        os.unlink("hold")
        for each in (bench, phone):
            shows(each, "✓ PASS", "PASS AZJN-0001")
            assert colour_of(each, "AZJN-0001") == "rgb(10, 107, 45)"
        phone.value("document.querySelector('#serial').focus()")
        phone.type("AZJN-0002\n")
        for each in (bench, phone):
            shows(each, "✗ FAIL", "the cable is loose", "→ plug it in again")
            assert colour_of(each, "AZJN-0002") == "rgb(176, 0, 32)"
        assert phone.value("document.documentElement.scrollWidth <= innerWidth")

        bench.go(page.link.partition("/login")[0] + "/")  # the cookie lets it in
        shows(bench, "✗ FAIL", "✓ PASS", "50.0 %")
        bench.look(1920, 1080, "dark")
        assert colour_of(bench, "AZJN-0002") == "rgb(196, 22, 47)"

        Path("hold").touch()
        bench.type("AZJN-0003\n")
        shows(bench, "flashing")
        run.kill()
        run.communicate()
        for each in (bench, phone):
            shows(each, "NOT RUNNING", "? LOST", "the run has gone while flashing")
            shows(each, "Unknown: 1 to check", "UNKNOWN AZJN-0003")
        os.unlink("hold")
        run, _ = held.enter_context(fleet())
        for each in (bench, phone):
            each.until(f"!{TEXT}.includes('NOT RUNNING') && !{TEXT}.includes('LOST')")
        bench.go(page.link.partition("/login")[0] + "/")
        shows(bench, "Unknown: 1 to check", "UNKNOWN AZJN-0003", "33.3 %")
        bench.type("AZJN-0002\nAZJN-0003\n")
        shows(bench, "REFUSED AZJN-0003 died while flashing")
        assert end(run)["failed"] == 1
        shows(bench, "NOT RUNNING")
        for each in (bench, phone):
            assert each.complaints() == []
            assert all("127.0.0.1" in url for url in each.asked_for())
