"""The page's HTML: whole, or part by part as it changes."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

from ..fleet.events import spoken_lane
from ..report.totals import percent
from ..shipped import shipped
from ..text import visible, word
from .state import STEPS, WORDS, State, seconds_of

if TYPE_CHECKING:
    import jinja2

_LONGEST = 500  # characters of one value
_MOST_UNKNOWN = 2  # that are shown beside the tally; the ledger lists them all
VERDICTS = {"passed": WORDS["done"], "failed": WORDS["failed"], "unknown": WORDS["unknown"]}


def whole(state: State, token: str) -> str:
    """Return the page; ``token`` is the session's CSRF token."""
    return _environment().get_template("page.html").render(state=state, token=token)


def part(state: State, name: str) -> str:
    """Return one part: a name of :data:`.state.PARTS`, or a tile's id."""
    module: Any = _environment().get_template("parts.html").module
    for tile in state.tiles.values():
        if tile.id == name:
            return str(module.tile(tile))
    return str(getattr(module, name)(state)) if not name.startswith("tile-") else ""


def static(name: str) -> bytes:
    """Return the page's script or its style sheet."""
    return (shipped("templates") / "page" / name).read_bytes()


@cache
def _environment() -> jinja2.Environment:
    import jinja2  # imported late: other commands do not need it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(shipped("templates") / "page"),
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.ChainableUndefined,  # events come from another process
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "percent": percent, "digits": "{:,}".format, "clock": _clock, "day": _day,
        "lane": spoken_lane, "verdict": VERDICTS.get, "elapsed": elapsed,
    }  # fmt: skip
    environment.globals |= {"steps": len(STEPS), "most_unknown": _MOST_UNKNOWN}
    return environment


def _finalized(value: Any) -> Any:
    """Show every value as text without control characters; markup stays as it is."""
    return value if hasattr(value, "__html__") else visible(word(value), _LONGEST)


def elapsed(seconds: float) -> str:
    """Return seconds as a clock shows them: ``0:07``, ``1:02:03``; the page's script counts on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _clock(at: str | float) -> str:
    """Return a time in this host's zone: ``14:03``."""
    return time.strftime("%H:%M", time.localtime(_seconds(at)))


def _day(at: str | float) -> str:
    """Return a time in this host's zone, with its day: ``2026-11-28 14:03``."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(_seconds(at)))


def _seconds(at: str | float) -> float:
    return at if isinstance(at, float) else seconds_of(at)
