"""The site of docs/, as `make docs` builds it; skipped where mkdocs-material is not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import CHROMIUM, browser
from pages import PAGES, ROOT
from serving import served

pytestmark = pytest.mark.skipif(not find_spec("material"), reason="pip install mkdocs-material")
SITE_PAGES = [page for page in PAGES if page.is_relative_to(ROOT / "docs")]
MENU_ENTRY = re.compile(r'<span class="md-ellipsis">\s*([^<]+)<')
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


def built(site: Path, page: Path) -> Path:
    """Return the file of the site that a page becomes."""
    return site / page.relative_to(ROOT / "docs").with_suffix(".html")


class Loads(HTMLParser):
    """What a page has the browser load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if (address := named.get(LOADED.get(tag, ""))) and named.get("rel") != "canonical":
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link to nowhere or a page outside the menu is an error."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = "http://127.0.0.1:9"  # a proxy that is not there: the build must not need a network
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    environ |= {f"{scheme}_proxy": nowhere for scheme in ("http", "https")}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_the_menu_leads_to_pages_that_there_are() -> None:
    menu = re.findall(r"- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(str(page.relative_to(ROOT / "docs")) for page in SITE_PAGES)


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in SITE_PAGES:
        addresses = Loads(built(site, page).read_text()).addresses
        assert addresses
        for address in addresses:
            assert not re.match(r"\w+:|//", address), (page.name, address)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.skipif(not CHROMIUM, reason="sudo apt-get install chromium")
def test_every_page_fits_a_phone_and_a_desktop(site: Path, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as shown:
        for page in SITE_PAGES:
            for width in (390, 1280):
                shown.look(width)
                shown.open(built(site, page))
                wide = shown.value("document.documentElement.scrollWidth")
                assert wide <= width, (page.name, width, wide)
                assert {urlsplit(each).scheme for each in shown.asked_for()} <= {"file", "data"}


@pytest.mark.skipif(not CHROMIUM, reason="sudo apt-get install chromium")
def test_on_paper_every_table_and_every_line_of_code_is_whole(site: Path, tmp_path: Path) -> None:
    blocks = "[...document.querySelectorAll('.md-typeset__scrollwrap, pre, pre > code')]"
    with browser(tmp_path / "profile") as shown:
        shown.look(739, media="print")  # Letter, without the margins
        for page in SITE_PAGES:
            shown.open(built(site, page))
            cut = shown.value(f"{blocks}.filter(e => e.scrollWidth > e.clientWidth).length")
            assert not cut, page.name


@pytest.mark.skipif(not CHROMIUM, reason="sudo apt-get install chromium")
def test_the_search_finds_a_word_in_pages_opened_as_files(site: Path, tmp_path: Path) -> None:
    field = "document.querySelector('[data-md-component=search-query]')"
    with browser(tmp_path / "profile") as shown:
        shown.open(built(site, ROOT / "docs/how-to/fuses.md"))
        shown.value(f"{field}.focus(), {field}.value = 'ecid'")
        shown.value(f"{field}.dispatchEvent(new KeyboardEvent('keyup'))")
        found = shown.until("document.querySelector('.md-search-result__link')?.href")
        assert found.startswith(f"{site.as_uri()}/reference/glossary.html")
        assert {urlsplit(each).scheme for each in shown.asked_for()} <= {"file", "data", "about"}


def test_no_page_shows_markdown_and_every_menu_entry_is_a_pages_title(site: Path) -> None:
    for page in SITE_PAGES:
        text = built(site, page).read_text()
        shown = [each for each in re.findall("<code>(.*?)</code>", text) if r"\|" in each]
        assert not shown, page.name
        title = page.read_text().partition("\n")[0].removeprefix("# ")
        assert title in [each.strip() for each in MENU_ENTRY.findall(text)], page.name


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.mark.skipif(not CHROMIUM, reason="sudo apt-get install chromium")
def test_the_search_finds_a_word_on_this_host_alone(site: Path, tmp_path: Path) -> None:
    field = "document.querySelector('[data-md-component=search-query]')"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        here = f"http://127.0.0.1:{server.server_port}/"
        with served(server), browser(tmp_path / "profile") as shown:
            shown.go(f"{here}index.html")
            shown.value(f"{field}.focus(), {field}.value = 'odmfuse'")
            shown.value(f"{field}.dispatchEvent(new KeyboardEvent('keyup'))")
            found = shown.until("document.querySelector('.md-search-result__link')?.href")
            assert found.startswith(here)
            assert all(each.startswith((here, "data:", "blob:")) for each in shown.asked_for())
