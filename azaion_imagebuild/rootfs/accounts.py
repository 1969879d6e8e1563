"""The accounts of a device: names and numbers from its own etc/passwd and etc/group."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from ..model import GROUP, PASSWD, FileEntry

LARGEST_PASSWD = 4 * 1024 * 1024
"""Bytes; a longer passwd or group is refused."""

_HIGHEST_ID = 2**32 - 2  # (uid_t) -1 means "leave as it is" to chown


class UnknownAccount(Exception):
    """A user or group that the device does not have; ``known`` names those it has."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"no {kind} {name!a} in the rootfs's etc/{_FILES[kind]}")
        self.known = known


_FILES = {"user": "passwd", "group": "group"}


class Accounts(Struct, frozen=True, kw_only=True):
    """Users and groups of a root filesystem; never the host's."""

    users: Mapping[str, tuple[int, int]]
    """name → (uid, gid of the user's own group)"""
    groups: Mapping[str, int]

    @classmethod
    def parse(cls, passwd: bytes, group: bytes) -> Accounts:
        """Parse the two files of passwd(5) and group(5); ignore malformed lines."""
        users: dict[str, tuple[int, int]] = {}
        for fields in _rows(passwd, 7):
            uid, gid = _number(fields[2]), _number(fields[3])
            if uid is not None and gid is not None:
                users.setdefault(fields[0], (uid, gid))
        groups: dict[str, int] = {}
        for fields in _rows(group, 4):
            gid = _number(fields[2])
            if gid is not None:
                groups.setdefault(fields[0], gid)
        return cls(users=users, groups=groups)

    @classmethod
    def read(cls, read_file: Callable[[str, int], FileEntry | None]) -> Accounts:
        """Read them with the ``read_file`` of a rootfs or image; a missing file counts as empty."""
        files = [read_file(path, LARGEST_PASSWD) for path in (PASSWD, GROUP)]
        passwd, group = [entry.data if entry else b"" for entry in files]
        return cls.parse(passwd, group)

    def resolve(self, owner: str, group: str | None) -> tuple[int, int]:
        """Return (uid, gid) of ``owner`` and ``group``, each a name or a number.

        Without ``group``, the gid is the owner's own; for an unknown number, it is the same number.

        Raises:
            UnknownAccount: a name that the device does not have.
        """
        uid = _number(owner)
        gid = uid
        if uid is None:
            if owner not in self.users:
                raise UnknownAccount("user", owner, tuple(self.users))
            uid, gid = self.users[owner]
        else:
            gid = next((own for number, own in self.users.values() if number == uid), uid)
        if group is not None:
            gid = _number(group)
            if gid is None:
                if group not in self.groups:
                    raise UnknownAccount("group", group, tuple(self.groups))
                gid = self.groups[group]
        return uid, gid


def _rows(text: bytes, width: int) -> list[list[str]]:
    lines = text.decode("utf-8", "replace").split("\n")
    rows = [line.split(":") for line in lines if not line.startswith(("#", "+", "-"))]
    return [row for row in rows if len(row) == width and row[0]]


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _HIGHEST_ID:
        return int(text)
    return None
