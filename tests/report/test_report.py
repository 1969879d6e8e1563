from __future__ import annotations

import csv
import json
import os
import re
import stat
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import fleets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thorough import one_of, thorough

from azaion_imagebuild.errors import UsageError
from azaion_imagebuild.report import page, summary_lines, write_report
from azaion_imagebuild.report import spreadsheet as sheet
from azaion_imagebuild.report.causes import find_causes
from azaion_imagebuild.report.durations import Axis, spoken, step_times
from azaion_imagebuild.report.totals import Totals, percent
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.text import visible

HOSTILE = (
    '<script>alert(1)</script>"><img src=http://evil.example/x onerror=alert(2)>'
    "\x1b[2J\u202e{{7*7}}"
)


class Seen(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.named: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "
        self.named += [name for name, _ in attrs]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def html_of(fleet: dict[str, Any]) -> str:
    return "".join(page.chunks(fleet))


def rows_of(fleet: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(sheet.lines(fleet)))


# What the files hold


def test_a_report_is_three_files_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "today"
    html = write_report(folder, fleets.a_days_work())
    assert html == folder / "report.html"
    assert sorted(os.listdir(folder)) == ["report.csv", "report.html", "report.json"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_the_page_says_how_many_how_fast_and_why_not() -> None:
    text = " ".join(Seen(html_of(fleets.a_days_work())).text.split())
    for words in (
        "188 of 200 devices done", "95.9 % yield of 193 attempted", "INCOMPLETE 10 min 12 s",
        "failed 7", "1,088", "station S1", "operator m.kovacs",
        "run the same command again; it builds the 11 that are failed or not started.",
        "5 devices cannot reach the admin API at https://admin.example.com: connection refused",
        "failed at provision_identity, exit code 4 → check DNS, VPN, firewall and API_URL",
        "2 devices flash.sh -r ended with 1: USB 1-2 does not answer", "nobody saw how it ended",
        "AZJN-0001 azaion-jetson-0001@azaion.com done", "AZJN-0200", "provision_identity 0.2 %",
    ):  # fmt: skip
        assert words in text
    assert "SANDBOX" not in text
    assert "SANDBOX" in html_of(fleets.fleet([fleets.record(1)], sandbox=True))


def test_the_json_is_the_fleet_and_what_the_page_calculates(tmp_path: Path) -> None:
    fleet = fleets.a_days_work()
    write_report(tmp_path, fleet)
    text = (tmp_path / "report.json").read_text()
    written = json.loads(text)
    figures = written.pop("report")
    assert written == fleet
    assert figures["yield"] == pytest.approx(185 / 193)
    assert [cause["devices"][0] for cause in figures["causes"]] == [
        "AZJN-0041", "AZJN-0091", "AZJN-0121",
    ]  # fmt: skip
    assert [step["step"] for step in figures["steps"]] == list(fleet["records"][0]["steps"])
    (line,) = [line for line in text.splitlines() if '"AZJN-0042"' in line and "attempt" in line]
    assert json.loads(line.strip().rstrip(","))["outcome"] == "failed"


def test_a_number_that_is_none_does_not_spoil_the_json(tmp_path: Path) -> None:
    record = fleets.record(1, temperature=float("nan"), steps={"flash": float("inf"), "x": 0.1})
    write_report(tmp_path, fleets.fleet([record]))
    written = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert written["records"][0]["temperature"] is None


def test_the_sheet_has_a_line_for_every_device_and_always_the_same_columns(tmp_path: Path) -> None:
    odd = fleets.record(3, shift="early", steps={"flash": 9.5, "label": 0.2}, error='a "b", c\nd')
    write_report(tmp_path, fleets.fleet([fleets.record(1), fleets.record(2), odd], sandbox=True))
    data = (tmp_path / "report.csv").read_bytes()
    assert data.count(b"\r\n") == data.count(b"\n") == 4
    first, _, third = csv.DictReader(data.decode().splitlines())
    assert tuple(first) == sheet.COLUMNS
    assert (first["serial"], first["sandbox"], first["ledger_row"]) == ("AZJN-0001", "yes", "1")
    assert first["seconds_flash"] == str(fleets.record(1)["steps"]["flash"])
    assert (third["error"], third["seconds_flash"]) == ('a "b", c\\nd', "9.5")
    assert json.loads(third["other"]) == {"shift": "early", "steps": {"label": 0.2}}


def test_a_cell_that_a_spreadsheet_would_calculate_is_text() -> None:
    for evil in ("=1+1", "+1", "-1", "@SUM(A1)", "  =1", "＝1", "x;=cmd|'/c calc'!A1", "\t=1"):
        (row,) = rows_of(fleets.fleet([fleets.record(1, error=evil, exit_code=-9)]))
        assert not re.search(r"(?:^|;)[ \t]*[=+\-@＝]", row["error"]), evil
        assert row["error"].replace("'", "", 1) in (visible(evil), evil)
        assert row["exit_code"] == "-9"


def test_no_device_at_all_is_a_report_too(tmp_path: Path) -> None:
    write_report(tmp_path, fleets.fleet([], seconds=0))
    assert "The list of devices was empty." in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "report.csv").read_bytes().splitlines()) == 1
    assert json.loads((tmp_path / "report.json").read_text())["records"] == []
    assert html_of({})
    assert summary_lines({})[-1].startswith("INCOMPLETE: 0 of 0")


# What must not happen


def test_what_devices_and_plug_ins_say_is_shown_never_obeyed(tmp_path: Path) -> None:
    record = fleets.record(1, "failed", error=HOSTILE, hint=HOSTILE, step=HOSTILE, serial=HOSTILE,
                           steps={HOSTILE: 1.0}, exit_code=HOSTILE)  # fmt: skip
    done = fleets.record(2, device=HOSTILE, ecid=HOSTILE, account=HOSTILE, outcome=HOSTILE)
    names = ("outcome", "host", "station", "operator", "version", "began")
    fleet = fleets.fleet([record, done]) | dict.fromkeys(names, HOSTILE)
    honest = Seen(html_of(fleets.fleet([fleets.record(1, "failed"), fleets.record(2)])))
    seen = Seen(write_report(tmp_path, fleet).read_text())
    assert set(seen.tags) <= set(honest.tags) | {"b", "small"}
    assert {"script", "img", "link", "iframe", "base", "form"}.isdisjoint(seen.tags)
    assert not [name for name in seen.named if name.startswith("on")]
    assert visible(HOSTILE) in seen.text
    assert seen.text.count("49") == honest.text.count("49")
    assert not any(map(re.compile("[\x00-\x09\x0b-\x1f\u202e]").search, seen.text.splitlines()))


def test_the_page_asks_for_nothing_and_forbids_it() -> None:
    html = html_of(fleets.a_days_work())
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html
    assert html.index("Content-Security-Policy") < html.index("<style")
    assert all(link.startswith(("#", "report.")) for link in Seen(html).links)
    assert not re.search(r"url\(|@import|<script|https?:", html.replace("https://admin.ex", ""))


def test_no_secret_reaches_a_file_or_the_terminal(tmp_path: Path) -> None:
    secret = Secret("5ec2e75ec2e75ec2e75ec2e75ec2e75e")
    value = secret.reveal()
    record = fleets.record(
        1, "failed", error=f"said {value}", hint=value.upper(), serial=value, label={"k": [value]}
    )
    fleet = fleets.fleet([record | {value: 1, "object": secret}], operator=value)
    html = write_report(tmp_path / "report", fleet)
    everything = "".join(path.read_text() for path in html.parent.iterdir())
    everything += "\n".join(summary_lines(fleet))
    assert value not in everything.lower()
    assert "said ***" in everything


def test_a_report_that_cannot_be_written_whole_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "report"
    html = write_report(folder, fleets.fleet([fleets.record(1)]))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / ".report.html.azaion-new").write_text("what a killed run left")

    def full(fleet: object) -> Any:
        yield "a page that"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "chunks", full)
    with pytest.raises(UsageError, match="No space left") as caught:
        write_report(folder, fleets.fleet([fleets.record(1)]))
    assert "make room" in caught.value.hint
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.undo()
    (folder / ".report.html.azaion-new").symlink_to("/etc/passwd")
    html.unlink()
    html.symlink_to(tmp_path / "elsewhere")
    write_report(folder, fleets.fleet([fleets.record(1)]))
    assert html.is_file()
    assert not html.is_symlink()
    assert sorted(os.listdir(folder)) == ["report.csv", "report.html", "report.json"]


def test_a_folder_that_is_there_keeps_its_mode_and_a_file_in_its_place_is_said(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o750)
    write_report(folder, fleets.fleet([]))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write the report into .*file"):
        write_report(tmp_path / "file", fleets.fleet([]))


def test_a_name_that_is_no_text_costs_no_report(tmp_path: Path) -> None:
    record = fleets.record(1, image="/srv/\udcff.img", device="\udcff")
    html = write_report(tmp_path, fleets.fleet([record]))
    assert r"\udcff" in html.read_text()
    assert r"\udcff" in (tmp_path / "report.csv").read_text()


@pytest.mark.parametrize(("devices", "groups"), one_of([(1_000, 2), (10_000, 20)]))
def test_ten_thousand_devices_fit_into_a_page(tmp_path: Path, devices: int, groups: int) -> None:
    work = fleets.a_days_work(devices)
    html = write_report(tmp_path, work)
    text = html.read_text()
    assert len(text) < 500 * devices
    assert (text.count("<tr class="), text.count('<details class="group')) == (devices, groups)
    assert len((tmp_path / "report.csv").read_bytes().splitlines()) == devices + 1
    assert len(summary_lines(work)) < 30


def test_ten_thousand_reasons_are_not_all_told() -> None:
    def word_for(number: int) -> str:
        return "".join(chr(ord("g") + int(digit)) for digit in str(number))

    records = [fleets.record(n, "failed", error=word_for(n)) for n in range(500)]
    fleet = fleets.fleet(records)
    assert html_of(fleet).count("<article") == 50
    assert "450 other causes" in html_of(fleet)
    assert len(summary_lines(fleet)) < 40


# What is calculated


def test_equal_failures_are_one_cause_whatever_is_theirs_alone() -> None:
    def failed(number: int, error: str, **other: Any) -> dict[str, Any]:
        return fleets.record(number, "failed", **({"step": "flash", "error": error} | other))

    def one(number: int) -> dict[str, Any]:
        own = fleets.record(number)
        return failed(
            number,
            f"{own['serial']} ({own['email']}): /srv/lane{number}/Linux_for_Tegra/system.img has"
            f" {number} blocks, sha256 {own['image_sha256']}, at 0x{number:x}, 10.0.0.{number}:80",
            hint=f"see /logs/{own['serial']}/{own['attempt']}/flash.log",
        )

    records = [
        fleets.record(1), one(2), one(3), one(40),
        failed(5, "POST /users answered HTTP 503"), failed(6, "POST /users answered HTTP 401"),
        failed(7, "POST /users answered HTTP 503"), failed(8, "cannot read /etc/a/token"),
        failed(9, "cannot read /etc/b/key"), failed(10, "x", step="a"), failed(11, "x", step="b"),
        failed(12, "x", step="b", hint="other"), fleets.record(13, "not started"),
        fleets.record(14, "done before"),
    ]  # fmt: skip
    causes = find_causes(records)
    grouped = [[serial[-2:] for _, serial in cause.devices] for cause in causes]
    assert grouped == [["02", "03", "40"], ["05", "07"], ["06"], ["08"], ["09"], ["10"], ["11"],
                       ["12"]]  # fmt: skip
    assert [cause.same for cause in causes[:3]] == [False, True, True]
    assert causes[0].error.startswith("AZJN-0002")


def test_the_yield_is_of_what_this_run_has_attempted() -> None:
    totals = Totals.of(fleets.a_days_work())
    assert (totals.attempted, totals.ready, totals.left) == (193, 188, 12)
    assert totals.yield_ == pytest.approx(185 / 193)
    assert totals.per_hour == pytest.approx(185 / 612.3 * 3600)
    nothing = Totals.of(fleets.fleet([fleets.record(1, "done before")], seconds=0))
    assert (nothing.yield_, nothing.per_hour) == (None, None)
    assert Totals.of({"records": fleets.a_days_work()["records"]}).failed == 7
    shares = (None, 0, 0.00001, 0.5, 0.99999, 1)
    assert [*map(percent, shares)] == ["–", "0 %", "< 0.1 %", "50.0 %", "99.9 %", "100 %"]


def test_a_step_is_timed_over_the_devices_of_this_run() -> None:
    records = [fleets.record(n, steps={"a": n / 1000, "b": 1.0}) for n in range(1, 102)]
    records += [fleets.record(200, "done before", steps={"a": 99.0}),
                fleets.record(201, "failed", steps={"c": True, "a": "x", "b": -1})]  # fmt: skip
    a, b = step_times(records)
    assert (a.step, a.count, a.low, a.high) == ("a", 101, 0.001, 0.101)
    assert [a.median, a.p95] == pytest.approx([0.051, 0.096])
    assert a.share + b.share == pytest.approx(1)
    axis = Axis.over([a, b])
    assert (axis.ticks[0], axis.ticks[-1]) == ((0.0, "1 ms"), (100.0, "1 s"))
    assert axis.place(0.01) == pytest.approx(33.33)
    assert Axis.over([]).ticks[0] == (0.0, "1 ms")


def test_seconds_are_said_as_people_say_them() -> None:
    said = {0.0: "0 s", 0.0004: "400 µs", 0.02149: "21.5 ms", 0.31: "310 ms", 0.99999: "1.00 s",
            12.34: "12.3 s", 59.99: "1 min", 61: "1 min 01 s", 3600: "1 h", 7261: "2 h 01 min",
            None: "–"}  # fmt: skip
    assert {seconds: spoken(seconds) for seconds in said} == said


@given(st.floats(min_value=0, max_value=1e9))
def test_every_time_can_be_said_and_has_its_place(seconds: float) -> None:
    times = step_times([fleets.record(1, steps={"a": seconds})])
    axis = Axis.over(times)
    assert axis.low < axis.high
    assert 0 <= axis.place(seconds) <= 100
    assert re.fullmatch(r"[\d.,]+ (µs|ms|s|min|h)( \d\d (s|min))?", spoken(seconds))


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_one_line_that_can_be_printed(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert len(visible(text, 10)) <= 10 or not text.isprintable()
    assert shown == text or not text.isprintable()


# What the terminal says


def test_the_last_lines_name_each_device_its_error_and_what_to_run_next() -> None:
    lines = summary_lines(fleets.a_days_work())
    assert lines[:2] == [
        "  done         185",
        "  done before  3, by an earlier run of the same command",
    ]
    at = lines.index("error: 5 devices at provision_identity: " + str(fleets.API_DOWN["error"]))
    assert lines[at + 1].split() == [f"AZJN-{n:04}" for n in range(41, 46)]
    assert lines[at + 2] == f"hint: {fleets.API_DOWN['hint']}"
    assert [line for line in lines if line.startswith("error: AZJN-0092 at flash: flash.sh -r")]
    assert "not started: AZJN-0197 AZJN-0198 AZJN-0199 AZJN-0200" in lines
    assert lines[-2].endswith(
        "run the same command again; it builds the 11 that are failed or not started"
    )
    assert lines[-1] == (
        "INCOMPLETE: 188 of 200 are done, 7 failed, 1 unknown, 4 not started (10 min 12 s)"
    )


def test_many_failures_are_grouped_and_a_good_end_is_short() -> None:
    lines = summary_lines(fleets.a_days_work(1000))
    assert "AZJN-0050 … and 5 more" not in lines[0]
    assert [line for line in lines if line.endswith(" AZJN-0050 … and 15 more")]
    assert len([line for line in lines if line.startswith("error: ")]) == 3
    good = summary_lines(fleets.fleet([fleets.record(1)], seconds=0.3, sandbox=True))
    assert good[-1] == "DONE in the SANDBOX: 1 of 1 is done (300 ms)"
    assert not [line for line in good if line.startswith(("error", "hint", "Next"))]


def test_a_terminal_gets_no_control_characters() -> None:
    record = fleets.record(1, "failed", error=HOSTILE, hint=HOSTILE, serial=HOSTILE, step=HOSTILE)
    for line in summary_lines(fleets.fleet([record], outcome=HOSTILE)):
        assert line.isprintable()


# What a browser makes of it


@thorough
@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")
def test_a_real_browser_shows_it_on_every_screen_and_on_paper(tmp_path: Path) -> None:
    def box(page: browser.Browser, selector: str) -> dict[str, float]:
        found: dict[str, float] = page.value(
            f"document.querySelector('{selector}').getBoundingClientRect().toJSON()"
        )
        return found

    records = fleets.a_days_work(1200)["records"]
    records[700] = fleets.record(701, "failed", error=HOSTILE, serial=HOSTILE)
    html = write_report(tmp_path / "report", fleets.fleet(records))
    broken = tmp_path / "broken.html"
    broken.write_text(html.read_text().replace("<footer>", "<script>1</script><footer>"))
    with browser.browser(tmp_path / "profile") as page:
        for width in (1280, 400):
            for scheme in ("light", "dark"):
                page.look(width, scheme=scheme)
                page.open(html)
                assert page.complaints() == []
                assert page.asked_for() == [html.resolve().as_uri()]
                assert page.value("document.documentElement.scrollWidth") <= width
                seen = box(page, "#yield")
                assert 0 < seen["top"] < seen["bottom"] < 900
                assert box(page, ".plot .box")["width"] > 1
                colour = page.value("getComputedStyle(document.body).backgroundColor")
                assert (int(re.findall(r"\d+", colour)[0]) < 99) == (scheme == "dark")
        text = page.value("document.querySelector('.totals').innerText")
        assert re.search(r"\d\d\.\d %\s+yield of ", text)
        assert page.value("document.title") == "Fleet incomplete: 1132 of 1200 done"
        rows = "[...document.querySelectorAll('.all tbody tr')].filter(r => r.checkVisibility())"
        assert page.value(f"{rows}.length") == 0  # in groups that are closed
        page.value("document.querySelector('#only').click()")
        assert page.value(f"{rows}.length") == 68
        assert page.paper().startswith(b"%PDF")
        page.open(broken)
        assert "Content Security Policy" in "".join(page.complaints())


def test_the_page_shows_devices_first_and_keeps_percentiles_behind_a_fold() -> None:
    page = html_of(fleets.a_days_work())
    assert page.index('id="all"') < page.index('id="times"')
    fold = page[page.index('<section class="times"') :]
    assert fold.index("<details>") < fold.index('id="times"') < fold.index("95 %")
    assert "<details open" not in page


@pytest.mark.parametrize(
    ("zone", "began", "row"),
    [
        ("Europe/Budapest", "2026-11-23 18:00:00 +01:00", "18:00:01"),
        ("Asia/Kolkata", "2026-11-23 22:30:00 +05:30", "22:30:01"),
        ("UTC", "2026-11-23 17:00:00 +00:00", "17:00:01"),
    ],
)
def test_the_page_s_times_are_local_and_say_their_offset(
    monkeypatch: pytest.MonkeyPatch, zone: str, began: str, row: str
) -> None:
    record = fleets.record(1, began="2026-11-23T17:00:01Z")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        seen = Seen(html_of(fleets.fleet([record]))).text
    time.tzset()
    assert began in seen
    assert f" {row} " in " ".join(seen.split())
    assert "UTC" not in seen


def test_the_page_says_what_an_image_s_digest_is_of() -> None:
    own = fleets.record(1)
    stamped = fleets.record(2, image_sha256=None)
    seen = " ".join(Seen(html_of(fleets.fleet([own, stamped]))).text.split())
    assert "image: format, digest" in seen
    assert f"ext4 {own['image_sha256'][:16]}" in seen
    assert f"ext4 of its base: {'ba' * 8}" in seen


def test_one_device_is_one_device() -> None:
    seen = " ".join(Seen(html_of(fleets.fleet([fleets.record(1)]))).text.split())
    assert "1 of 1 device done" in seen
    assert "1 devices" not in seen
    assert "1 of 1 is done" in summary_lines(fleets.fleet([fleets.record(1)]))[-1]


def test_done_is_green_on_the_page_in_light_and_in_dark() -> None:
    page = html_of(fleets.fleet([fleets.record(1)]))
    assert ".state.done { color: var(--passed); }" in page
    shades = re.findall(r"--passed: #(..)(..)(..);", page)
    assert len(shades) == 3  # light, dark, paper
    for red, green, blue in shades:
        assert int(green, 16) > 1.4 * max(int(red, 16), int(blue, 16))


@pytest.mark.parametrize("odd", ["soon", [], {}, float("nan"), float("inf"), True])
def test_a_time_that_is_no_number_costs_no_report(tmp_path: Path, odd: Any) -> None:
    records = [fleets.record(1, seconds=odd), fleets.record(2, steps=odd), fleets.record(3)]
    records += [fleets.record(4, steps={"flash": odd}), fleets.record(5, ledger=odd)]
    html = write_report(tmp_path, fleets.fleet(records))
    assert html.read_text().count("<tr class=") == 5
