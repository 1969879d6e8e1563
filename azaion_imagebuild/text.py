"""How values are written: on one terminal line, in a spreadsheet's cell, as a time in UTC."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

# A spreadsheet evaluates a cell that begins with one of these, or with a wide or small form.
# If it splits lines at semicolons, text after one (and a quote) begins a cell as well.
_FORMULA = re.compile(r'(^|;)(?=[ "]*[=+\-@＝＋－＠﹦﹢﹣﹫])')


def visible(text: str, limit: int | None = None) -> str:
    """Return ``text`` on one line, with ``\\x1b`` and the like for what cannot be printed.

    Escaped are control characters, characters that hide or reorder text (U+202E, U+200B, …), and
    lone surrogates. Text longer than ``limit`` is cut and ends in an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 device``, ``1,000 devices``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def word(value: Any) -> str:
    """Return any JSON value as text for a reader: ``yes``, ``no``, and nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def spreadsheet_cell(text: str) -> str:
    """Return ``text`` so that no spreadsheet runs it as a formula: on one line, ``'`` before it."""
    return _FORMULA.sub(r"\1'", visible(text))


def utc(seconds: float, timespec: str = "seconds") -> str:
    """Return a time as ISO 8601 in UTC: ``2026-11-28T02:43:05Z``. Such texts sort as times do.

    Args:
        seconds: since the epoch.
        timespec: ``seconds``, ``milliseconds`` or ``microseconds``, always that many digits.
    """
    when = datetime.fromtimestamp(seconds, timezone.utc)
    return when.isoformat(timespec=timespec).replace("+00:00", "Z")


def to_the_second(at: str) -> str:
    """Return a text of :func:`utc` without its fraction of a second."""
    return f"{at[:19]}Z"


def local_time(at: str) -> str:
    """Return a text of :func:`utc` as a local time with its offset: ``2026-11-28 03:43:05 +01:00``.

    Raises:
        ValueError: it is something else.
    """
    if not at.endswith("Z"):
        raise ValueError(f"{at!a} is not in UTC")
    when = datetime.strptime(at[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).astimezone()
    offset = when.isoformat()[-6:]
    return f"{when:%Y-%m-%d %H:%M:%S} {offset}"


def spoken_time(at: str) -> str:
    """Return a text of :func:`utc` for a reader: ``2026-11-28 02:43:05 UTC``."""
    return f"{at[:10]} {at[11:19]} UTC"
