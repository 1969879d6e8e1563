"""New members for an archive: device.conf as a placeholder, and the folder that it is in."""

from __future__ import annotations

from ..identity.placeholder import placeholder
from ..model import DEVICE_CONF, DEVICE_CONF_MODE
from .tar import BLOCK, RECORD

FOLDER = DEVICE_CONF.rpartition("/")[0]


def folder_member() -> bytes:
    """Return the folder of device.conf as a member, 0755 root."""
    return _header(f"./{FOLDER}/", 0, b"5", 0o755, (0, 0))


def conf_member(owner: tuple[int, int], size: int) -> bytes:
    """Return a placeholder of ``size`` bytes as a member."""
    header = _header(f"./{DEVICE_CONF}", size, b"0", DEVICE_CONF_MODE, owner)
    return header + placeholder(size) + bytes(-size % BLOCK)


def ended(members: bytes, start: int) -> bytes:
    """Return the last members of an archive with its end: zeros up to a whole record of tar.

    Args:
        members: with their headers, each a multiple of 512 bytes.
        start: where they begin in the archive.
    """
    end = start + len(members) + 2 * BLOCK
    return members + bytes(2 * BLOCK + -end % RECORD)


def _header(name: str, size: int, kind: bytes, mode: int, owner: tuple[int, int]) -> bytes:
    """Return a ustar header; an owner that does not fit is in GNU's base-256."""
    fields = [
        name.encode().ljust(100, b"\0"),
        f"{mode:07o}\0".encode(),
        _number(owner[0]),
        _number(owner[1]),
        f"{size:011o}\0".encode(),
        f"{0:011o}\0".encode(),
        b" " * 8,
        kind,
        bytes(100),
        b"ustar\00000",
    ]
    header = b"".join(fields).ljust(BLOCK, b"\0")
    return header[:148] + f"{sum(header):06o}\0 ".encode() + header[156:]


def _number(value: int) -> bytes:
    if value < 0o10000000:
        return f"{value:07o}\0".encode()
    return (value | 1 << 63).to_bytes(8, "big")
