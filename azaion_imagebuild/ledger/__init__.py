"""The ledger: which identity went into which device, when, from which image. Never the password.

Append-only rows, each hashed together with the one before (:mod:`.entry`); in SQLite, or in
PostgreSQL where several stations share it.
"""

from __future__ import annotations

from .entry import Entry, this_process
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
