"""Lists of serials, as people and scanners write them."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest
from thorough import one_of

from azaion_imagebuild.errors import UsageError
from azaion_imagebuild.identity.serial_list import read_list


def serials(source: str, pattern: str | None = None) -> list[str]:
    return [each.serial for each in read_list(source, pattern)]


def listed(text: str) -> str:
    Path("list.txt").write_text(text)
    return "list.txt"


def test_one_serial_a_line_with_comments_and_the_scanner_s_white_space() -> None:
    text = "# shift A\nAZJN-0001\n\n  AZJN-0002\r\nAZJN-0003 # the scratched one\n"
    assert serials(listed(text)) == ["AZJN-0001", "AZJN-0002", "AZJN-0003"]


def test_a_range_keeps_its_width() -> None:
    assert serials("AZJN-0998..AZJN-1002") == [
        "AZJN-0998",
        "AZJN-0999",
        "AZJN-1000",
        "AZJN-1001",
        "AZJN-1002",
    ]
    assert serials(listed("AZJN-9..AZJN-11\nAZJN-7\n")) == [
        "AZJN-9",
        "AZJN-10",
        "AZJN-11",
        "AZJN-7",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "AZJN-0009..AZJN-0001",
        "AZJN-1..XYZ-9",
        "AZJN-1..AZJN-x",
        "AZJN-1..AZJN-99999999",
        "AZJN-1..9",
    ],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"range|holds more"):
        read_list(listed(text))


def test_a_csv_has_a_column_serial_and_may_pin_a_device_to_a_port() -> None:
    text = '\ufeffNote,Serial,usb_instance\n"a, b",AZJN-0001,1-3\n,,\nx,AZJN-0002,\n'
    found = read_list(listed(text))
    assert [(each.serial, each.usb_instance) for each in found] == [
        ("AZJN-0001", "1-3"),
        ("AZJN-0002", None),
    ]
    assert found[1].where == "list.txt, line 4"


@pytest.mark.parametrize("text", ["ser,note\nAZJN-0001,x\n", "serial;note\nAZJN-0001;x\n"])
def test_a_table_without_a_column_serial_is_told_what_a_csv_needs(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"list.txt, line 1: the column serial is missing"
    ) as refused:
        read_list(listed(text))
    assert refused.value.hint.startswith("a CSV needs commas, and a column named serial")


def test_a_first_line_that_is_no_serial_may_be_a_column_of_another_name() -> None:
    with pytest.raises(UsageError, match="'ser' is not a serial") as refused:
        read_list(listed("ser\nAZJN-0001\nx y\n"))
    first, second = (hint for _, hint in refused.value.problems)
    assert first.endswith("; a CSV needs commas, and a column named serial in its first line")
    assert "CSV" not in second


def test_a_list_that_one_may_not_look_for_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(UsageError, match="cannot read shut/list: permission denied"):
        read_list("shut/list")
    serials = ["AZJN-0001", "AZJN-0002"]  # no files, whatever folder this is
    assert [each.serial for each in read_list("AZJN-0001..AZJN-0002")] == serials


def test_every_bad_line_is_named_at_once() -> None:
    with pytest.raises(UsageError) as refused:
        read_list(listed("AZJN-0001\n../../x\nAZJN\nAZJN-0002; rm -rf /\n"))
    assert [message.partition(":")[0] for message, _ in refused.value.problems] == [
        "list.txt, line 2",
        "list.txt, line 3",
        "list.txt, line 4",
    ]


def test_a_serial_that_comes_again_is_done_once() -> None:
    assert serials(listed("AZJN-0001\nAZJN-0001\n")) == ["AZJN-0001"]


def test_a_list_comes_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"AZJN-0001\r\nAZJN-0002\n")))
    assert serials("-") == ["AZJN-0001", "AZJN-0002"]


def test_the_site_s_pattern_holds_for_every_line() -> None:
    with pytest.raises(UsageError, match="pattern"):
        read_list(listed("AZJN-0001\nXYZ-0002\n"), "AZJN-[0-9]{4}")


CONTROLS = [*map(chr, {*range(32)} - {9, 10, 13}), "\x7f", "\x85", "\u2028", "\u2029", "\xa0"]


@pytest.mark.parametrize("char", one_of(CONTROLS), ids=ascii)
@pytest.mark.parametrize("form", one_of(["{c}AZJN-0302", "AZJN-0302{c}", "AZJN-0301{c}AZJN-0302"]))
@pytest.mark.parametrize("head", one_of(["", "serial\n"]))
def test_a_control_character_in_a_label_is_an_error_that_names_the_line(
    char: str, form: str, head: str
) -> None:
    source = listed(f"{head}AZJN-0300\n{form.format(c=char)}\n")
    line = 3 if head else 2
    with pytest.raises(UsageError) as caught:
        read_list(source)
    assert f"line {line}: " in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("head", ["", "serial,lot\n"])
def test_a_line_ends_at_lf_crlf_or_cr(end: str, head: str) -> None:
    lot = ",7" if head else ""
    content = f"{head}AZJN-0001{lot}\nAZJN-0002{lot}\n".replace("\n", end)
    Path("list.txt").write_bytes(content.encode())
    assert serials("list.txt") == ["AZJN-0001", "AZJN-0002"]


def test_two_labels_in_one_line_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert serials(listed("AZJN-0201AZJN-0202\nAZJN-A-0203\nAZJN-AZ-0204\n"))
    (record,) = caplog.records
    assert "AZJN-0201AZJN-0202 looks like two labels" in record.getMessage()


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"", b"# nothing\n", b'serial\n"AZJN\n'])
def test_what_is_no_list_is_refused(content: bytes) -> None:
    Path("list.txt").write_bytes(content)
    with pytest.raises(UsageError):
        read_list("list.txt")
    with pytest.raises(UsageError, match="no such file"):
        read_list("gone/list.txt")
