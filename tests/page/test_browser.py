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
from ledgers import died
from page_clients import HELD, end, fleet, pages
from served_pages import Served, served
from world import Run

from azaion_imagebuild.fleet import events
from azaion_imagebuild.fleet.page_socket import PageSocket
from azaion_imagebuild.fleet.scans import accepted
from azaion_imagebuild.ledger import Ledger

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


def test_a_page_says_when_its_server_is_gone_and_comes_back_with_the_next(tmp_path: Path) -> None:
    with pages(tmp_path) as (run, path), ExitStack() as held:
        run(events.opened(["1-1"]))
        run.scan = lambda text: accepted(text, "1-1")
        page = held.enter_context(served("--socket", str(path)))
        bench = held.enter_context(opened(page, tmp_path / "bench"))
        assert bench.value("away.hidden")
        page.process.kill()
        bench.until("!away.hidden")
        shows(bench, "This page has lost its server")
        bench.type("AZJN-0001\n")
        shows(bench, "NOT SENT: AZJN-0001")
        where = page.link.partition("/login")[0].removeprefix("http://")
        run(events.assigned("1-1", "AZJN-0002"))
        again = held.enter_context(served("--socket", str(path), listen=where))
        bench.events.clear()
        ((name, session),) = again.visitor().session.cookies.items()
        bench.call("Network.setCookie", url=f"http://{where}", name=name, value=session)
        bench.loaded()  # as if its link was opened in another tab
        shows(bench, "AZJN-0002")
        bench.until("away.hidden")
        bench.type("AZJN-0003\n")
        shows(bench, "OK AZJN-0003 accepted for USB 1-1")


CAUSE = "flash.sh -r ended with 1: USB 1-5 does not answer"
HINT = "hold FORCE RECOVERY, press RESET, then scan the label again"


def thirty_devices_at_ten_lanes(run: PageSocket) -> None:
    """Ten lanes have made three devices each; one of the last fails in every row of tiles."""
    lanes = [f"1-{number}" for number in range(1, 11)]
    run(events.opened(lanes))
    for number in range(30):
        lane, serial = lanes[number % 10], f"AZJN-{number:04}"
        run(events.assigned(lane, serial))
        failed = {"outcome": "failed", "step": "flash", "error": CAUSE, "hint": HINT}
        done = {"outcome": "done", "flashed": True, "device": "APX"}
        how = failed if number in (11, 16, 22, 26, 29) else done
        run(events.ended({"serial": serial, "lane": lane, "seconds": 598.0, **how}))


@pytest.mark.parametrize("size", [(1920, 1080), (1366, 768), (3840, 2160)], ids=str)
def test_ten_lanes_and_all_beside_them_fit_a_screen_that_is_read_from_four_metres(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """Capitals of 28 px are 5 arcminutes high at 4 m, on a 24-inch screen of 1920 x 1080."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.write(died(serial="AZJN-0812", step="flash", sandbox=True))
    with pages(tmp_path) as (run, path), served("--socket", str(path)) as page:
        thirty_devices_at_ten_lanes(run)
        with opened(page, tmp_path / "bench", *size) as bench:
            bench.until("document.querySelectorAll('#last li').length === 20")
            bench.until("document.querySelectorAll('.fail .hint').length === 3")
            shows(bench, "Unknown: 1 to check", "AZJN-0812")
            root = "document.documentElement"
            assert bench.value(f"[{root}.scrollHeight, {root}.scrollWidth]") == [*size[::-1]]
            for part, least in ((".tile .word", 50), (".tile .serial", 50), ("#tally dd", 40),
                                ("#last li", 28), ("#undone b", 28), ("#answer", 40)):  # fmt: skip
                font = f"getComputedStyle(document.querySelector({part!r})).fontSize"
                assert float(bench.value(font).removesuffix("px")) >= least
