"""One attempt to give a device its identity: its progress, its record, its ledger rows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from msgspec import structs

from ..errors import LedgerError, OperatorError, PreflightError
from ..model import (
    DEVICE_CONF,
    Build,
    BuildRecord,
    DeviceIdentity,
    FlashResult,
    Image,
    Receipt,
    StagedFile,
)
from ..system import signals
from . import events

if TYPE_CHECKING:
    from ..ledger import Entry, Standing
    from ..settings import LedgerSettings
    from .events import Watcher


class Book(Protocol):
    """Where an attempt is recorded: the ledger, or the part of it that belongs to this attempt."""

    def begin(self, entry: Entry, settings: LedgerSettings) -> Receipt:
        """Commit the intent to provision, unless the ledger refuses the attempt."""
        ...

    def write(self, entry: Entry) -> Receipt:
        """Commit one row."""
        ...

    def standings(self, accounts: Mapping[str, str], *, sandbox: bool) -> dict[str, Standing]:
        """Return each serial's standing."""
        ...


@dataclass(slots=True, eq=False, repr=False)  # less to compile at every start
class Attempt:
    """The progress of a build."""

    build: Build
    hook: Any
    watcher: Watcher
    ledger: Book | None = None
    began: float = field(default_factory=time.monotonic)
    current: str = "lock"
    identity: DeviceIdentity | None = None
    staged: tuple[StagedFile, ...] = ()
    image: Image | None = None
    image_sha256: str | None = None
    base_sha256: str | None = None
    proven: bool = False
    flashed: FlashResult | None = None
    receipt: Receipt | None = None
    begun: bool = False
    """The ledger holds an intent of this attempt, but not its end yet."""
    release: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    left_behind: list[tuple[str, str]] = field(default_factory=list)
    """Problems during the clean-up."""
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What is held until the record is out."""
    _holds_signals: bool = False

    def hold_signals_until_checked(self) -> None:
        """Let signals interrupt only what can tell whether it is done already."""
        one_of_several = self.build.shared is not None
        self.held.enter_context(
            signals.held_back(stop_after_this=one_of_several, until_checked=True)
        )

    def hold_signals(self) -> None:
        """Hold signals back until the record is out: a finished attempt stays finished.

        A single build is the whole command, so they wait until the process ends. Of several
        devices only this one is held.
        """
        if self._holds_signals:
            return
        self._holds_signals = True
        one_of_several = self.build.shared is not None
        if not one_of_several and not self.build.is_base:
            signals.hold_to_the_end()
        self.held.enter_context(signals.held_back(stop_after_this=one_of_several))

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; the notes it appends are shown beside it."""
        self.current = name
        notes: list[str] = []
        begin = time.monotonic()
        self.watcher(events.started(name))
        yield notes
        self.watcher(events.ended(name, time.monotonic() - begin, ", ".join(notes)))

    def intend(self, step: str) -> None:
        """Commit to the ledger that a step is about to run.

        Raises:
            PreflightError: the ledger refuses the whole attempt (first intent only).
            LedgerError: it cannot be written.
        """
        if self.ledger is None:
            return
        from ..ledger import Entry

        self.current = "ledger"
        entry = Entry.of(self.record(), step=step, outcome="started")
        if self.begun:
            self.receipt = self.ledger.write(entry)
        else:
            self.receipt = self.ledger.begin(entry, self.build.settings.ledger)
            self.begun = True

    def conclude(self, step: str) -> None:
        """Commit that a step is done; the next intent begins the attempt again in the ledger.

        Raises:
            LedgerError: it cannot be written.
        """
        if self.ledger is None:
            return
        from ..ledger import Entry

        self.receipt = self.ledger.write(Entry.of(self.record(), step=step, outcome="done"))
        self.begun = False

    def finish(self, error: OperatorError | None = None) -> BuildRecord:
        """Return the record of the whole attempt, and commit its end to the ledger."""
        record = self.record(error)
        if self.ledger is None or not self.begun:
            return record
        from ..ledger import Entry

        try:
            entry = Entry.of(record, step=record.step or self.current, outcome=self._outcome(error))
            self.receipt = self.ledger.write(entry)
        except LedgerError as unwritten:
            if error is None:
                self.current = "ledger"
                return self.record(unwritten)
            error.problems += tuple(each for each in unwritten.problems)
        return structs.replace(record, ledger=self.receipt)

    def _outcome(self, error: OperatorError | None) -> Literal["done", "failed", "unknown"]:
        if error is None:
            return "done"
        # A fuse command that was started may have burned some fuses, however it ended.
        perhaps_fused = self.current == "fuse" and not isinstance(error, PreflightError)
        return "unknown" if perhaps_fused else "failed"

    def record(self, error: OperatorError | None = None) -> BuildRecord:
        device_conf = [staged for staged in self.staged if staged.path == DEVICE_CONF]
        active = self.identity if self.identity and self.identity.pending is None else None
        return BuildRecord(
            build=self.build,
            outcome="failed" if error else "done",
            seconds=time.monotonic() - self.began,
            enrolled=active.enrolled if active else None,
            credential=active.password.fingerprint() if active else None,
            release=self.release,
            staged=device_conf[0] if device_conf else None,
            image=self.image,
            image_sha256=self.image_sha256,
            base_sha256=self.base_sha256,
            proven=self.proven,
            flashed=self.flashed,
            extra={**self.extra, **(error.facts if error else {})},
            step=self.current if error else None,
            error=error,
            ledger=self.receipt,
        )
