"""Holding signals back while something must not be torn in two."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

_stop = threading.Event()
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN = 1.0  # seconds in which further signals do not interrupt what the first one unwinds
_SOON = 0.01  # seconds in which a finalizer comes to its end

_of_thread = threading.local()


class _Now:
    """What a signal does. Each change is one assignment: none can come halfway through it."""

    runs_one_command = False
    ended = False
    """Nothing: the process ends with what it does now."""
    listener: Callable[[int], object] | None = None
    """It tells this one; None: it interrupts."""
    interrupted = -_AGAIN
    """When one has interrupted."""
    number = int(signal.SIGINT)
    """The one that interrupted last."""
    to_check: Sequence[int] = ()
    """Those that wait, and interrupt where :func:`check_interrupt` is called."""


def _answer(number: int, frame: FrameType | None) -> None:
    """Do what a signal does now: the one handler of this process."""
    if _Now.ended:
        return
    if _Now.listener is not None:
        _Now.listener(number)
    elif time.monotonic() - _Now.interrupted >= _AGAIN:
        _Now.interrupted, _Now.number = time.monotonic(), number
        raise KeyboardInterrupt


@contextlib.contextmanager
def taken() -> Iterator[None]:
    """Have interrupts, terminations and hang-ups raise KeyboardInterrupt.

    Those that follow within a second do not: they would stop what the first one cleans up.
    """
    replaced = _handled()
    tell, sys.unraisablehook = sys.unraisablehook, lambda lost: _repeat(lost, tell)
    try:
        yield
    finally:
        if not _Now.runs_one_command:  # in that process none may come halfway through its end
            _restore(replaced)
            sys.unraisablehook = tell


def _repeat(lost: sys.UnraisableHookArgs, tell: Callable[[sys.UnraisableHookArgs], Any]) -> None:
    """Repeat an interrupt that came while Python finalized an object, where it cannot be raised."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        tell(lost)
        return
    _Now.interrupted = -_AGAIN
    _thread.start_new_thread(_interrupt_soon, ())


def _interrupt_soon() -> None:
    time.sleep(_SOON)
    os.kill(os.getpid(), _Now.number)


def _handled() -> dict[int, Any]:
    """Put our handler in place; return those it replaced."""
    # What is ignored (nohup, a background job) stays so, for this process and for its children.
    theirs = {int(number): signal.getsignal(number) for number in _ENDING}
    kept = (signal.SIG_IGN, _answer, None)
    replaced = {number: each for number, each in theirs.items() if each not in kept}
    for number in replaced:
        signal.signal(number, _answer)
    return replaced


def _restore(replaced: dict[int, Any]) -> None:
    for number, handler in replaced.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def heard_by(
    listener: Callable[[int], object], *, then: Callable[[int], object] | None = None
) -> Iterator[None]:
    """Tell ``listener`` of signals, by number, instead of being interrupted. Main thread only.

    At the end ``then`` is told of them; None: whoever was before.
    """
    before, _Now.listener = _Now.listener, listener
    replaced = _handled()
    try:
        yield
    finally:
        _restore(replaced)
        _Now.listener = then or before


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let signals interrupt this part of what is :func:`noted`, until they are held back."""
    before, _Now.listener = _Now.listener, None
    try:
        yield
    finally:
        _Now.listener = before


def noted() -> contextlib.AbstractContextManager[None]:
    """Let signals interrupt nothing, but :func:`is_stopping` tells of them."""
    return heard_by(_note)


def _note(number: int) -> None:
    _stop.set()


@contextlib.contextmanager
def held_back(*, stop_after_this: bool = False, until_checked: bool = False) -> Iterator[None]:
    """Keep interrupts and terminations waiting; the last one is delivered at the end.

    In another thread than the main one :func:`check_interrupt` waits: Python handles signals in the
    main thread only.

    Args:
        stop_after_this: at the end nothing is delivered, but :func:`is_stopping` says so, also of
            signals that come until :func:`interruptible` ends.
        until_checked: they wait for :func:`check_interrupt` only, as they do in other threads.
    """
    if threading.current_thread() is not threading.main_thread():
        with contextlib.nullcontext() if until_checked else _thread_held_back():
            yield
        return
    pending: list[int] = []
    before, _Now.to_check = _Now.to_check, pending if until_checked else ()
    try:
        with heard_by(pending.append, then=_note if stop_after_this else None):
            yield
    finally:
        _Now.to_check = before
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


def process_runs_one_command() -> None:
    """Allow :func:`hold_to_the_end`: the process ends with what runs now."""
    _Now.runs_one_command = True


def hold_to_the_end() -> None:
    """Let no signal change the end of this process: what it was asked for is done.

    Nothing happens where this is used as a library: signals are its caller's then.
    """
    if _Now.runs_one_command and threading.current_thread() is threading.main_thread():
        _Now.ended = True


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
    """Raise KeyboardInterrupt in a thread that was told to stop; called between two steps.

    In the main thread signals do that themselves, unless they are held back until they are checked.
    """
    if threading.current_thread() is threading.main_thread():
        stopping = bool(_Now.to_check)
        if stopping:
            _Now.to_check = ()  # they interrupt once
    else:
        stopping = is_stopping() and not getattr(_of_thread, "depth", 0)
    if stopping:
        raise KeyboardInterrupt


def is_stopping() -> bool:
    """Tell whether threads, or a loop over devices, were told to stop."""
    return _stop.is_set()
