"""Tar archives to test with: byte by byte, by tarfile, and drawn at random."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Iterable

from hypothesis import strategies as st

from azaion_imagebuild.model import DEVICE_CONF

BLOCK = 512
END = bytes(2 * BLOCK)
LIMIT = 65536
CONF = b"AZAION_DEVICE_EMAIL=azaion-jetson-0042@azaion.com\nAZAION_DEVICE_PASSWORD=0123\n"
NEW = CONF.replace(b"0123", b"4567")
REGULAR, HARD_LINK, SYMLINK, FOLDER, FIFO, SPARSE = b"0", b"1", b"2", b"5", b"6", b"S"
PAX, PAX_SOLARIS, PAX_GLOBAL, LONG_NAME, LONG_LINK = b"x", b"X", b"g", b"L", b"K"
AS_ROOT = os.geteuid() == 0


# Archives byte by byte


def header(name: bytes = b"", size: int = 0, kind: bytes = REGULAR, **fields: bytes) -> bytes:
    """Return a header with a valid checksum; ``fields`` go in as they are: ``at_124=b"…"``."""
    block = bytearray(BLOCK)
    at = {0: name, 100: b"0000600", 108: b"0001750", 116: b"0001751", 124: b"%011o" % size}
    at |= {136: b"00000000000", 148: b" " * 8, 156: kind, 257: b"ustar\x0000"}
    for offset, raw in (at | {int(key[3:]): raw for key, raw in fields.items()}).items():
        block[offset : offset + len(raw)] = raw
    assert len(block) == BLOCK
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes, data: bytes = b"", kind: bytes = REGULAR, **fields: bytes) -> bytes:
    return header(name, len(data), kind, **fields) + padded(data)


def folder(name: bytes) -> bytes:
    return member(name, kind=FOLDER, at_100=b"0000755")


def link(name: bytes, target: bytes, kind: bytes = SYMLINK) -> bytes:
    return member(name, kind=kind, at_157=target)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    length = next(n for n in itertools.count(len(rest)) if len(b"%d" % n) + len(rest) == n)
    return b"%d" % length + rest


def pax(*records: bytes, kind: bytes = PAX) -> bytes:
    return member(b"PaxHeaders/next", b"".join(records), kind)


def long_name(name: bytes, kind: bytes = LONG_NAME) -> bytes:
    return member(b"././@LongLink", name, kind)


CONF_NAME = DEVICE_CONF.encode()
OLD_MEMBER = member(CONF_NAME, CONF)
NEW_MEMBER = member(CONF_NAME, NEW)


# Archives by tarfile

NAMES = (
    "etc",
    "etc/azaion",
    DEVICE_CONF,
    "etc//azaion/./device.conf",
    f"{DEVICE_CONF}/below",
    "x",
    "x/device.conf",
    "x/azaion",
    "x/azaion/device.conf",
    "x/y/etc",
    "x/y",
)
ORDERLY_KINDS = {"etc": FOLDER, "etc/azaion": FOLDER, "x": SYMLINK, "x/y": FOLDER}
TARGETS = ("etc", "azaion", "etc/azaion", DEVICE_CONF, "x", "x/y", ".", "../x", "/etc", "a")
STARTS = st.sampled_from(["", "./", "/"])
PACKINGS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
MODES = st.sampled_from([0o400, 0o600, 0o644, 0o755, 0o4755])


def packed(
    members: Iterable[tuple[str, bytes, bytes | str]],
    packing: int = tarfile.PAX_FORMAT,
    mode: int = 0o600,
) -> bytes:
    """Pack (name, kind, data or target of a link) by tarfile."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=packing) as writer:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.gid = kind, 1000, 1001
            info.mode = 0o755 if kind == FOLDER else mode
            if isinstance(content, str):
                info.linkname = content
                content = b""
            info.size = len(content)
            writer.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@st.composite
def any_members(draw: st.DrawFn) -> list[tuple[str, bytes, bytes | str]]:
    """Draw members that get in each other's way."""
    members: list[tuple[str, bytes, bytes | str]] = []
    kinds = st.sampled_from([REGULAR, REGULAR, REGULAR, FOLDER, SYMLINK, HARD_LINK, FIFO])
    for number in range(draw(st.integers(1, 7))):
        name = draw(STARTS) + draw(st.sampled_from(NAMES))
        kind = draw(st.just(ORDERLY_KINDS.get(name.lstrip("./"), REGULAR)) | kinds)
        content: bytes | str = b""
        if kind == REGULAR:
            content = b"%d" % number
        elif kind in (SYMLINK, HARD_LINK):
            content = draw(st.sampled_from(TARGETS))
        members.append((name, kind, content))
    return members
