"""The id of an account in an admin API's answer, which is checked before it is used."""

from __future__ import annotations

import re
from typing import Any

_ID = re.compile(r"[\w.~@:+=-]{1,128}", re.ASCII)


class NoId(Exception):
    """The answer has no usable id of this device's account; the message says why."""


def find_id(answer: Any, path: str, email: str, email_field: str) -> tuple[str, bool]:
    """Return (id, whether the answer shows that it belongs to the account ``email``).

    A list on the path is searched for the entry with this e-mail address.

    Args:
        answer: JSON; None: it could not be read.
        path: names of the fields to the id, joined by dots.
        email: address of the account, in lower case.
        email_field: the same for the e-mail address, from each object on the path.

    Raises:
        NoId: it is missing, or shown to be another account's.
    """
    if answer is None:
        raise NoId("its answer is not JSON of up to 64 KiB")
    shown = False
    for name in path.split("."):
        if isinstance(answer, list):
            answer = _entry_of(answer, email, email_field)
        if not isinstance(answer, dict) or name not in answer:
            raise NoId(f"its answer has no field {path}")
        found = _email_in(answer, email_field)
        if found not in (None, email):
            raise NoId("its answer is of another e-mail address")
        shown = shown or found == email
        answer = answer[name]
    return _checked(answer, path), shown


def _entry_of(answers: list[Any], email: str, email_field: str) -> Any:
    entries = [each for each in answers if _email_in(each, email_field) == email]
    if len(entries) != 1:
        raise NoId(f"its answer has {len(entries) or 'no'} entries with {email_field} = {email}")
    return entries[0]


def _email_in(answer: Any, email_field: str) -> str | None:
    for name in email_field.split("."):
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer.lower() if isinstance(answer, str) else None


def _checked(value: Any, path: str) -> str:
    """Return a valid id as text: dots alone would lead upwards in a URL, and a bool is an int."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not _ID.fullmatch(text) or not text.strip("."):
        raise NoId(
            f"the field {path} of its answer is not a valid id: 1 to 128 letters, digits, -_.~@:+="
        )
    return text
