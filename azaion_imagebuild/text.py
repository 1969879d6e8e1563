"""Text from outside (a script, a plug-in, a scanner), made safe to look at."""

from __future__ import annotations

from typing import Any


def visible(text: str, limit: int | None = None) -> str:
    """Return ``text`` on one line: what cannot be printed is shown as its escape, e.g. ``\\x1b``.

    That is every control character, every mark that turns or hides text (U+202E, U+200B, …) and
    what is no character at all. Longer text than ``limit`` is cut, which an ellipsis shows.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def word(value: Any) -> str:
    """Return any JSON value as text for a reader: ``yes`` and ``no``, and nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
