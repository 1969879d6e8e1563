"""The kinds of settings: converting the text of a flag, a variable or a file to a value."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..errors import UsageError
from ..settings import LARGEST_DEVICE_CONF, PLACEHOLDER_SIZE

_RECIPIENT = re.compile(r"age1[0-9a-z]+|ssh-(?:ed25519|rsa) [A-Za-z0-9+/]+={0,2}(?: .*)?")
_LONGEST_WORDS = 1000
T = TypeVar("T")


class Key(NamedTuple):
    """One setting's place: ``section.name``, its kind, default, help and variable."""

    section: str
    name: str
    kind: str
    default: Any
    help: str
    env: str
    choices: tuple[str, ...]

    def __str__(self) -> str:
        return f"[{self.section}] {self.name}"


def convert(key: Key, value: Any, source: str, base: Path) -> Any:
    """Return ``value`` as the kind of ``key``; relative paths start at ``base``."""
    if value == "" and key.kind in _NEVER_EMPTY:
        raise UsageError(
            f"{source} is set, but empty", hint=f"give one, or leave it out; {key}: {key.help}"
        )
    if key.kind == "choice" and value not in key.choices:
        raise UsageError(
            f"{source}: {value!r} is not one of {', '.join(key.choices)}", hint=f"{key}: {key.help}"
        )
    try:
        return _KINDS[key.kind](value, base)
    except (TypeError, ValueError) as error:
        if key.kind == "recipients" and _is_private(value):
            raise UsageError(
                f"{source}: a private key stands there",
                hint="remove it from this host, and treat it as seen: make another one elsewhere,"
                " and give its public key here",
            ) from None
        # Anything unknown may be a private key; a URL may hold a password.
        shown = "what stands there" if key.kind in ("recipients", "endpoint") else repr(value)
        raise UsageError(
            f"{source}: {shown} is not {_WORDS[key.kind]}" + (f" ({error})" if str(error) else ""),
            hint=f"{key}: {key.help}",
        ) from None


def _text(value: Any, base: Path) -> str:
    if not _text_or_empty(value, base):
        raise ValueError
    return str(value)


def _text_or_empty(value: Any, base: Path) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _words(value: Any, base: Path) -> str:
    """Return words to look for in a line of a script's output, where they can be found."""
    text = _text(value, base)
    if not text.isprintable() or text != text.strip() or len(text) > _LONGEST_WORDS:
        raise ValueError
    return text


def _size(value: Any, base: Path) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[1-9][0-9]*([KMG]iB)?", value, re.ASCII):
        raise ValueError
    return value


def _pattern(value: Any, base: Path) -> str:
    try:
        return re.compile(_text(value, base)).pattern
    except re.error as error:
        raise ValueError(str(error)) from None


def _path(value: Any, base: Path) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError
    try:
        expanded = Path(value).expanduser()
    except RuntimeError as error:  # no home directory
        raise ValueError(str(error)) from None
    return Path.cwd() / base / expanded


def _number(value: Any, base: Path) -> float:
    if isinstance(value, bool):
        raise ValueError
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def _duration(value: Any, base: Path) -> float:
    number = _number(value, base)
    if number == 0:
        raise ValueError
    return number


def _whole(value: Any, base: Path) -> int:
    if isinstance(value, bool | float):
        raise ValueError
    number = int(value)
    if number < 0:
        raise ValueError
    return number


def _room(value: Any, base: Path) -> int:
    number = _whole(value, base)
    if not PLACEHOLDER_SIZE <= number <= LARGEST_DEVICE_CONF:
        raise ValueError
    return number


def _yesno(value: Any, base: Path) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "yes": True, "true": True, "on": True}
    words |= {"0": False, "no": False, "false": False, "off": False}
    if not isinstance(value, str) or value.lower() not in words:
        raise ValueError
    return words[value.lower()]


def _list(item: Callable[[Any, Path], T]) -> Callable[[Any, Path], list[T]]:
    def convert(value: Any, base: Path) -> list[T]:
        if isinstance(value, str):
            import shlex

            value = shlex.split(value)
        if not isinstance(value, list):
            raise ValueError
        return [item(one, base) for one in value]

    return convert


def _recipient(value: Any, base: Path) -> str:
    if not isinstance(value, str) or not _RECIPIENT.fullmatch(value) or not value.isprintable():
        raise ValueError
    return value


def _is_private(value: Any) -> bool:
    text = repr(value).upper()
    return "AGE-SECRET-KEY-" in text or "PRIVATE KEY" in text


def _endpoint(value: Any, base: Path) -> str:
    """Return the base URL without the path of traces, which collectors' manuals show."""
    from ..system.url import checked_url  # imported late: few sites have a collector

    try:
        url = checked_url(_text(value, base), "it")
    except UsageError as error:
        raise ValueError(error.message) from None
    return url.removesuffix("/").removesuffix("/v1/traces")


def _status(value: Any, base: Path) -> int:
    number = _whole(value, base)
    if not 200 <= number <= 599 or number // 100 == 3:  # a redirect is never followed
        raise ValueError
    return number


def _table(value: Any, base: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError
    return {name: _text_or_empty(one, base) for name, one in value.items()}


_KINDS: dict[str, Callable[[Any, Path], Any]] = {
    "text": _text,
    "text or empty": _text_or_empty,
    "words": _words,
    "size": _size,
    "choice": _text,
    "pattern": _pattern,
    "path": _path,
    "number": _number,
    "duration": _duration,
    "whole": _whole,
    "room": _room,
    "yesno": _yesno,
    "asked": _yesno,
    "list": _list(_text),
    "paths": _list(_path),
    "statuses": _list(_status),
    "recipients": _list(_recipient),
    "endpoint": _endpoint,
    "table": _table,
}
_NEVER_EMPTY = frozenset(_KINDS) - {"text or empty", "list", "paths", "statuses", "recipients"}
"""Kinds for which an empty text means unset; a list is then empty."""
_WORDS = {
    "text": "a text",
    "text or empty": "a text",
    "words": "words of one line, without blanks around them",
    "size": "a size like 14GiB",
    "choice": "a text",
    "pattern": "a regular expression",
    "path": "a path",
    "number": "a number of seconds",
    "duration": "a number of seconds above 0",
    "whole": "a whole number",
    "room": f"a whole number of bytes from {PLACEHOLDER_SIZE} to {LARGEST_DEVICE_CONF}",
    "yesno": "yes or no (1, 0, true, false)",
    "asked": "yes or no (1, 0, true, false)",
    "list": "a list of texts",
    "paths": "a list of paths",
    "statuses": "a list of HTTP statuses (2xx, 4xx, 5xx)",
    "recipients": "a list of public keys, as age-keygen -y or an SSH .pub file shows them (no"
    " private key belongs on this host)",
    "endpoint": "a URL like http://collector.internal.example.com:4318",
    "table": "a table of texts",
}
