import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azaion_imagebuild.errors import UsageError
from azaion_imagebuild.identity.serial import email_for, new_password, parse_serial
from azaion_imagebuild.settings import PASSWORD_PATTERN


@pytest.mark.parametrize("text", ["AZJN-0042", " AZJN-0042\r\n", "a-b-c9", "X-" + "9" * 46])
def test_a_serial_is_taken_without_the_white_space_of_a_scanner(text: str) -> None:
    assert parse_serial(text) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "AZJN",
        "AZJN-",
        "-0042",
        "AZJN--0042",
        "AZJN-00 42",
        "../../x",
        "AZJN-0042; rm -rf /",
        "AZJN-0042\nX-1",
        "ÄZJN-0042",
        "AZJN-٤٢",
        "AZJN_0042",
        "X-" + "9" * 47,
        "AZJN-0042\x00",
    ],
)
def test_anything_else_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_serial(text)
    if text.strip():
        assert ascii(text.strip())[1:20] in caught.value.message
    assert caught.value.message.isascii() or "…" in caught.value.message
    assert caught.value.hint


def test_a_site_narrows_the_grammar_by_its_pattern() -> None:
    assert parse_serial("AZJN-0042", r"AZJN-\d{4}") == "AZJN-0042"
    with pytest.raises(UsageError, match="pattern"):
        parse_serial("AZJN-42", r"AZJN-\d{4}")


@given(st.text(max_size=60))
def test_no_text_gets_through_that_could_leave_a_path_or_an_address(text: str) -> None:
    try:
        serial = parse_serial(text)
    except UsageError:
        return
    assert re.fullmatch(r"[A-Za-z0-9-]+", serial)
    assert re.fullmatch(r"azaion-jetson-[a-z0-9]+@azaion\.com", email_for(serial))


def test_the_account_is_named_by_the_last_segment_lower_cased() -> None:
    assert email_for("AZJN-0042") == "azaion-jetson-0042@azaion.com"
    assert email_for("AZ-JN-00AB") == "azaion-jetson-00ab@azaion.com"


def test_a_password_is_32_hexadecimal_digits_and_new_each_time() -> None:
    first, second = new_password(), new_password()
    assert re.fullmatch(PASSWORD_PATTERN, first.reveal())
    assert first != second
