"""What the ledger says about a serial, and the reasons not to provision it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..model import Finding
from ..text import spoken_time
from .entry import Entry
from .process_id import is_alive

FLASH = "flash"
FUSE = "fuse"
"""The step of rows about the device's fuses: ``done``: burned; ``failed``: none was burned;
``unknown``: the fuse command was started, and nobody knows what it burned."""

ROTATE = "rotate"
"""The step of rows that record a new credential, outside a build."""
RESOLVE = "resolve"
"""The step of rows that record an operator's verdict on an attempt."""


class Credential(Struct, frozen=True, kw_only=True):
    """The time of a device's current credential."""

    serial: str
    email: str
    since: str
    """As :attr:`.Entry.at`."""


class Standing(Struct, frozen=True, kw_only=True):
    """The part of a serial's history that matters for its next attempt."""

    serial: str
    rows: Sequence[Entry]
    """All rows of its account, newest first: its own, and those of serials that share it."""

    @property
    def last(self) -> Entry | None:
        """Return its last row."""
        return next(self._own(), None)

    @property
    def settled(self) -> Entry | None:
        """Return the last row about the device itself, not only about an attempt."""
        return next((row for row in self._own() if _says_of_a_device(row)), None)

    @property
    def at_work(self) -> bool:
        """Tell whether an attempt is running now."""
        return self.last is not None and self.last.outcome == "started" and not died(self.last)

    @property
    def flashed(self) -> Entry | None:
        """Return the row that records an identity on a device still in use."""
        return self.settled if self.settled and self.settled.flashed else None

    @property
    def unknown(self) -> bool:
        """Tell whether an attempt died while flashing, so that what the device holds is unknown."""
        return self.doubt is not None

    @property
    def doubt(self) -> Entry | None:
        """Return the row that left the device unknown, if no later attempt settled it."""
        if self.last is not None and died(self.last) and self.last.step == FLASH:
            return self.last
        settled = self.settled
        return settled if settled is not None and settled.outcome == "unknown" else None

    @property
    def fused(self) -> Entry | None:
        """Return the row that records burned fuses."""
        return self._fuse if self._fuse and self._fuse.outcome == "done" else None

    @property
    def perhaps_fused(self) -> Entry | None:
        """Return the row of a fuse command that was started and did not succeed.

        A start without an end counts, no matter how the attempt ended.
        """
        row = self._fuse
        if row is None or row.outcome not in ("started", "unknown"):
            return None
        return None if row is self.last and self.at_work else row

    @property
    def _fuse(self) -> Entry | None:
        """Return the last row about the fuses of the serial's present device."""
        said = (row for row in self._own() if row.step == FUSE or row.outcome == "retired")
        row = next(said, None)
        return row if row and row.step == FUSE else None

    @property
    def rival(self) -> Entry | None:
        """Return the row of another serial that has the account, or will soon."""
        given_up = {self.serial}
        for row in self.rows:
            if row.outcome == "retired":
                given_up.add(row.serial)
            elif row.serial not in given_up and (
                row.account is not None or (row.outcome == "started" and not died(row))
            ):
                return row
        return None

    def _own(self) -> Iterator[Entry]:
        return (row for row in self.rows if row.serial == self.serial)

    def findings(self, reprovision: str, *, confirmed: bool) -> Iterator[Finding]:
        """Yield reasons against another attempt; an error must stop it.

        Args:
            reprovision: the site's policy for a serial that was flashed: ``allow confirm refuse``.
            confirmed: the operator agreed (matters for ``confirm`` only).
        """
        rival = self.rival
        if rival is not None:
            yield Finding(
                message=f"the account {rival.email} belongs to {rival.serial} (attempt"
                f" {rival.attempt}, {_when(rival)}): building {self.serial} would lock that device"
                " out",
                hint="scan the label again; if that device is out of use:"
                f" {resolve_command(rival)} retired",
            )
        if self.at_work:
            assert self.last is not None  # noqa: S101
            yield Finding(
                message=f"{self.serial} has been building since {_when(self.last)}, started by"
                f" {_who(self.last)}",
                hint="wait until it ends; if that machine or container is gone:"
                f" {resolve_command(self.last)} failed",
            )
        elif self.unknown:
            yield Finding(
                message=f"the last attempt for {self.serial} died while flashing: what that device"
                " holds is unknown",
                hint="flash that same device now; this build replaces its identity, if it has one",
                severity="warning",
            )
        elif self.flashed is not None:
            yield self._flashed_before(self.flashed, reprovision, confirmed)

    def findings_of_fuses(self, *, asked: bool) -> Iterator[Finding]:
        """Yield findings about the fuses; an error must stop an attempt to burn them.

        Args:
            asked: this attempt will burn them.
        """
        if asked and self.fused is not None:
            yield Finding(
                message=f"{self.serial} was fused on {_when(self.fused)} by {_who(self.fused)}: it"
                " is not fused again",
                hint="if this is another device with that serial, and the old one is out of use:"
                f" {resolve_command(self.fused)} retired",
                severity="warning",
            )
        if self.perhaps_fused is not None:
            yield Finding(
                message=f"fusing {self.serial} was started on {_when(self.perhaps_fused)} by"
                f" {_who(self.perhaps_fused)} and did not succeed: which fuses are burned"
                " is unknown",
                hint="read the device's fuses, then record what you find:"
                f" {resolve_command(self.perhaps_fused)} fused (or unfused)",
                severity="error" if asked else "warning",
            )

    def _flashed_before(self, row: Entry, reprovision: str, confirmed: bool) -> Finding:
        message = (
            f"{self.serial} was flashed on {_when(row)} by {_who(row)}: its new password locks that"
            " device out"
        )
        if reprovision == "allow" or (reprovision == "confirm" and confirmed):
            hint = (
                "flash this only to that same device. To forbid rebuilding a serial, set"
                ' [ledger] reprovision = "refuse"'
            )
            return Finding(message=message, hint=hint, severity="warning")
        if reprovision == "confirm":
            return Finding(message=message, hint="to build it again, add --yes")
        return Finding(
            message=f'{message}, and [ledger] reprovision = "refuse" forbids it',
            hint=f"if it is out of use: {resolve_command(row)} retired",
        )


def died(row: Entry) -> bool:
    """Tell whether a row is the intent of an attempt whose process is gone."""
    return row.outcome == "started" and not is_alive(row.host, row.process)


def _says_of_a_device(row: Entry) -> bool:
    if row.step == FUSE:
        return False
    return row.flashed or row.outcome in ("unknown", "retired") or row.step == RESOLVE


def resolve_command(row: Entry) -> str:
    """Return the command by which an operator says what became of a row's device.

    The verdict comes after it.
    """
    sandbox = "--sandbox " if row.sandbox else ""
    return f"azaion-imagebuild ledger resolve {sandbox}--reason … {row.serial}"


def _when(row: Entry) -> str:
    return spoken_time(row.at)


def _who(row: Entry) -> str:
    words = (row.process or "").split(" ")
    process = f", process {words[1]}" if row.outcome == "started" and len(words) >= 3 else ""
    station = f", station {row.station}" if row.station else ""
    return f"{row.operator or '?'} on {row.host or '?'}{station}{process}"
