"""Android sparse images: every layout reads as the raw image that it stands for, lies do not."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_making import (
    CRC32,
    DONT_CARE,
    FILL,
    RAW,
    Chunk,
    Counted,
    SparseLayout,
    changed,
    mke2fs,
    noise,
    sparse,
    with_holes,
)
from thorough import one_of, thorough

from azaion_imagebuild.images import CorruptImage, image_format, open_filesystem
from azaion_imagebuild.images.ext4 import Ext4
from azaion_imagebuild.images.magic import format_by_magic
from azaion_imagebuild.images.sparse import SparseReader
from azaion_imagebuild.images.stream import read_exactly
from azaion_imagebuild.model import DEVICE_CONF

LARGEST = 256 * 1024


@st.composite
def layouts(draw: st.DrawFn) -> SparseLayout:
    """Draw a sparse image of up to 256 KiB when it is expanded."""
    block = draw(st.sampled_from([4, 8, 12, 512, 1020, 1024, 4096, 65536]))
    kinds = draw(st.lists(st.sampled_from([RAW, RAW, FILL, DONT_CARE, CRC32]), max_size=12))
    chunks = []
    room = LARGEST // block
    for number, kind in enumerate(kinds):
        if kind != CRC32 and not room:
            continue
        blocks = 0 if kind == CRC32 else draw(st.integers(1, min(room, 20)))
        room -= blocks
        size = {RAW: blocks * block, FILL: 4, CRC32: 4, DONT_CARE: 0}[kind]
        chunks.append(Chunk(kind, blocks, noise(number, size)))
    return SparseLayout(
        block=block,
        chunks=tuple(chunks),
        header=draw(st.integers(28, 60)),
        chunk_header=draw(st.integers(12, 40)),
    )


STEPS = st.lists(
    st.tuples(
        st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]),
        st.integers(-LARGEST, LARGEST),
        st.integers(-1, LARGEST),
    ),
    max_size=12,
)


@given(layout=layouts(), steps=STEPS)
@settings(max_examples=200, deadline=None)
def test_every_layout_reads_as_the_image_it_stands_for(
    layout: SparseLayout, steps: list[tuple[int, int, int]]
) -> None:
    expected = layout.expanded()
    reader = SparseReader(io.BytesIO(layout.packed()))
    assert reader.size == len(expected)
    assert reader.read() == expected
    twin = io.BytesIO(expected)
    twin.seek(0, os.SEEK_END)
    for whence, offset, size in steps:
        go = abs(offset) if whence == os.SEEK_SET else offset
        assert reader.seek(go, whence) == twin.seek(go, whence)
        assert reader.read(size) == twin.read(size)
        assert reader.tell() == twin.tell()


LAYOUT = SparseLayout(
    block=4096,
    chunks=(
        Chunk(RAW, 2, noise("first", 8192)),
        Chunk(DONT_CARE, 3),
        Chunk(FILL, 4, b"\x01\x02\x03\x04"),
        Chunk(CRC32, 0, b"\0\0\0\0"),
        Chunk(RAW, 1, noise("last", 4096)),
    ),
)
SPARSE = LAYOUT.packed()
CHUNK_AT = (28, 28 + 12 + 8192, 28 + 24 + 8192, 28 + 40 + 8192, 28 + 56 + 8192)


def refused(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptImage, match=reason):
        SparseReader(io.BytesIO(data))


@pytest.mark.parametrize(
    ("offset", "kind", "number", "reason"),
    [
        (0, "I", 0xED26FF3B, "no header"),
        (4, "H", 2, "no header"),
        (4, "H", 0, "no header"),
        (8, "H", 27, "no header"),
        (8, "H", 0, "no header"),
        (8, "H", 32, "unknown kind|cut short"),
        (8, "H", 65535, "cut short"),
        (10, "H", 11, "no header"),
        (10, "H", 0, "no header"),
        (10, "H", 16, "size it cannot have"),
        (12, "I", 0, "blocks of 0 bytes"),
        (12, "I", 4094, "blocks of 4094 bytes"),
        (12, "I", 1024, "size it cannot have"),
        (12, "I", 0xFFFFFFFC, "size it cannot have"),
        (16, "I", 0, "reaches beyond"),
        (16, "I", 9, "reaches beyond"),
        (16, "I", 11, "hold 10 of 11"),
        (16, "I", 0xFFFFFFFF, "hold 10 of 4294967295"),
        (20, "I", 0, "hold 0 of 10"),
        (20, "I", 4, "hold 9 of 10"),
        (20, "I", 6, "no chunk 5"),
        (20, "I", 2_000_001, "more than there can be"),
        (20, "I", 0xFFFFFFFF, "more than there can be"),
    ],
)
def test_a_file_header_that_lies_is_refused(
    offset: int, kind: str, number: int, reason: str
) -> None:
    refused(changed(SPARSE, (offset, kind, number)), reason)


@pytest.mark.parametrize("chunk", range(5))
@pytest.mark.parametrize(
    ("offset", "kind", "number", "reason"),
    [
        (0, "H", 0xCAC0, "unknown kind 0xcac0"),
        (0, "H", 0xCAC5, "unknown kind 0xcac5"),
        (8, "I", 0, "size it cannot have"),
        (8, "I", 13, "size it cannot have"),
        (8, "I", 0xFFFFFFFF, "size it cannot have"),
    ],
)
def test_a_chunk_header_that_lies_is_refused(
    chunk: int, offset: int, kind: str, number: int, reason: str
) -> None:
    refused(changed(SPARSE, (CHUNK_AT[chunk] + offset, kind, number)), reason)


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize(
    ("blocks", "reason"), [(0, "is empty"), (8, "reaches beyond"), (0xFFFFFFFF, "reaches beyond")]
)
def test_a_chunk_without_data_cannot_be_of_any_length(chunk: int, blocks: int, reason: str) -> None:
    refused(changed(SPARSE, (CHUNK_AT[chunk] + 4, "I", blocks)), reason)


@given(length=st.integers(0, len(SPARSE) - 1))
@settings(max_examples=50, deadline=None)
def test_a_file_cut_short_is_refused(length: int) -> None:
    refused(SPARSE[:length], "cut short|more than there can be")


def test_a_file_that_shrinks_while_it_is_read_is_refused() -> None:
    stream = io.BytesIO(SPARSE)
    reader = SparseReader(stream)
    stream.truncate(4096)
    with pytest.raises(CorruptImage, match="cut short"):
        reader.read()


@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from([0, *CHUNK_AT]),
            st.integers(0, 27),
            st.sampled_from("BHI"),
            st.sampled_from([0, 1, 4, 12, 28, 0xCAC1, 0xCAC2, 0xCAC3, 0xCAC4, 4096, 0xFFFFFFFF])
            | st.integers(0, 2**32 - 1),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=300, deadline=None)
def test_no_damage_misleads_the_reader(changes: list[tuple[int, int, str, int]]) -> None:
    data = SPARSE
    for start, step, kind, number in changes:
        width = struct.calcsize(kind)
        at = start + step // width * width
        data = changed(data, (min(at, len(data) - width), kind, number & (256**width - 1)))
    stream = Counted(io.BytesIO(data))
    try:
        reader = SparseReader(stream)
        head = read_exactly(reader, 0, min(reader.size, 50_000), "head")
        tail = read_exactly(reader, max(0, reader.size - 50_000), min(reader.size, 50_000), "tail")
    except CorruptImage:
        return
    finally:
        assert stream.reads < 100
        assert stream.bytes_read < 300_000
    assert len(head) == len(tail) == min(reader.size, 50_000)


@given(seed=st.integers(0, 2**32), kept=st.integers(4, 28))
@settings(max_examples=50, deadline=None)
def test_no_noise_behind_the_magic_number_misleads_the_reader(seed: int, kept: int) -> None:
    stream = Counted(io.BytesIO(SPARSE[:kept] + noise(seed, 20_000)))
    with pytest.raises(CorruptImage):
        SparseReader(stream)
    assert stream.reads < 10


class Vast(io.BytesIO):
    """A stream that says it is a terabyte long, and has an empty chunk wherever one looks."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return 2**40 if whence == os.SEEK_END else super().seek(min(offset, 28), whence)


def test_more_chunks_than_an_image_can_have_are_refused_before_they_are_read() -> None:
    header = SparseLayout(block=4096, chunks=(Chunk(DONT_CARE, 0),)).packed()
    stream = Counted(Vast(changed(header, (20, "I", 2_000_001))))
    with pytest.raises(CorruptImage, match="counts 2000001 chunks"):
        SparseReader(stream)
    assert stream.reads == 1


@thorough
def test_an_index_of_100_000_chunks_takes_16_bytes_for_each() -> None:
    chunks = (Chunk(RAW, 1, b"data"), Chunk(FILL, 1, b"fill")) * 50_000
    stream = io.BytesIO(SparseLayout(block=4, chunks=chunks).packed())
    tracemalloc.start()
    try:
        reader = SparseReader(stream)
        size, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 1.2 * 16 * len(chunks)
    assert peak < 3 * 16 * len(chunks)
    assert read_exactly(reader, 4 * 99_998, 8, "last blocks") == b"datafill"


def test_an_image_larger_than_any_disk_reads_as_what_it_says() -> None:
    chunks = (Chunk(DONT_CARE, 2**32 - 2), Chunk(FILL, 1, b"last"))
    layout = SparseLayout(block=2**31, chunks=chunks)
    reader = SparseReader(io.BytesIO(layout.packed()))
    assert reader.seek(0, os.SEEK_END) == (2**32 - 1) * 2**31
    assert read_exactly(reader, reader.size - 2**31 - 4, 8, "seam") == b"\0\0\0\0last"
    assert read_exactly(reader, reader.size - 3, 3, "end") == b"ast"


def test_a_position_before_the_start_is_the_start_and_past_the_end_there_is_nothing() -> None:
    reader = SparseReader(io.BytesIO(SPARSE))
    assert reader.seek(-1, os.SEEK_CUR) == 0
    assert reader.seek(10**6) == 10**6
    assert reader.read(1) == b""
    assert reader.readable()
    assert reader.seekable()
    assert not reader.writable()
    with pytest.raises(ValueError, match="whence"):
        reader.seek(0, 9)


def test_an_image_is_told_by_its_magic_number() -> None:
    assert format_by_magic(io.BytesIO(SPARSE)) == "sparse"
    assert image_format(io.BytesIO(SPARSE)) == "sparse"
    for data in (b"", SPARSE[:3], bytes(5000)):
        assert format_by_magic(io.BytesIO(data)) != "sparse"
        with pytest.raises(CorruptImage):
            open_filesystem(io.BytesIO(data))


@pytest.mark.parametrize("block", one_of([1024, 4096]))
@pytest.mark.parametrize("packing", one_of([512, 4096, 65536]))
def test_files_read_the_same_out_of_the_sparse_image_and_the_raw_one(
    tmp_path: Path, block: int, packing: int
) -> None:
    files = tmp_path / "files"
    (files / "etc/azaion").mkdir(parents=True)
    (files / DEVICE_CONF).write_bytes(noise("conf", 3000))
    (files / "zeros").write_bytes(bytes(100_000))
    (files / "repeated").write_bytes(b"word" * 30_000)
    with_holes(files / "holes", 2_000_000, [(5000, 10), (70_000, 90_000), (1_900_000, 70_000)])
    raw = mke2fs(tmp_path / "image", f"-t ext4 -b {block}", "8M", files).read_bytes()
    packed = sparse(raw, packing)
    assert len(packed) < len(raw) // 4
    assert read_exactly(SparseReader(io.BytesIO(packed)), 0, len(raw), "image") == raw
    of_raw = Ext4(io.BytesIO(raw))
    of_sparse = open_filesystem(io.BytesIO(packed))
    for path in (DEVICE_CONF, "zeros", "repeated", "holes"):
        entry = of_sparse.read_file(path, 2_000_000)
        assert entry == of_raw.read_file(path, 2_000_000)
        assert entry is not None
        assert entry.data == (files / path).read_bytes()
