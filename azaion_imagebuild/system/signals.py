"""Holding signals back while something must not be torn in two."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_stop = threading.Event()
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


_of_thread = threading.local()


@contextlib.contextmanager
def held_back(*, stop_after_this: bool = False) -> Iterator[None]:
    """Keep interrupts and terminations waiting; the last one is delivered at the end.

    In another thread than the main one :func:`check_interrupt` waits: Python handles signals in the
    main thread only.

    Args:
        stop_after_this: at the end nothing is delivered, but :func:`is_stopping` says so.
    """
    if threading.current_thread() is not threading.main_thread():
        with _thread_held_back():
            yield
        return
    pending: list[int] = []
    before = _remember_in(pending)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if pending and stop_after_this:
            _stop.set()
        elif pending:
            signal.raise_signal(pending[-1])


@contextlib.contextmanager
def _thread_held_back() -> Iterator[None]:
    _of_thread.depth = getattr(_of_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _of_thread.depth -= 1


def _remember_in(pending: list[int]) -> dict[int, Any]:
    def remember(number: int, frame: FrameType | None) -> None:
        pending.append(number)

    # What is ignored (nohup, a background job) stays so, for this process and for its children.
    handled = [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]
    return {number: signal.signal(number, remember) for number in handled}


class _Command:
    """The one command that this process runs."""

    runs = False


def process_runs_one_command() -> None:
    """Allow :func:`hold_to_the_end`: the process ends with what runs now."""
    _Command.runs = True


def hold_to_the_end() -> None:
    """Let no signal change the end of this process: what it was asked for is done.

    Nothing happens where this is used as a library: signals are its caller's then.
    """
    if _Command.runs and threading.current_thread() is threading.main_thread():
        _remember_in([])


def ignore_to_the_end() -> None:
    """Ignore signals while the interpreter ends: it would give them their default, a kill."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def stop_threads() -> None:
    """Interrupt what the other threads do: Python delivers a signal to the main thread only."""
    _stop.set()


def let_threads_go_on() -> None:
    """Take :func:`stop_threads` back, for the next thing that this process does."""
    _stop.clear()


def check_interrupt() -> None:
    """Raise KeyboardInterrupt in a thread that was told to stop; called between two steps."""
    if threading.current_thread() is threading.main_thread() or bool(
        getattr(_of_thread, "depth", 0)
    ):
        return
    if is_stopping():
        raise KeyboardInterrupt


def is_stopping() -> bool:
    """Tell whether threads, or a loop over devices, were told to stop."""
    return _stop.is_set()
