"""Checking the ledger's hash chain: names rows that were edited, removed, inserted or moved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..model import Receipt
from .entry import FIRST_HASH, odd_hash, odd_number, odd_values

if TYPE_CHECKING:
    from .store import Ledger

ALTERED = "row {} is not what was written: it was edited, inserted or moved"
NOT_LAST = "row {} is not the last one that was written: that was {}"
_MOST = 20  # problems shown: a ledger may be wrong from its first row on


def check(ledger: Ledger, anchors: tuple[Receipt, ...] = ()) -> Iterator[str]:
    """Yield what is wrong with the chain, row by row.

    Whoever can write the database can create a new valid chain. So keep a row's number and hash
    elsewhere (each record has them), and pass them as an anchor.

    Args:
        ledger: the ledger to check.
        anchors: number and hash of known rows.

    Raises:
        LedgerError: it cannot be read.
    """
    yield from ledger.foreign()
    head = ledger.head()  # before the rows: others may continue to write
    last = at_head = Receipt(row=0, hash=FIRST_HASH)
    expected = {anchor.row: anchor.hash for anchor in anchors}
    told = 0
    for number, entry, found in ledger.stored():
        if odd := odd_number(number):
            yield f"a row was altered: {odd[0]} ({entry.serial}, {entry.step}, {entry.at})"
            return  # in which order the rows were written is not known
        odd = odd_values(entry) + odd_hash(found)
        wanted = found if odd else entry.hash_after(number, last.hash)
        altered = [f"row {number} was altered: {each}" for each in odd]
        for message in [*altered, *_differences(last, number, wanted, found)]:
            yield f"{message} ({entry.serial}, {entry.step} {entry.outcome}, {entry.at})"
            told += 1
        if expected.pop(number, found) != found:
            yield f"row {number} differs from its anchor: the ledger was rewritten"
        if told >= _MOST:
            yield "…"
            return
        last = Receipt(row=number, hash=str(found))
        if number <= head.row:
            at_head = last
    if head.row > last.row:
        yield f"{_rows(last.row + 1, head.row)} removed from its end"
    elif head != at_head or (last != head and ledger.head().row < last.row):
        yield NOT_LAST.format(last.row, head.row)
    for number in sorted(expected):
        yield f"row {number} of the anchor is missing"
    yield from ledger.damage()


def _differences(last: Receipt, number: int, wanted: str, found: str) -> Iterator[str]:
    if number != last.row + 1:
        yield f"{_rows(last.row + 1, number - 1)} removed before row {number}"
    elif wanted != found:
        yield ALTERED.format(number)


def _rows(first: int, last: int) -> str:
    return f"row {first} was" if first == last else f"rows {first} to {last} were"
