"""The chip's own number (ECID), from what NVIDIA's scripts print.

In recovery mode USB shows the serial number 0, so only the boot ROM's answer tells devices apart:
tegraflash prints it as ``BR_CID: 0x`` and up to 128 bits, whose upper 28 are fuse level and chip.
NVIDIA's own tools keep the lower 100 bits (l4t-facts). It can be read once per boot, so it may be
in the build's output instead of the flash's.
"""

from __future__ import annotations

import re
from pathlib import Path

_ANSWER = re.compile(r"\bBR_CID: 0x([0-9A-Fa-f]{25,32})\b")
_BITS = 100
_DIGITS = _BITS // 4


def read_chip_id(log: Path) -> str | None:
    """Return the last chip id in the log of an attempt's scripts, e.g. ``0x4705DF1172C…``.

    None: no script printed one, or the log cannot be read.
    """
    found = None
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if (match := _ANSWER.search(line)) is not None:
                    found = chip_id(int(match[1], 16)) or found
    except OSError:
        return None
    return found


def chip_id(answer: int) -> str | None:
    """Return the chip's own part of the boot ROM's answer; None: it is empty."""
    number = answer & ((1 << _BITS) - 1)
    return f"0x{number:0{_DIGITS}X}" if number else None
