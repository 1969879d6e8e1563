"""Stamping over many layouts: block sizes, features, positions, chunks, archive formats."""

from __future__ import annotations

import io
import itertools
import os
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from azaion_imagebuild import images
from azaion_imagebuild.identity.placeholder import padded, placeholder
from azaion_imagebuild.images import stamp as stamping
from azaion_imagebuild.images.locate import locate
from azaion_imagebuild.images.sparse import SparseReader
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.settings import PLACEHOLDER_SIZE

CONF = b"AZAION_DEVICE_EMAIL=azaion-jetson-7@azaion.com\nAZAION_DEVICE_PASSWORD=%032x\n"
FEATURES = [
    "",
    "^metadata_csum",
    "^64bit",
    "^extent,^64bit",
    "^flex_bg",
    "^has_journal",
    "^dir_index",
]
RAW, DONT_CARE = 0xCAC1, 0xCAC3


@contextmanager
def tree(before: int, after: int) -> Iterator[Path]:
    """Make a rootfs whose device.conf has files before and after it, so that it lies elsewhere."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "root")
        (root / DEVICE_CONF).parent.mkdir(parents=True)
        for number in range(before):
            (root / f"etc/azaion/a{number}").write_bytes(os.urandom(700 * number + 1))
        (root / DEVICE_CONF).write_bytes(placeholder())
        for number in range(after):
            (root / f"etc/azaion/z{number}").write_bytes(b"z" * 900)
        yield root


def stamped(path: Path, data: bytes) -> None:
    """Stamp and look at what changed: the file's data, and nothing else."""
    before = path.read_bytes()
    with (
        patch("azaion_imagebuild.images.stamp.os.fdatasync"),
        stamping.opened_for_stamping(path, 0) as opened,
    ):
        opened.write(data)
        ranges = opened.location.ranges
    entry = images.read_file(path, DEVICE_CONF, PLACEHOLDER_SIZE)
    assert entry is not None
    assert entry.data == data
    after = bytearray(path.read_bytes())
    for part in ranges:
        after[part.offset : part.offset + part.length] = before[
            part.offset : part.offset + part.length
        ]
    assert bytes(after) == before


def packed(raw: bytes, block: int, cuts: list[int]) -> bytes:
    """Return a sparse image of ``raw`` whose RAW chunks are cut at some more blocks."""
    zero = bytes(block)
    count = len(raw) // block
    kinds = [raw[i * block : (i + 1) * block] != zero for i in range(count)]
    borders = {0, count, *(cut % count for cut in cuts)}
    borders |= {i for i in range(1, count) if kinds[i] != kinds[i - 1]}
    edges = sorted(borders)
    chunks = []
    for start, end in itertools.pairwise(edges):
        data = raw[start * block : end * block] if kinds[start] else b""
        kind = RAW if kinds[start] else DONT_CARE
        chunks.append(struct.pack("<HHII", kind, 0, end - start, 12 + len(data)) + data)
    header = struct.pack("<IHHHHIIII", 0xED26FF3A, 1, 0, 28, 12, block, count, len(chunks), 0)
    return header + b"".join(chunks)


@given(
    block=st.sampled_from([1024, 2048, 4096]),
    features=st.sampled_from(FEATURES),
    before=st.integers(0, 30),
    after=st.integers(0, 30),
    number=st.integers(0, 2**128 - 1),
    unit=st.sampled_from([256, 512, 1024]),
    cuts=st.lists(st.integers(0, 10**6), max_size=40),
)
@settings(max_examples=40, deadline=None)
def test_raw_and_sparse_images_of_every_layout_are_stamped_alike(
    block: int, features: str, before: int, after: int, number: int, unit: int, cuts: list[int]
) -> None:
    data = padded(CONF % number, PLACEHOLDER_SIZE)
    with tree(before, after) as root:
        raw = root.with_name("raw")
        options = ["-O", features] if features else []
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-b", str(block), *options, "-d", root, raw,
                        "8M"], check=True, capture_output=True)  # fmt: skip
        with raw.open("rb") as stream:
            location = locate(stream, DEVICE_CONF)
        assert location is not None
        middle = (location.ranges[0].offset + 256) // unit  # a border inside the file itself
        sparse = root.with_name("sparse")
        sparse.write_bytes(packed(raw.read_bytes(), unit, [*cuts, middle]))
        stamped(raw, data)
        stamped(sparse, data)
        assert SparseReader(io.BytesIO(sparse.read_bytes())).read() == raw.read_bytes()
        checked = subprocess.run(["e2fsck", "-fn", raw], capture_output=True, check=False)
        assert checked.returncode == 0, checked.stdout


@given(
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    before=st.integers(0, 10),
    after=st.integers(0, 10),
    number=st.integers(0, 2**128 - 1),
    xattrs=st.booleans(),
    twice=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_archives_of_every_format_are_stamped(
    form: int, before: int, after: int, number: int, xattrs: bool, twice: bool
) -> None:
    data = padded(CONF % number, PLACEHOLDER_SIZE)
    with tree(before, after) as root:
        path = root.with_name("tar")
        with tarfile.open(path, "w", format=form) as archive:
            for _ in range(1 + twice):
                archive.add(root, ".", filter=lambda member: _with_xattrs(member, form, xattrs))
        stamped(path, data)
        out = root.with_name("out")
        out.mkdir()
        subprocess.run(["tar", "--no-same-owner", "-xpf", path, "-C", out], check=True,
                       capture_output=True)  # fmt: skip
        assert (out / DEVICE_CONF).read_bytes() == data


def _with_xattrs(member: tarfile.TarInfo, form: int, xattrs: bool) -> tarfile.TarInfo:
    if xattrs and form == tarfile.PAX_FORMAT:
        member.pax_headers = {"SCHILY.xattr.user.azaion": "kept"}
    return member
