"""The ledger: which identity went into which device, when, from which image. Never the password.

Its rows are append-only, and each row's hash includes the previous one (:mod:`.entry`). It is in
SQLite, or in PostgreSQL if several stations share it.
"""

from __future__ import annotations

from .entry import Entry
from .process_id import this_process
from .standing import Credential, Standing
from .store import Fence, Ledger, Pen, ledger_of

__all__ = [
    "Credential",
    "Entry",
    "Fence",
    "Ledger",
    "Pen",
    "Standing",
    "ledger_of",
    "this_process",
]
