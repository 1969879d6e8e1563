"""Lists of serials: a text file, a CSV with a column ``serial``, ranges, or a barcode scanner."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from ..errors import UsageError
from ..system.files import opened_plain
from .serial import email_for, parse_serial

STDIN = "-"
_LINE_END = re.compile(r"\r\n|\r|\n")
_RANGE = re.compile(r"(?P<first>[A-Za-z0-9-]*?(?P<start>[0-9]+))\s*\.\.\s*(?P<last>[A-Za-z0-9-]+)")
_MOST = 1_000_000  # a typo in a range must not fill the memory
_LONGEST_RANGE = 200  # characters: two serials and the dots between them
_MOST_PROBLEMS = 100  # an image given as a list has millions
_LONGEST_LINE = 4096  # bytes: a text without line ends is not a list
_LARGEST_FILE = 64 * 1024 * 1024
_CSV = "a CSV needs commas, and a column named serial in its first line"


class Listed(Struct, frozen=True, kw_only=True):
    """One device of a list."""

    serial: str
    where: str
    """Where it is, for messages: ``serials.txt, line 7``."""
    usb_instance: str | None = None
    """From the CSV's column of this name; it pins the device to a USB port, e.g. ``1-3``."""

    @property
    def email(self) -> str:
        """The account of the device."""
        return email_for(self.serial)


class Serials(Struct, frozen=True, kw_only=True):
    """The devices of some lists, in their order."""

    devices: tuple[Listed, ...]
    doubles: tuple[tuple[Listed, str], ...] = ()
    """Serials that come again, with where they stood first: they are done once."""


def read_list(source: str, pattern: str | None = None) -> list[Listed]:
    """Return the devices of one list: see :func:`read_lists`."""
    return list(read_lists([source], pattern).devices)


def read_lists(sources: Sequence[str], pattern: str | None = None) -> Serials:
    """Return the devices of lists, in their order; a serial that comes again is left out.

    Args:
        sources: files, ``-`` for stdin, ranges or serials: ``AZJN-0001..AZJN-1000``.
        pattern: the site's own, see :func:`.parse_serial`.

    Raises:
        UsageError: a line is not a serial (up to a hundred such lines are named), or a list
            cannot be read.
    """
    found: dict[str, Listed] = {}
    doubles: list[tuple[Listed, str]] = []
    problems: list[tuple[str, str]] = []
    for source in sources:
        before = len(found) + len(doubles)
        for each in _devices(source, pattern, problems):
            first = found.setdefault(each.serial, each)
            if first is not each:
                doubles.append((each, first.where))
            if len(found) > _MOST:
                raise UsageError(f"{source}: more than {_MOST} serials", hint="split the list")
        if not problems and len(found) + len(doubles) == before:
            raise UsageError(f"{source} lists no serials", hint="one serial a line, e.g. AZJN-0042")
    if problems:
        raise UsageError.of_problems(problems)
    return Serials(devices=tuple(found.values()), doubles=tuple(doubles))


def _devices(source: str, pattern: str | None, problems: list[tuple[str, str]]) -> Iterator[Listed]:
    """Yield the devices of one list; add what is wrong with it to ``problems``."""
    for where, text, usb_instance in _lines(source):
        try:
            for serial in expanded(text):
                yield Listed(
                    serial=parse_serial(serial, pattern), where=where, usb_instance=usb_instance
                )
        except UsageError as error:
            is_first = where.endswith(", line 1")
            hint = f"{error.hint}; {_CSV}" if is_first else error.hint
            place = "" if where == text else f"{where}: "  # a word of the command line
            problems.append((f"{place}{error.message}", hint))
        if len(problems) >= _MOST_PROBLEMS:
            problems.append((f"{source}: there may be more", "fix these first"))
            return


def expanded(text: str) -> Iterator[str]:
    """Yield the serials of ``A-0001..A-1000`` (with leading zeros), or ``text`` itself.

    Raises:
        UsageError: it is not a valid range.
    """
    match = _RANGE.fullmatch(text.strip()) if len(text) <= _LONGEST_RANGE else None
    if match is None:
        yield text
        return
    first, digits = match["first"], match["start"]
    prefix, last = first[: -len(digits)], match["last"]
    end = last.removeprefix(prefix)
    if not (last.startswith(prefix) and end.isdigit() and int(end) >= int(digits)):
        raise UsageError(
            f"{text.strip()!a} is not a valid range",
            hint="list serials in ascending order, e.g. AZJN-0001..AZJN-1000",
        )
    if int(end) - int(digits) >= _MOST:
        raise UsageError(f"{text.strip()!a} holds more than {_MOST} serials", hint="split it")
    for number in range(int(digits), int(end) + 1):
        yield f"{prefix}{number:0{len(digits)}d}"


def scanned(arriving: Iterator[str] | None = None) -> Iterator[tuple[str, str | None]]:
    """Yield (text, USB instance) as lines come; None: from stdin.

    As in a list, ``#`` starts a comment; a first line with the column ``serial`` makes it a CSV.

    Raises:
        UsageError: stdin is closed.
    """
    with contextlib.suppress(OSError):  # the terminal is gone
        lines = (line for line in arriving or _arriving(_stdin()) if line.strip())
        first = next(lines, "").removeprefix("\ufeff")
        header = _header(first)
        if "serial" in header:
            for line in lines:
                row = dict(zip(header, _cells(line), strict=False))
                yield row.get("serial", ""), row.get("usb_instance", "").strip() or None
            return
        for line in itertools.chain([first], lines):
            if text := line.partition("#")[0].strip():
                yield text, None


def _arriving(stream: BinaryIO) -> Iterator[str]:
    """Yield each line, without its end, as soon as it arrives."""
    rest = b""
    while chunk := stream.read1(4096):  # type: ignore[attr-defined]  # of every buffered stream
        *lines, rest = re.split(rb"\r\n|\r|\n", rest + chunk)
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        yield from (line.decode("utf-8", "replace") for line in lines)
    yield rest.decode("utf-8", "replace")


def _stdin() -> BinaryIO:
    """Return stdin as bytes: an undecodable line must not stop the next one.

    Raises:
        UsageError: it is closed.
    """
    if sys.stdin is None:
        raise UsageError("stdin is closed", hint="pipe a list of serials into it, or name a file")
    return sys.stdin.buffer


def _lines(source: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield (where, text, USB instance) of each line that is not empty."""
    if not source:
        raise UsageError(
            "no list of serials given",
            hint="name a file, a range such as AZJN-0001..AZJN-0100, or - (SERIALS=list.txt)",
        )
    if source == STDIN:
        yield from _texts("stdin", _content("stdin", _stdin()))
    elif _is_there(source):
        yield from _texts(source, _content_of(Path(source)))
    elif "/" not in source and "." not in source.replace("..", ""):
        yield source, source, None  # even where this folder may not be looked into
    elif _is_shut(source):
        raise UsageError(
            f"cannot read {source}: permission denied",
            hint="name a list of serials that this user may read",
        )
    else:
        raise UsageError(f"no such file: {source}", hint="name a list of serials, or -")


def _is_there(source: str) -> bool:
    try:
        return Path(source).exists()
    except OSError:  # a range may be longer than a file name can be
        return False


def _is_shut(source: str) -> bool:
    """Tell whether permission to look for the file is denied."""
    try:
        os.stat(source)  # noqa: PTH116 - pathlib tells it apart in some Pythons only
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _content_of(path: Path) -> str:
    try:
        with opened_plain(path, _LARGEST_FILE) as stream:
            return _content(str(path), stream)
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="name a list of serials"
        ) from None


def _content(source: str, stream: BinaryIO) -> str:
    content = stream.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise UsageError(f"{source} is longer than 64 MiB", hint="name a list of serials")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{source} is not text", hint="save the list as UTF-8") from None


def _texts(source: str, content: str) -> Iterator[tuple[str, str, str | None]]:
    lines = _LINE_END.split(content)  # splitlines() also splits at a label's control characters
    header = _header(lines[0]) if lines else []
    if "serial" in header:
        yield from _rows(source, header, io.StringIO(content, newline=""))
        return
    if lines and re.search("[,;\t]", lines[0].partition("#")[0]):
        raise UsageError(f"{source}, line 1: the column serial is missing", hint=_CSV)
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0]
        if text.strip():
            yield f"{source}, line {number}", text, None


def _header(line: str) -> list[str]:
    return [name.strip().lower() for name in _cells(line)]


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []  # not valid CSV


def _rows(
    source: str, header: list[str], stream: Iterable[str]
) -> Iterator[tuple[str, str, str | None]]:
    table = csv.reader(stream, strict=True)
    try:
        for row in table:
            values = dict(zip(header, row, strict=False))
            if table.line_num > 1 and any(value.strip() for value in row):
                usb_instance = values.get("usb_instance", "").strip() or None
                yield f"{source}, line {table.line_num}", values.get("serial", ""), usb_instance
    except csv.Error as error:
        raise UsageError(
            f"{source}, line {table.line_num}: {error}", hint="save the list as CSV again"
        ) from None
