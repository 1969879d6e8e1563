"""Text: what a spreadsheet must not run, and times in UTC."""

from __future__ import annotations

import csv
import io
import unicodedata
from typing import Any

import pytest
from thorough import one_of

from azaion_imagebuild.ledger import Entry, Ledger
from azaion_imagebuild.ledger.history import export
from azaion_imagebuild.report import spreadsheet
from azaion_imagebuild.text import spoken_time, spreadsheet_cell, to_the_second, utc

SIGNS = [
    char
    for char in map(chr, range(0x10000))  # no wide or small form is beyond
    if char in "=+-@"
    or (
        unicodedata.decomposition(char).startswith(("<wide>", "<small>"))
        and unicodedata.normalize("NFKC", char) in "=+-@"
    )
]
"""Every character that begins a formula, in every width that an input method types."""

PLACES = (
    "{0}1",
    " {0}1",
    "a;{0}1",
    "a; {0}1",
    '"{0}1',
    'a;"{0}1',
    "{0}1;{0}1",
    "\t{0}1",
    "\r{0}1",
    "\n;{0}1",
)


def test_the_signs_are_in_three_widths() -> None:
    assert len(SIGNS) == 12


@pytest.mark.parametrize("sign", one_of(SIGNS))
@pytest.mark.parametrize("place", one_of(PLACES))
def test_no_cell_begins_a_formula(sign: str, place: str) -> None:
    shown = spreadsheet_cell(place.format(sign))
    assert shown.isprintable()
    for cell in shown.split(";"):
        assert cell.strip(' "')[0] in "'a\\"
    assert shown.replace("'", "").strip(' "') != ""


@pytest.mark.parametrize("text", ["a-b", "AZJN-0042", "1;2", "x = y", "", "mail@host"])
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert spreadsheet_cell(text) == text


@pytest.mark.parametrize("sign", one_of(SIGNS))
@pytest.mark.parametrize("place", one_of(PLACES))
def test_the_ledger_and_the_report_escape_alike(sign: str, place: str) -> None:
    evil = place.format(sign)
    row: dict[str, Any] = {
        "attempt": "a", "serial": "S-1", "email": "e", "step": "flash", "outcome": "failed",
        "sandbox": False, "at": utc(0, "microseconds"), "error": evil,
    }  # fmt: skip
    with Ledger("sqlite://") as ledger:
        ledger.write(Entry(**row))
        table = io.StringIO()
        export(ledger, table, "csv")
    (exported,) = csv.DictReader(io.StringIO(table.getvalue()))
    (reported,) = csv.DictReader(spreadsheet.lines({"records": [row]}))
    assert exported["error"] == reported["error"] == spreadsheet_cell(evil)


def test_a_time_is_written_in_utc_to_the_digits_asked_for() -> None:
    assert utc(0) == "1970-01-01T00:00:00Z"
    assert utc(1.9999, "milliseconds") == "1970-01-01T00:00:01.999Z"
    assert utc(1.5, "microseconds") == "1970-01-01T00:00:01.500000Z"
    assert utc(-62135596800, "microseconds") == "0001-01-01T00:00:00.000000Z"


def test_a_time_is_shown_to_the_second() -> None:
    at = utc(1.5, "microseconds")
    assert to_the_second(at) == "1970-01-01T00:00:01Z"
    assert spoken_time(at) == "1970-01-01 00:00:01 UTC"
