"""The page over HTTP: what it shows, whom it lets in, and what it does to a run: nothing."""

from __future__ import annotations

import queue
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="pip install azaion-imagebuild[page]")
pytest.importorskip("uvicorn", reason="pip install azaion-imagebuild[page]")

import requests
from page_clients import HELD, end, fleet, pages
from served_pages import Served, Visitor, served
from thorough import thorough
from world import Run

from azaion_imagebuild.fleet import events
from azaion_imagebuild.fleet.page_socket import PageSocket
from azaion_imagebuild.fleet.scans import Answer, accepted
from azaion_imagebuild.page.doors import Doors
from azaion_imagebuild.page.state import State
from azaion_imagebuild.pipeline.events import Event, started

HTML = "<script>alert(1)</script>"


@dataclass
class Bench:
    """A run that only its socket knows, a page of it, and somebody who looks at that."""

    run: PageSocket
    page: Served
    visitor: Visitor
    asked: list[str] = field(default_factory=list)

    def tell(self, event: Event, **fields: Any) -> None:
        self.run(event.with_fields(fields))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    with pages(folder) as (run, path), served("--socket", str(path)) as page:
        found = Bench(run, page, page.visitor())

        def scan(text: str) -> Answer:
            found.asked.append(text)
            return accepted(text, "1-1")

        run.scan = scan
        run(events.opened(["1-1", "1-2"]))
        found.visitor.until('id="tile-1"')
        yield found


def ended(serial: str, lane: str, outcome: str = "done", **fields: Any) -> Event:
    record = {"serial": serial, "outcome": outcome, "lane": lane, "seconds": 75.0, "step": "flash",
              "flashed": True, "device": "APX", **fields}  # fmt: skip
    return events.ended(record)


def tile(html: str, number: int) -> str:
    found = re.search(rf'<article id="tile-{number}".*?</article>', html, re.S)
    assert found
    return found[0]


# What it shows


def test_a_device_is_followed_from_its_scan_to_its_end(bench: Bench) -> None:
    answer = bench.visitor.scan("AZJN-0001")
    assert (answer["answer"], answer["message"]) == ("accepted", "AZJN-0001 accepted for USB 1-1")
    bench.run(events.assigned("1-1", "AZJN-0001"))
    bench.tell(started("flash"), lane="1-1", serial="AZJN-0001")
    shown = tile(bench.visitor.until("flashing"), 0)
    assert "AZJN-0001" in shown
    assert "<progress" in shown
    bench.run(ended("AZJN-0001", "1-1"))
    shown = tile(bench.visitor.until("✓ PASS"), 0)
    assert ("1:15" in shown, "<progress" in shown) == (True, False)
    bench.run(events.assigned("1-1", "AZJN-0002"))
    bench.run(ended("AZJN-0002", "1-1", "failed", error="loose cable", hint="plug it in"))
    shown = tile(bench.visitor.until("✗ FAIL"), 0)
    assert "loose cable" in shown
    assert "→ plug it in" in shown
    html = bench.visitor.until("<b>FAIL</b> AZJN-0002")
    assert "<b>PASS</b> AZJN-0001" in html
    assert "50.0 %" in html


def test_a_change_reaches_every_open_page(bench: Bench) -> None:
    with bench.visitor.events() as mine, bench.page.visitor().events() as other:
        for told in (mine, other):
            assert {"head", "tiles", "tally"} <= told.get(timeout=30).keys()
        bench.run(events.assigned("1-2", "AZJN-0003"))
        for told in (mine, other):
            assert "AZJN-0003" in until(told, "tile-1")


def until(told: queue.Queue[dict[str, str]], name: str) -> str:
    """Return a part's HTML as soon as it comes."""
    while name not in (parts := told.get(timeout=30)):
        pass
    return parts[name]


def test_html_in_a_serial_or_a_cause_is_text(bench: Bench) -> None:
    answer = bench.visitor.scan(HTML)
    assert HTML not in answer["parts"][0]["html"]
    bench.run(events.assigned("1-2", HTML))
    bench.run(ended(HTML, "1-2", "failed", error=f"{HTML}\x1b[31m", hint='" onload="x'))
    html = bench.visitor.until("&lt;script&gt;alert(1)")
    assert (HTML in html, "\x1b" in html, '" onload="x' in html) == (False, False, False)


def test_a_page_whose_run_is_killed_says_so_and_follows_the_next_one(tmp_path: Path) -> None:
    state = State()
    at = "2026-11-28T02:43:05.000Z"
    state.apply({"event": "hello", "time": at})
    state.apply({"event": "opened", "time": at, "lanes": ["1-1"]})
    state.apply({"event": "assigned", "time": at, "lane": "1-1", "serial": "AZJN-0001"})
    state.apply({"event": "started", "time": at, "lane": "1-1", "serial": "AZJN-0001",
                 "step": "flash"})  # fmt: skip
    state.lost()
    (lost,) = state.tiles.values()
    assert (lost.word, lost.cause) == ("LOST", "the run has gone while flashing")
    state.apply({"event": "hello", "time": at})
    assert (state.connected, state.tiles) == (True, {})


@thorough
def test_without_a_run_it_says_what_to_start_and_reads_the_ledger(run: Run) -> None:
    assert run("image", "--serial", "AZJN-0001", "--state-dir", "state").code == 0
    with served("--state-dir", "state") as page:
        visitor = page.visitor()
        assert "NOT RUNNING" in visitor.until("<b>PASS</b> AZJN-0001")
        answer = visitor.scan("AZJN-0002")
        assert (answer["answer"], answer["message"]) == ("refused", "nothing runs here")
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(30) == 0


# Who may


def test_a_link_opens_the_page_once_and_the_next_one_is_printed(bench: Bench) -> None:
    link = bench.page.link
    came = bench.page.visitor()
    assert bench.page.link != link
    again = requests.get(link, timeout=30)
    assert (again.status_code, again.cookies.get_dict()) == (403, {})
    (cookie,) = list[Any](came.session.cookies)
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"
    requests.head(bench.page.link, timeout=30)  # a preview of a link does not use it up
    bench.page.visitor()


@pytest.mark.parametrize("path", ["/", "/events", "/scan", "/page.js", "/page.css", "/nothing"])
@pytest.mark.parametrize("cookie", [None, "made-up"])
def test_nobody_gets_anything_without_a_session(
    bench: Bench, path: str, cookie: str | None
) -> None:
    name = bench.visitor.session.cookies.keys()[0]
    answer = requests.get(bench.visitor.url + path, timeout=30,
                          cookies={name: cookie} if cookie else {})  # fmt: skip
    assert (answer.status_code, "AZJN" in answer.text) == (401, False)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil@127.0.0.1:1",
                                  "localhost.evil.example"])  # fmt: skip
def test_another_hosts_name_is_refused(bench: Bench, host: str) -> None:
    assert bench.visitor.get("/", Host=host).status_code in (400, 421)


FOREIGN: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_another_sites_requests_are_refused(bench: Bench, headers: dict[str, str]) -> None:
    asked = len(bench.asked)
    assert bench.visitor.get("/", **headers).status_code == 403
    assert bench.visitor.get("/events", **headers).status_code == 403
    wanted = {"X-CSRF-Token": bench.visitor.token, **bench.visitor.origin, **headers}
    assert bench.visitor.post({"serial": "AZJN-0666"}, **wanted).status_code == 403
    assert len(bench.asked) == asked


def test_a_scan_needs_the_pages_token_and_origin(bench: Bench) -> None:
    asked, visitor = len(bench.asked), bench.visitor
    scan, other = {"serial": "AZJN-0666"}, bench.page.visitor()
    for headers in (
        visitor.origin,
        visitor.origin | {"X-CSRF-Token": "made up"},
        visitor.origin | {"X-CSRF-Token": other.token},
        {"X-CSRF-Token": visitor.token},
    ):
        assert visitor.post(scan, **headers).status_code == 403
    assert requests.post(visitor.url + "/scan", json=scan, headers=visitor.origin,
                         timeout=30).status_code == 401  # fmt: skip
    assert visitor.get("/scan").status_code == 405
    assert len(bench.asked) == asked


@pytest.mark.parametrize("body", [["x"], {"serial": 1}, {}, {"serial": "x" * 5000}, None])
def test_what_is_not_a_scan_is_refused(bench: Bench, body: Any) -> None:
    headers = bench.visitor.origin | {"X-CSRF-Token": bench.visitor.token}
    assert bench.visitor.post(body, **headers).status_code == 400


@pytest.mark.parametrize("path", ["/", "/events-not", "/login?key=x", "/page.js"])
def test_no_script_but_ours_no_frame_nothing_kept(bench: Bench, path: str) -> None:
    headers = bench.visitor.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert (headers["X-Frame-Options"], headers["Cache-Control"]) == ("DENY", "no-store")
    told = Attributes()
    told.feed(bench.visitor.get().text)
    assert {"class", "data-token"} <= told.names
    assert [name for name in told.names if name == "style" or name.startswith("on")] == []


class Attributes(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {name for name, _ in attrs}


def doors(**changes: Any) -> Doors:
    told: dict[str, Any] = {"scheme": "https", "port": 8443, "names": frozenset({"bench.example"}),
                            "takes_addresses": True, "say_link": lambda path: None}  # fmt: skip
    return Doors(**{**told, **changes})


def test_an_address_is_a_host_of_a_page_for_the_network_but_a_foreign_name_is_not() -> None:
    hosts = ["10.0.0.7:8443", "[fe80::1]:8443", "bench.example:8443", "BENCH.example:8443"]
    assert all(doors().is_host(host) for host in hosts)
    for host in (
        "evil.example:8443",
        "10.0.0.7",
        "x@10.0.0.7:8443",
        "10.0.0.7:8443/x",
        "",
        "[::1",
        ":8443",
    ):
        assert not doors().is_host(host)
    assert not doors(takes_addresses=False).is_host("10.0.0.7:8443")
    assert doors(port=443).is_host("bench.example")


def test_old_sessions_are_forgotten_when_there_are_very_many() -> None:
    links: list[str] = []
    guard = doors(say_link=links.append)
    guard.invite()
    sessions = [guard.enter(links[-1].partition("=")[2]) for _ in range(100)]
    assert guard.token_of(sessions[0]) is None
    assert guard.token_of(sessions[-1]) is not None


@pytest.mark.parametrize("argv", [
    ("--listen", "0.0.0.0:0"), ("--listen", "nonsense"), ("--listen", "127.0.0.1:x"),
    ("--listen", "[::]:0"), ("--cert", "x.pem"), ("--cert", "x.pem", "--key", "y.pem"),
    ("--listen", "192.0.2.1:8080", "--insecure"),
])  # fmt: skip
def test_a_place_that_is_not_safe_or_not_there_is_refused(run: Run, argv: tuple[str, ...]) -> None:
    done = run("page", *argv)
    assert (done.code, len(done.errors), len(done.hints)) == (2, 1, 1)


def test_without_its_extra_it_says_how_to_install_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    monkeypatch.delitem(__import__("sys").modules, "azaion_imagebuild.page.serve", raising=False)
    done = run("page")
    assert "needs uvicorn, which is not installed" in done.err
    assert "azaion-imagebuild[page]" in done.err


@pytest.mark.skipif(not Path("/usr/bin/openssl").exists(), reason="needs openssl")
def test_with_a_certificate_it_is_served_to_other_hosts_over_tls() -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    argv = ("--cert", "cert.pem", "--key", "key.pem", "--host-name", "127.0.0.1")
    with served(*argv, listen="0.0.0.0:0") as page:
        assert page.link.startswith("https://127.0.0.1:")
        with requests.Session() as browser:
            shown = browser.get(page.link, timeout=30, verify="cert.pem")
            assert "Scan a label" in shown.text
            (cookie,) = list[Any](browser.cookies)
            assert cookie.secure


# What it does to a run


def test_a_page_that_is_killed_changes_nothing_and_the_next_one_knows_all(tmp_path: Path) -> None:
    with pages(tmp_path) as (run, path):
        run(events.opened(["1-1"]))
        with served("--socket", str(path)) as page:
            page.visitor().until('id="tile-0"')
            page.process.kill()
            page.process.wait()
            run(events.assigned("1-1", "AZJN-0001"))
        with served("--socket", str(path)) as page:
            assert "AZJN-0001" in page.visitor().until('id="tile-0"')


@pytest.mark.thorough
def test_two_hundred_slow_clients_keep_nobody_waiting(bench: Bench) -> None:
    where = ("127.0.0.1", int(bench.visitor.url.rpartition(":")[2]))
    name, session = bench.visitor.session.cookies.items()[0]
    head = f"GET /events HTTP/1.1\r\nHost: {where[0]}:{where[1]}\r\nCookie: {name}={session}\r\n"
    with ExitStack() as held:
        for number in range(200):
            slow = held.enter_context(socket.create_connection(where))
            slow.sendall(head.encode() + (b"\r\n" if number % 2 else b""))
        for number in range(300):
            bench.tell(started("flash" if number % 2 else "build_image"), lane="1-1", serial="x")
        began = time.monotonic()
        assert bench.visitor.scan("AZJN-0009")["answer"] == "accepted"
        assert time.monotonic() - began < 20  # the machine may be busy


@pytest.fixture
def line(run: Run) -> None:
    Path("line").mkdir()
    Path("line/line.py").write_text(HELD)
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["line"]\n[build]\nstate_dir = "state"\n')
    assert run("base").code == 0


def test_no_secret_is_in_any_byte_of_the_page(line: None) -> None:
    with fleet() as (run, _), served() as page:
        visitor = page.visitor()
        visitor.until('id="tile-0"')
        with visitor.events():
            for number in range(1, 4):
                visitor.scan(f"AZJN-{number:04}")
            visitor.until("<b>PASS</b> AZJN-0003")
            visitor.until("<b>PASS</b> AZJN-0001")
        end(run)
        visitor.until("NOT RUNNING")
    passwords = Path("passwords").read_text().split()
    assert len(passwords) == 3
    assert b"AZJN-0003" in visitor.raw
    assert [each for each in passwords if each.encode() in visitor.raw] == []
