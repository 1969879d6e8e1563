"""Images as files on a disk: huge ones with holes, and those that other tools pack and unpack."""

from __future__ import annotations

import io
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_making import (
    CRC32,
    DONT_CARE,
    FILL,
    RAW,
    Chunk,
    SparseLayout,
    call,
    mke2fs,
    noise,
    with_holes,
)
from thorough import one_of

from azaion_imagebuild import images
from azaion_imagebuild.errors import VerificationError
from azaion_imagebuild.images import open_filesystem
from azaion_imagebuild.images.ext4 import Ext4
from azaion_imagebuild.images.sparse import SparseReader
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox.bsp import TREE

CONF = b"AZAION_DEVICE_EMAIL=azaion-jetson-0042@azaion.com\nAZAION_DEVICE_PASSWORD=0123\n"
MIB = 1024 * 1024
HUGE = "64G"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "etc/azaion").mkdir(parents=True)
    (folder / DEVICE_CONF).write_bytes(CONF)
    (folder / DEVICE_CONF).chmod(0o600)
    (folder / "words").write_bytes(b"word" * 50_000)
    with_holes(folder / "holes", 3_000_000, [(5000, 10), (70_000, 90_000), (2_900_000, 70_000)])
    return folder


@pytest.fixture
def raw(tmp_path: Path, files: Path) -> Path:
    return mke2fs(tmp_path / "raw", "-t ext4 -b 4096", "32M", files)


def peak_of(action: Callable[[], object]) -> int:
    """Return how many bytes Python held at most during ``action``."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def mksparse(raw: Path, packed: Path) -> Path:
    call(sys.executable, TREE / "bootloader/mksparse", "--fillpattern=0", raw, packed)
    return packed


def test_a_file_in_an_image_of_64_gib_is_read_in_little_memory(tmp_path: Path, files: Path) -> None:
    lazily = "-E lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    raw = mke2fs(tmp_path / "raw", f"-t ext4 -b 4096 {lazily}", HUGE, files)
    assert raw.stat().st_size == 64 * 1024 * MIB
    packed = mksparse(raw, tmp_path / "packed")

    def read_both() -> None:
        for image, kind in ((raw, "ext4"), (packed, "sparse")):
            assert images.format_of(image) == kind
            entry = images.read_file(image, DEVICE_CONF, 65536)
            assert entry is not None
            assert (entry.data, entry.mode) == (CONF, 0o600)

    assert peak_of(read_both) < 8 * MIB


def test_what_the_reference_mksparse_packed_reads_as_it_was(raw: Path, tmp_path: Path) -> None:
    packed = mksparse(raw, tmp_path / "packed")
    assert packed.stat().st_size < raw.stat().st_size // 4
    with packed.open("rb", buffering=0) as stream:
        assert SparseReader(stream).read() == raw.read_bytes()


needs_libsparse = pytest.mark.skipif(
    shutil.which("img2simg") is None or shutil.which("simg2img") is None,
    reason="needs the Debian package android-sdk-libsparse-utils",
)


@needs_libsparse
@pytest.mark.parametrize("block", one_of([4096, 1024, 65536]))
def test_what_img2simg_packed_reads_as_it_was(raw: Path, tmp_path: Path, block: int) -> None:
    packed = tmp_path / "packed"
    call("img2simg", raw, packed, block)
    assert packed.stat().st_size < raw.stat().st_size // 4
    with packed.open("rb") as stream, raw.open("rb") as twin:
        reader = SparseReader(stream)
        assert reader.block_size == block
        assert reader.read() == twin.read()
        for path in (DEVICE_CONF, "words", "holes"):
            entry = open_filesystem(stream).read_file(path, 4 * MIB)
            assert entry is not None
            assert entry == Ext4(twin).read_file(path, 4 * MIB)


@needs_libsparse
@given(
    block=st.sampled_from([1024, 4096, 8192]),
    kinds=st.lists(st.tuples(st.sampled_from([RAW, FILL, DONT_CARE]), st.integers(1, 9))),
    header=st.integers(28, 60),
    chunk_header=st.integers(12, 40),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_simg2img_expands_a_layout_to_what_the_reader_sees(
    tmp_path: Path, block: int, kinds: list[tuple[int, int]], header: int, chunk_header: int
) -> None:
    sizes = {RAW: block, FILL: 0, DONT_CARE: 0}
    chunks = [
        Chunk(kind, blocks, b"fill" if kind == FILL else noise(blocks, sizes[kind] * blocks))
        for kind, blocks in kinds
    ]
    layout = SparseLayout(
        block=block,
        chunks=(*chunks, Chunk(CRC32, 0, bytes(4)), Chunk(RAW, 1, noise("last", block))),
        header=header,
        chunk_header=chunk_header,
    )
    packed, raw = tmp_path / "packed", tmp_path / "expanded"
    packed.write_bytes(layout.packed())
    call("simg2img", packed, raw)
    assert SparseReader(io.BytesIO(layout.packed())).read() == raw.read_bytes()


def test_an_image_that_cannot_be_used_is_named_to_the_operator(raw: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.img"
    cut.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(VerificationError, match=r"cut\.img is not a usable .* cut short") as caught:
        images.read_file(cut, DEVICE_CONF, 65536)
    assert "do not flash it" in caught.value.hint
    with pytest.raises(VerificationError, match=r"cannot read the image .*nowhere") as caught:
        images.format_of(tmp_path / "nowhere")
    assert "permissions" in caught.value.hint
