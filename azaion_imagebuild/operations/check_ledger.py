"""Checking the ledger: it exists, it was not emptied, and its hash chain is intact."""

from __future__ import annotations

import re
from pathlib import Path

from ..config.state_dir import state_dir_of
from ..ledger import Ledger, ledger_of
from ..ledger.chain import check
from ..model import Receipt
from ..pipeline.attempt_log import FILE
from ..settings import Settings

_FLASH = re.compile(rb"(?<![a-z_])flash begins")  # written after the row of that intent
_MOST = 2**20  # bytes of a log that are searched; a flash begins long before


def check_ledger(settings: Settings, anchors: tuple[Receipt, ...]) -> tuple[list[str], Receipt]:
    """Return what is wrong with the ledger, and its head.

    Raises:
        LedgerError: it does not exist, or it cannot be read.
    """
    state_dir = state_dir_of(settings)
    with ledger_of(settings.ledger, state_dir, create=False) as ledger:
        problems = [*check(ledger, anchors), *_emptied(ledger, state_dir / "logs")]
        return problems, ledger.head()


def _emptied(ledger: Ledger, logs: Path) -> list[str]:
    if ledger.head().row or next(ledger.rows(), None):
        return []
    flashed = [path.parent for path in sorted(logs.glob(f"*/*/{FILE}")) if _tells_of_a_flash(path)]
    if not flashed:
        return []
    last = max(flashed, key=lambda folder: folder.name)
    return [
        f"the ledger is empty, but {len(flashed)} attempts that flashed have logs in {logs}"
        f" (the last: {last.parent.name}, attempt {last.name}): its rows were removed, or another"
        " ledger was used"
    ]


def _tells_of_a_flash(log: Path) -> bool:
    try:
        with log.open("rb") as stream:
            return _FLASH.search(stream.read(_MOST)) is not None
    except OSError:  # removed meanwhile, or not readable
        return False
