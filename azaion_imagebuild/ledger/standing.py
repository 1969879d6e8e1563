"""What the ledger knows of a serial, and what must keep it from being provisioned again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..model import Finding
from ..text import spoken_time
from .entry import Entry
from .process_id import is_alive

FLASH = "flash"
FUSE = "fuse"
"""The step of rows that speak of the device's fuses: ``done``: burned; ``failed``: nothing was;
``unknown``: it was begun, and nobody knows what it burned."""

ROTATE = "rotate"
"""The step of rows by which a device got a new credential, outside a build."""
RESOLVE = "resolve"
"""The step of a row by which an operator decides what an attempt was."""


class Credential(Struct, frozen=True, kw_only=True):
    """Since when a device has the credential that it has."""

    serial: str
    email: str
    since: str
    """As :attr:`.Entry.at`."""


class Standing(Struct, frozen=True, kw_only=True):
    """A serial's past, as far as it matters for its next attempt."""

    serial: str
    rows: Sequence[Entry]
    """All rows of its account, newest first: its own, and those of serials that share it."""

    @property
    def last(self) -> Entry | None:
        """Return its last row."""
        return next(self._own(), None)

    @property
    def settled(self) -> Entry | None:
        """Return the last row that says something of a device, not only of an attempt."""
        return next((row for row in self._own() if _says_of_a_device(row)), None)

    @property
    def at_work(self) -> bool:
        """Tell whether an attempt is going on now."""
        return self.last is not None and self.last.outcome == "started" and not died(self.last)

    @property
    def flashed(self) -> Entry | None:
        """Return the row by which an identity reached a device that is still in use."""
        return self.settled if self.settled and self.settled.flashed else None

    @property
    def unknown(self) -> bool:
        """Tell whether an attempt ended while it was flashing, nobody knows how."""
        if self.last is not None and died(self.last) and self.last.step == FLASH:
            return True
        return self.settled is not None and self.settled.outcome == "unknown"

    @property
    def fused(self) -> Entry | None:
        """Return the row by which the device's fuses are burned."""
        return self._fuse if self._fuse and self._fuse.outcome == "done" else None

    @property
    def perhaps_fused(self) -> Entry | None:
        """Return the row of a fuse command that was started, and did not end well.

        A start without an end is one, whatever was said of the attempt since.
        """
        row = self._fuse
        if row is None or row.outcome not in ("started", "unknown"):
            return None
        return None if row is self.last and self.at_work else row

    @property
    def _fuse(self) -> Entry | None:
        """Return the last row that speaks of the fuses of the device that has the serial now."""
        said = (row for row in self._own() if row.step == FUSE or row.outcome == "retired")
        row = next(said, None)
        return row if row and row.step == FUSE else None

    @property
    def rival(self) -> Entry | None:
        """Return the row by which another serial holds the account: enrolled, or about to be."""
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
        """Yield what speaks against another attempt; an error must stop it.

        Args:
            reprovision: the site's policy for a serial that was flashed: ``allow confirm refuse``.
            confirmed: the operator has said yes (``confirm`` only).
        """
        rival = self.rival
        if rival is not None:
            yield Finding(
                message=f"the account {rival.email} is that of {rival.serial} (attempt"
                f" {rival.attempt}, {_when(rival)}): {self.serial} would take it away from that"
                " device",
                hint="scan the label again; if that device is out of use:"
                f" {_resolve(rival)} retired",
            )
        if self.at_work:
            assert self.last is not None  # noqa: S101
            yield Finding(
                message=f"{self.serial} is being built since {_when(self.last)} by"
                f" {_who(self.last)}",
                hint=f"wait for it to end; if that machine or container is"
                f" gone: {_resolve(self.last)} failed",
            )
        elif self.unknown:
            yield Finding(
                message=f"the last attempt for {self.serial} died while flashing: what that device"
                " holds is not known",
                hint="flash that very device now; its old identity, if any, ends with this build",
                severity="warning",
            )
        elif self.flashed is not None:
            yield self._flashed_before(self.flashed, reprovision, confirmed)

    def findings_of_fuses(self, *, asked: bool) -> Iterator[Finding]:
        """Yield what is to be said of the fuses; an error must stop an attempt to burn them.

        Args:
            asked: this attempt is to burn them.
        """
        if asked and self.fused is not None:
            yield Finding(
                message=f"{self.serial} was fused on {_when(self.fused)} by {_who(self.fused)}: it"
                " is not fused again",
                hint="if this is another device with that serial, and the old one is out of use:"
                f" {_resolve(self.fused)} retired",
                severity="warning",
            )
        if self.perhaps_fused is not None:
            yield Finding(
                message=f"fusing {self.serial} was begun on {_when(self.perhaps_fused)} by"
                f" {_who(self.perhaps_fused)} and did not end well: what is burned is not known",
                hint="read the device's fuses, then say what is so:"
                f" {_resolve(self.perhaps_fused)} fused (or unfused)",
                severity="error" if asked else "warning",
            )

    def _flashed_before(self, row: Entry, reprovision: str, confirmed: bool) -> Finding:
        message = (
            f"{self.serial} was flashed on {_when(row)} by {_who(row)}: its new password locks that"
            " device out"
        )
        if reprovision == "allow" or (reprovision == "confirm" and confirmed):
            hint = (
                "give this build to the same device; [ledger] reprovision can refuse a serial's"
                " second time"
            )
            return Finding(message=message, hint=hint, severity="warning")
        if reprovision == "confirm":
            return Finding(message=message, hint="if that is meant, add --yes")
        return Finding(
            message=f"{message}, and this site's policy is [ledger] reprovision = refuse",
            hint=f"if it is out of use: {_resolve(row)} retired",
        )


def died(row: Entry) -> bool:
    """Tell whether a row is the intent of an attempt whose process is gone."""
    return row.outcome == "started" and not is_alive(row.host, row.process)


def _says_of_a_device(row: Entry) -> bool:
    if row.step == FUSE:
        return False
    return row.flashed or row.outcome in ("unknown", "retired") or row.step == RESOLVE


def _resolve(row: Entry) -> str:
    sandbox = "--sandbox " if row.sandbox else ""
    return f"azaion-imagebuild ledger resolve {sandbox}--reason … {row.serial}"


def _when(row: Entry) -> str:
    return spoken_time(row.at)


def _who(row: Entry) -> str:
    words = (row.process or "").split(" ")
    process = f", process {words[1]}" if row.outcome == "started" and len(words) >= 3 else ""
    station = f", station {row.station}" if row.station else ""
    return f"{row.operator or '?'} on {row.host or '?'}{station}{process}"
