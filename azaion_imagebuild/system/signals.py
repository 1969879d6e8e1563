"""Holding signals back while something must not be torn in two."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_stop = threading.Event()
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Keep interrupts and terminations waiting; the last one is delivered at the end.

    In another thread than the main one there is nothing to hold: Python handles signals there only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        pending.append(number)

    # What is ignored (nohup, a background job) stays so, for this process and for its children.
    handled = [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if pending:
            signal.raise_signal(pending[-1])


def stop_threads() -> None:
    """Interrupt what the other threads do: Python delivers a signal to the main thread only."""
    _stop.set()


def let_threads_go_on() -> None:
    """Take :func:`stop_threads` back, for the next thing that this process does."""
    _stop.clear()


def check_interrupt() -> None:
    """Raise KeyboardInterrupt in a thread that was told to stop; called between two steps."""
    if _stop.is_set() and threading.current_thread() is not threading.main_thread():
        raise KeyboardInterrupt
