"""Values that nobody may see, and the redaction of text that may hold them."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from functools import lru_cache
from typing import Any, NoReturn
from weakref import WeakSet

HIDDEN = "***"
WITHHELD = "(not shown: it repeats a part of a secret)"
_SHORTEST_REDACTED = 6  # a shorter value would blank out other text
_PIECE = 8
_SIZES = range(_SHORTEST_REDACTED, _PIECE + 1)
_ESCAPES = "\\%&"  # every escaped form has one of them
_ENTITIES = {'"': ("&quot;",), "&": ("&amp;",), "'": ("&apos;",), "<": ("&lt;",), ">": ("&gt;",)}
_FINGERPRINT = b"azaion-imagebuild credential\0"
_alive: WeakSet[Secret] = WeakSet()
_counting = threading.Lock()  # a set must not grow while another thread iterates over it


class Secret:
    """A password or token that repr, str, format, asdict() and pickle do not reveal.

    Call ``reveal()`` only on the line that sends or stages the value.
    """

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        with _counting:
            _alive.add(self)

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that identify a credential.

        It is a truncated SHA-256, which reveals nothing of a password of 128 random bits.
        """
        return hashlib.sha256(_FINGERPRINT + self._value.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return id(self)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: it would be written in the clear")


def redact(text: str) -> str:
    """Return ``text`` with the value of every living :class:`Secret` blanked out.

    In upper or lower case, and with any of its characters as JSON, a URL or HTML would escape it.
    """
    return _without(_living_values(), text)


def shown(text: str) -> str:
    """Return what may be shown of a text from somebody who knows a secret.

    The text is redacted, and withheld as a whole if part of a secret is left: one that was cut,
    reversed, broken into lines or groups, or written as numbers of its bytes, base64 or base32.
    """
    from html import unescape  # imported late: only errors need them
    from unicodedata import normalize
    from urllib.parse import unquote

    text = redact(text)
    forms = [text, unquote(text), unescape(text), _unicode(text), _unpacked(text)]
    forms.append(_BREAK.sub(" ", text))
    plain = {_letters(normalize("NFKC", form)) for form in forms}
    parts = {each[at : at + size] for each in plain for size in _SIZES for at in range(len(each))}
    return text if all(map(parts.isdisjoint, map(_pieces, _living_values()))) else WITHHELD


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()


def _unicode(text: str) -> str:
    """Return the text with ``\\u0061``, ``\\x61``, ``\\u{61}``, ``0x61``, ``U+0061`` decoded."""
    return _CODE.sub(lambda match: chr(int(match[1], 16)), text)


_BREAK = re.compile(r"\\+[nrtbf]|<[^<>]{0,20}>")
"""Separators between two groups of letters in JSON or HTML that have letters themselves."""

_CODE = re.compile(r"(?:\\+[uxUX]|0[xX]|[uU]\+|%u)\{?([0-9a-fA-F]{2,4})\}?")


def _unpacked(text: str) -> str:
    """Return what words of the text hold that look like base64: it may be base64 again."""
    from base64 import urlsafe_b64decode

    words = re.findall(r"[A-Za-z0-9+/_-]{12,}", text)
    plain = [each.replace("+", "-").replace("/", "_")[: len(each) // 4 * 4] for each in words]
    return " ".join(urlsafe_b64decode(each).decode("latin-1") for each in plain)


@lru_cache(maxsize=64)  # each takes some 50 kB
def _pieces(value: str) -> frozenset[str]:
    """Return every part of the value that is too long for a coincidence, in each of its forms."""
    from base64 import b32encode, b64encode

    data = value.encode()
    forms = [value, data.hex(), "".join(map(str, data)), "".join(f"{each:o}" for each in data)]
    forms += [b64encode(data[start:]).decode() for start in range(3)]
    forms += [b32encode(data[start:]).decode() for start in range(5)]
    found = set()
    for form in map(_letters, forms):
        for text in (form, form[::-1]):
            last = max(0, len(text) - _PIECE)
            found |= {text[at : at + _PIECE] for at in range(last + 1)}
    return frozenset(piece for piece in found if len(piece) >= _SHORTEST_REDACTED)


def _living_values() -> list[str]:
    with _counting:
        living = list(_alive)
    return [value for each in living if len(value := each.reveal()) >= _SHORTEST_REDACTED]


def _without(values: list[str], text: str) -> str:
    if not values:
        return text
    escaped = any(mark in text for mark in _ESCAPES)
    lower = text.lower()
    for value in values:
        # A pattern takes milliseconds to compile: only for a text that may hold the value.
        if escaped or value.lower() in lower:
            text = _forms_of(value).sub(HIDDEN, text)
    return text


@lru_cache(maxsize=1024)  # with more of them, each would be compiled again for every text
def _forms_of(value: str) -> re.Pattern[str]:
    return re.compile("".join(map(_forms_of_char, value)), re.IGNORECASE)


def _forms_of_char(char: str) -> str:
    code = ord(char)
    forms = [rf"\\{{0,3}}{re.escape(char)}", f"%(?:25)*{code:02x}", rf"\\u{code:04x}"]
    forms += [f"&#0*{code};", f"&#x0*{code:x};", *_ENTITIES.get(char, ())]
    return f"(?:{'|'.join(forms)})"


def redacted(value: Any) -> Any:
    """Return a JSON value with every text in it redacted."""
    values = _living_values()  # once: a fleet's record has 400,000 strings

    def within(value: Any) -> Any:
        if isinstance(value, str):
            return _without(values, value)
        if isinstance(value, dict):
            return {within(key): within(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [within(each) for each in value]
        return value

    return within(value)
