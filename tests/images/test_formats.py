"""Which format a file is: one, or it is refused."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import subprocess
import tarfile
import zipfile
from itertools import combinations
from pathlib import Path
from typing import BinaryIO

import pytest
from image_making import RAW, Chunk, SparseLayout, call, mke2fs
from thorough import one_of
from world import SERIAL, Run

from azaion_imagebuild.images import CorruptImage, image_format, open_filesystem
from azaion_imagebuild.images import expanded as expansion
from azaion_imagebuild.images.expanded import expanded, first_difference
from azaion_imagebuild.images.sparse import SparseReader
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox.bsp import TREE

MARKS = {
    "ext4": [(1024, struct.pack("<II", 2048, 8192)), (1080, b"\x53\xef")],
    "tar": [(257, b"ustar")],
    "sparse": [(0, b"\x3a\xff\x26\xed")],
    "LUKS": [(0, b"LUKS\xba\xbe")],
    "gzip": [(0, b"\x1f\x8b")],
    "xz": [(0, b"\xfd7zXZ")],
    "zstd": [(0, b"\x28\xb5\x2f\xfd")],
    "GPT": [(512, b"EFI PART")],
}
"""By format: where the bytes are by which everybody knows it."""


def clashes(one: str, other: str) -> bool:
    return MARKS[one][0][0] == MARKS[other][0][0] == 0


TWO = [pair for pair in combinations(MARKS, 2) if not clashes(*pair)]


def marked(data: bytes, *names: str) -> bytes:
    image = bytearray(data)
    for name in names:
        for offset, mark in MARKS[name]:
            image[offset : offset + len(mark)] = mark
    return bytes(image)


_STAMPED: list[bytes] = []  # built once: the sandbox takes its time


@pytest.fixture
def raw(run: Run, tmp_path: Path) -> Path:
    """A stamped raw image, which is proven."""
    image = tmp_path / "app.img"
    if not _STAMPED:
        assert run("base", "--out", tmp_path / "base.img").code == 0
        assert run("stamp", tmp_path / "base.img", "--serial", SERIAL, "--out", image).code == 0
        assert run("verify", image, "--serial", SERIAL).code == 0
        _STAMPED.append(image.read_bytes())
    image.write_bytes(_STAMPED[0])
    return image


def sparse_of(image: Path) -> Path:
    made = image.with_suffix(".simg")
    subprocess.run([TREE / "bootloader/mksparse", "--fillpattern=0", image, made], check=True)
    return made


@pytest.mark.parametrize("pair", TWO, ids="+".join)
def test_a_file_with_the_magic_of_two_formats_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(CorruptImage, match="magic numbers of 2 formats"):
        image_format(io.BytesIO(marked(bytes(65536), *pair)))


@pytest.mark.parametrize("other", one_of([name for name in MARKS if name != "ext4"]))
def test_a_proven_image_with_a_second_magic_is_neither_proven_nor_stamped(
    run: Run, raw: Path, other: str
) -> None:
    raw.write_bytes(marked(raw.read_bytes(), other))
    before = raw.read_bytes()
    for image in (raw, sparse_of(raw)):
        assert run("verify", image, "--serial", SERIAL).code == 8
        assert run("stamp", image, "--serial", SERIAL).code == 8
    assert raw.read_bytes() == before


FRONTS = {
    "squashfs": (0, b"hsqs"),
    "tar without a magic number": (0, b"etc/azaion/device.conf"),
    "FAT": (54, b"FAT16   "),
    "partition table": (446, b"\x80\0\0\0\x83\0\0\0\0\x08\0\0\0\x10\0\0"),
    "LVM": (512, b"LABELONE"),
    "its last byte": (1023, b"\1"),
}


@pytest.mark.parametrize("front", one_of(FRONTS))
def test_an_image_with_anything_in_front_of_its_superblock_is_refused(
    run: Run, raw: Path, front: str
) -> None:
    offset, data = FRONTS[front]
    before = raw.read_bytes()
    raw.write_bytes(before[:offset] + data + before[offset + len(data) :])
    for image in (raw, sparse_of(raw)):
        for command in ("verify", "stamp"):
            ran = run(command, image, "--serial", SERIAL)
            assert (ran.code, "which ext4 leaves free, are not empty" in ran.err) == (8, True)


def test_an_image_that_hides_another_device_behind_a_tar_is_refused(run: Run, raw: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    raw.write_bytes(packed.getvalue()[:512] + raw.read_bytes()[512:])
    call("debugfs", "-R", f"cat /{DEVICE_CONF}", raw)  # for the kernel it is a filesystem still
    refused = run("verify", raw, "--serial", SERIAL)
    assert (refused.code, "(tar, ext4)" in refused.err) == (8, True)


def test_free_inodes_that_look_like_a_magic_are_none() -> None:
    image = bytearray(8192)  # a sparse file's byte 1080 is the count of free inodes
    image[:4], image[1080:1082] = MARKS["sparse"][0][1], b"\x53\xef"
    assert image_format(io.BytesIO(bytes(image))) == "sparse"


@pytest.mark.parametrize(
    "kind", one_of(["GPT", "GPT of 4 KiB sectors", "MBR", "gzip", "xz", "zip", "qcow2"])
)
def test_what_holds_an_image_is_named_with_what_to_give_instead(
    run: Run, raw: Path, tmp_path: Path, kind: str
) -> None:
    image, data = tmp_path / "given", raw.read_bytes()
    if kind == "zip":
        with zipfile.ZipFile(image, "w") as archive:
            archive.writestr("app.img", data)
    elif kind == "qcow2":
        image.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(1 << 16))
    elif kind in ("gzip", "xz"):
        image.write_bytes(gzip.compress(data, 1) if kind == "gzip" else lzma.compress(data))
    elif kind == "MBR":
        entry = b"\0\0\0\0\x83\0\0\0" + struct.pack("<II", 2048, 8192)
        image.write_bytes((bytes(446) + entry + bytes(48) + b"\x55\xaa").ljust(1 << 20) + data)
    else:
        sector = 512 if kind == "GPT" else 4096
        image.write_bytes((bytes(sector) + b"EFI PART").ljust(1 << 20, b"\0") + data)
    advice = {"GPT": "APP partition", "MBR": "APP partition", "qco": "qemu-img convert"}
    words = advice.get(kind[:3], "unpack it first")
    for argv in (("verify", image), ("stamp", image, "--out", "other.img")):
        ran = run(*argv, "--serial", SERIAL)
        assert (ran.code, words in ran.err, "build it again" in ran.err) == (8, True, False), (
            ran.err
        )


def test_a_disk_image_without_any_magic_gets_the_same_advice(run: Run, raw: Path) -> None:
    raw.write_bytes(bytes(1 << 20) + raw.read_bytes())
    ran = run("verify", raw, "--serial", SERIAL)
    assert (ran.code, "APP partition" in ran.err) == (8, True)


def test_the_image_of_a_device_that_lost_power_is_not_to_be_built_again(
    run: Run, raw: Path
) -> None:
    call("debugfs", "-w", "-R", "features needs_recovery", raw)
    for image in (raw, sparse_of(raw)):
        for argv in (("verify", image), ("stamp", image)):
            ran = run(*argv, "--serial", SERIAL)
            assert (ran.code, "e2fsck" in ran.err) == (8, True), ran.err
            assert "boot the device once" in ran.err
            assert "build it again" not in ran.err


# The sparse twin is what is flashed.


@pytest.mark.parametrize("seed", one_of(range(8)))
def test_a_sparse_image_gets_the_same_proof_as_the_raw_one(run: Run, raw: Path, seed: int) -> None:
    found = call("debugfs", "-R", "blocks /etc", raw).splitlines()[-1].split()[0]
    data = bytearray(raw.read_bytes())
    data[int(found) * 4096 + 4096 - 1 - seed % 4] ^= 1 << seed  # the directory's checksum
    raw.write_bytes(data)
    assert call("e2fsck", "-fn", raw, fine=range(1, 256))
    codes = [run("verify", image, "--serial", SERIAL).code for image in (raw, sparse_of(raw))]
    assert codes == [8, 8]


def test_a_sound_sparse_image_is_proven_and_nothing_is_left_beside_it(
    run: Run, raw: Path, tmp_path: Path
) -> None:
    sparse = sparse_of(raw)
    before = sorted(tmp_path.iterdir())
    assert run("verify", sparse, "--serial", SERIAL).code == 0
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "offset", one_of([0, 1, 511, 70000, (1 << 20) - 1, 1 << 20, (1 << 20) + 7, -1], kept=6)
)
def test_a_twin_differs_from_the_raw_image_at_any_byte(raw: Path, offset: int) -> None:
    sparse = sparse_of(raw)
    assert first_difference(sparse, raw) is None
    with expanded(sparse) as whole:
        assert whole.read_bytes() == raw.read_bytes()
    data = bytearray(raw.read_bytes())
    offset %= len(data)
    data[offset] ^= 0xFF
    raw.write_bytes(data)
    assert first_difference(sparse, raw) == offset


@pytest.mark.parametrize("data", [bytes(3 << 20), b"x" + bytes((3 << 20) - 1), b"x\0" * (1 << 20)])
def test_zeros_that_a_sparse_image_carries_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    path = tmp_path / "zeros.img"
    chunk = Chunk(RAW, len(data) // 4096, data)
    path.write_bytes(SparseLayout(block=4096, chunks=(chunk,)).packed())
    reads: list[int] = []
    read = expansion._read

    def counted(stream: SparseReader | BinaryIO, position: int) -> bytes:
        reads.append(position)
        return read(stream, position)

    monkeypatch.setattr(expansion, "_read", counted)
    with expanded(path) as whole:
        assert whole.read_bytes() == data
    assert len(reads) <= -(-len(data) // (1 << 20))


# What the kernel would refuse.

INODE_FLAGS = {"VERITY": 0x100000, "EA_INODE": 0x200000, "encrypted": 0x800, "unknown": 0x80000000}


@pytest.mark.parametrize("flag", INODE_FLAGS)
def test_an_inode_with_a_flag_that_changes_how_it_is_read_is_refused(raw: Path, flag: str) -> None:
    call("debugfs", "-w", "-R", f"sif /{DEVICE_CONF} flags {0x80000 | INODE_FLAGS[flag]:#x}", raw)
    with raw.open("rb") as stream, pytest.raises(CorruptImage, match="supported"):
        open_filesystem(stream).read_file(DEVICE_CONF, 4096)


@pytest.mark.parametrize(
    ("field", "value"),
    one_of([
        ("creator_os", 1), ("creator_os", 3), ("min_extra_isize", 9000),
        ("want_extra_isize", 9000), ("log_cluster_size", 5), ("first_ino", 3),
        ("feature_ro_compat", 0x80000000), ("feature_incompat", 0x80000000),
        ("feature_incompat", 0x242),
    ]),
)  # fmt: skip
def test_a_superblock_that_the_kernel_refuses_is_refused(raw: Path, field: str, value: int) -> None:
    call("debugfs", "-w", "-R", f"ssv {field} {value}", raw)
    with raw.open("rb") as stream, pytest.raises(CorruptImage):
        open_filesystem(stream).read_file(DEVICE_CONF, 4096)


@pytest.mark.parametrize("version", [6, 255])
def test_a_superblock_with_an_unknown_hash_of_names_is_refused(raw: Path, version: int) -> None:
    with raw.open("r+b") as stream:
        stream.seek(1024 + 252)
        stream.write(bytes([version]))
        with pytest.raises(CorruptImage, match="unknown hash version"):
            open_filesystem(stream)


def test_a_journal_on_another_device_is_refused(tmp_path: Path) -> None:
    image = mke2fs(tmp_path / "image", "-t ext4", "16M")
    with image.open("rb") as stream:
        assert open_filesystem(stream).read_file(DEVICE_CONF, 4096) is None
    call("debugfs", "-w", "-R", "ssv journal_dev 0x801", image)
    with image.open("rb") as stream, pytest.raises(CorruptImage, match="journal"):
        open_filesystem(stream)
