"""Images that are packed by zstd: read by streaming, and refused where the device would fail."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_making import call, mke2fs, noise
from thorough import one_of
from world import SERIAL, Run

from azaion_imagebuild import images
from azaion_imagebuild.errors import VerificationError
from azaion_imagebuild.images import CorruptImage, image_format, open_filesystem
from azaion_imagebuild.images.scratch import Scratch
from azaion_imagebuild.images.zstd import (
    LARGEST,
    Unpacked,
    frame_header,
    largest_for,
    library,
    stored_at,
    stored_frame,
)
from azaion_imagebuild.model import DEVICE_CONF, FileEntry

zstd: Any = library()
FUZZER = Path(__file__).parents[2] / "fuzz/fuzz_zstd.py"
OPTION = zstd.CompressionParameter
SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"hello"
CONF = b"AZAION_DEVICE_EMAIL=azaion-jetson-0042@azaion.com\nAZAION_DEVICE_PASSWORD=%032x\n" % 7
needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")


def tar_of(*files: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files:
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode, member.uid, member.gid = len(data), 0o600, 990, 990
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


ARCHIVE = tar_of(
    ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
    ("usr/large", noise("large", 300_000) + bytes(2_000_000)),
    (DEVICE_CONF, b"an earlier one"),
    ("usr/other", b"text " * 100_000),
    (DEVICE_CONF, CONF),
    ("etc/group", b"root:x:0:\n"),
)


def packed(data: bytes = ARCHIVE, **options: int) -> bytes:
    """Pack as zstd's command does: with a checksum, and without the size."""
    chosen = {"checksum_flag": 1, "compression_level": 3} | options
    packer = zstd.ZstdCompressor(options={getattr(OPTION, key): chosen[key] for key in chosen})
    return bytes(packer.compress(data) + packer.flush())


def in_frames(data: bytes, size: int) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(packed(part) for part in parts)


def stored(data: bytes) -> bytes:
    return b"".join(stored_frame(data[at : at + 65536]) for at in range(0, len(data), 65536))


PACKED: dict[str, Callable[[], bytes]] = {
    "one frame": packed,
    "with its size": lambda: bytes(zstd.compress(ARCHIVE)),
    "several workers": lambda: packed(nb_workers=2, job_size=524288),
    "many frames": lambda: in_frames(ARCHIVE, 100_000),
    "frames that end anywhere": lambda: in_frames(ARCHIVE, 99_991),
    "skippable frames": lambda: in_frames(ARCHIVE, 999_999) + SKIPPABLE * 3,
    "a skippable frame between": lambda: (
        packed(ARCHIVE[:5000]) + SKIPPABLE + packed(ARCHIVE[5000:])
    ),
    "an empty frame": lambda: packed(ARCHIVE[:5000]) + packed(b"") + packed(ARCHIVE[5000:]),
    "stored": lambda: stored(ARCHIVE),
    "fast": lambda: packed(compression_level=-5),
    "long distance": lambda: packed(enable_long_distance_matching=1, window_log=27),
}


def read(data: bytes, path: str = DEVICE_CONF) -> FileEntry | None:
    return open_filesystem(io.BytesIO(data)).read_file(path, 65536)


@pytest.mark.parametrize("how", PACKED)
def test_a_packed_archive_reads_like_the_plain_one(how: str) -> None:
    data = PACKED[how]()
    assert image_format(io.BytesIO(data)) == "tar.zst"
    plain, found = (open_filesystem(io.BytesIO(each)) for each in (ARCHIVE, data))
    assert [*found.entries()] == [*plain.entries()]
    for path in (DEVICE_CONF, "etc/passwd", "etc/group", "usr/other", "etc/nowhere"):
        assert found.read_file(path, 1 << 20) == plain.read_file(path, 1 << 20)
    stream = Unpacked(io.BytesIO(data))
    assert stream.seek(0, 2) == len(ARCHIVE)
    for offset in (len(ARCHIVE) - 9, 2_000_000, 1_999_000, 0):  # back a little, and back to start
        stream.seek(offset)
        assert stream.read(9) == ARCHIVE[offset : offset + 9]


@needs_zstd
@pytest.mark.parametrize("options", [["-T0"], ["-1"], ["-19"], ["--no-check"], ["--fast=9"]])
def test_what_the_hosts_zstd_packs_is_read(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(ARCHIVE)
    call("zstd", "-q", *options, tmp_path / "a", "-o", tmp_path / "b")
    found = read((tmp_path / "b").read_bytes())
    assert found == FileEntry(data=CONF, mode=0o600, uid=990, gid=990)


def test_one_pass_serves_the_files_that_are_often_read(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    opens = Unpacked._start_again

    def counted(self: Unpacked) -> None:
        begun.append(1)
        opens(self)

    monkeypatch.setattr(Unpacked, "_start_again", counted)
    found = open_filesystem(io.BytesIO(PACKED["one frame"]()))
    opened = len(begun)
    for path in (DEVICE_CONF, "etc/passwd", "etc/group", DEVICE_CONF):
        found.read_file(path, 65536)
    assert len(begun) - opened <= 1


@pytest.mark.parametrize("how", ["one frame", "many frames", "stored"])
def test_an_archive_that_is_cut_short_anywhere_is_refused(how: str) -> None:
    data = PACKED[how]()
    places = {*range(1, 40), *range(len(data) - 40, len(data)), *range(0, len(data), 5003)} - {0}
    for size in places:
        with pytest.raises(CorruptImage):
            read(data[:size])


def test_a_changed_bit_is_found_or_changes_nothing() -> None:
    data = packed()
    for place in range(0, len(data), len(data) // 150):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        try:
            found = read(bytes(changed))
        except CorruptImage:
            continue
        assert found == read(data)


@pytest.mark.parametrize("behind", [b"\0", bytes(512), b"garbage", b"\x28\xb5\x2f", SKIPPABLE[:-1],
                                    SKIPPABLE[:6], b"\x27\xb5\x2f\xfd\0\0\0\0"])  # fmt: skip
def test_what_is_no_frame_behind_the_last_one_is_refused(behind: bytes) -> None:
    for data in (packed(), stored(ARCHIVE)):
        with pytest.raises(CorruptImage):
            read(data + behind)
        with pytest.raises(CorruptImage):
            read(data + behind + data)


def test_garbage_behind_is_refused_by_zstd_too(tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    (tmp_path / "a").write_bytes(packed() + b"garbage!")
    done = subprocess.run(["zstd", "-dqc", tmp_path / "a"], capture_output=True, check=False)
    assert done.returncode != 0


def test_a_window_that_zstd_does_not_take_is_refused_with_what_to_do() -> None:
    data = packed(window_log=28, enable_long_distance_matching=1)
    assert frame_header(data).window == 1 << 28
    with pytest.raises(CorruptImage, match="takes a window of 268435456 bytes") as raised:
        image_format(io.BytesIO(data))
    assert "--long" in str(raised.value.hint)


def test_an_archive_that_needs_a_dictionary_is_refused_with_what_to_do() -> None:
    words = [b"some words of a device %d" % number for number in range(2000)]
    dictionary = zstd.train_dict(words, 4096)
    data = zstd.compress(ARCHIVE, zstd_dict=dictionary)
    with pytest.raises(CorruptImage, match=f"the dictionary {dictionary.dict_id}") as raised:
        image_format(io.BytesIO(data))
    assert "without a dictionary" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("inner", "what"),
    [(packed(), "a zstd image"), (gzip.compress(ARCHIVE), "gzip"), (b"", "nothing"),
     (b"text" * 9999, "nothing"), (b"\x3a\xff\x26\xed" + bytes(9999), "a sparse image")],
)  # fmt: skip
def test_what_the_device_would_not_unpack_to_an_image_is_refused(inner: bytes, what: str) -> None:
    with pytest.raises(CorruptImage, match=what):
        image_format(io.BytesIO(packed(inner)))


def test_two_bytes_of_packed_data_that_look_like_ext4_are_no_second_format() -> None:
    data = bytearray(stored(tar_of(("usr/noise", noise("by chance", 60_000)))))
    data[1080:1082] = b"\x53\xef"
    assert image_format(io.BytesIO(bytes(data))) == "tar.zst"


def test_the_header_of_a_frame_says_what_zstd_says() -> None:
    for size in (0, 1, 255, 256, 300, 65535, 65536, 70_000, 10_000_000):
        header = frame_header(zstd.compress(bytes(size))[:32])
        assert (header.size, header.dictionary) == (size, 0)
    streamed = frame_header(packed())
    assert (streamed.size, streamed.checksum, streamed.window) == (None, True, 1 << 21)


@pytest.mark.parametrize("size", [1, 2, 512, 65536, 131072])
def test_a_stored_frame_is_one_that_zstd_reads_and_its_bytes_lie_where_it_says(size: int) -> None:
    data = noise(size, size)
    frame = stored_frame(data)
    assert zstd.decompress(frame) == data
    at = stored_at(frame[:32], size - 1, 1)
    assert at is not None
    assert frame[at:] == data[-1:]
    assert stored_at(frame[:32], size, 1) is None
    assert stored_at(zstd.compress(b"one" * 999), 0, 1) is None
    assert stored_at(packed(noise(1, 900)), 0, 1) is None  # a checksum is in it


def test_a_stored_frame_takes_no_more_than_a_block() -> None:
    for size in (0, 131073):
        with pytest.raises(ValueError, match="bytes in one zstd block"):
            stored_frame(bytes(size))


def bomb(size: int) -> bytes:
    frame = packed(bytes(1 << 26), compression_level=1)
    return frame * (size >> 26)


def test_a_bomb_is_refused_at_the_bound_and_in_little_memory() -> None:
    data = packed(ARCHIVE[:-10240]) + bomb(1 << 34)
    stream = io.BytesIO(data)
    tracemalloc.start()
    with pytest.raises(CorruptImage, match="unpacks to more than 300000000 bytes"):
        Unpacked(stream, 300_000_000).drain()
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 12 << 20
    with pytest.raises(CorruptImage, match="unpacks to more than"):
        open_filesystem(stream, 200_000_000).read_file("a", 9)


def test_many_files_of_one_name_take_the_memory_of_one() -> None:
    archive = tar_of(*[(DEVICE_CONF, bytes(1 << 20))] * 40)
    data = packed(archive)
    tracemalloc.start()
    read_back = open_filesystem(io.BytesIO(data)).read_file(DEVICE_CONF, 1 << 20)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read_back is not None
    assert used < 20 << 20


def test_more_frames_than_any_packer_makes_are_refused() -> None:
    with pytest.raises(CorruptImage, match="more than 65536 zstd frames"):
        Unpacked(io.BytesIO(SKIPPABLE * 65537)).drain()


@pytest.mark.parametrize(("size", "bound"), [
    (None, LARGEST), ("all of it", LARGEST), ("1024", 1536 + (1 << 30)), ("2KiB", 3072 + (1 << 30)),
    ("14GiB", (21 << 30) + (1 << 30)),
])  # fmt: skip
def test_the_bound_follows_the_partitions_size(size: str | None, bound: int) -> None:
    assert largest_for(size) == bound


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name, data in {"etc/passwd": b"root:x:0:0::/:\n", DEVICE_CONF: CONF}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return mke2fs(tmp_path / "raw", "-t ext4 -b 4096", "8M", root)


def test_a_packed_raw_image_is_read_and_leaves_no_file(raw: Path, tmp_path: Path) -> None:
    image = tmp_path / "images/system.img.zst"
    image.parent.mkdir()
    image.write_bytes(packed(raw.read_bytes()))
    assert images.format_of(image) == "ext4.zst"
    found = images.read_file(image, DEVICE_CONF, 65536)
    assert found is not None
    assert found.data == CONF
    assert images.superblock(image) == images.superblock(raw)
    assert [*image.parent.iterdir()] == [image]


def test_a_packed_raw_image_that_is_too_large_for_the_partition_is_refused(
    raw: Path, tmp_path: Path
) -> None:
    image = tmp_path / "system.img.zst"
    image.write_bytes(packed(raw.read_bytes()))
    with pytest.raises(VerificationError, match="unpacks to more than 4000000") as raised:
        images.read_file(image, DEVICE_CONF, 65536, 4_000_000)
    assert "[bsp] size" in str(raised.value.hint)


def test_no_room_to_unpack_is_said(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "system.img.zst"
    image.write_bytes(packed(raw.read_bytes()))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Scratch, "write", full)
    with pytest.raises(VerificationError, match="No space left") as raised:
        images.read_file(image, DEVICE_CONF, 65536)
    assert "make room" in str(raised.value.hint)


def test_verify_takes_packed_images_and_finds_what_is_wrong_with_them(
    run: Run, tmp_path: Path
) -> None:
    base, image = tmp_path / "base.img", tmp_path / "app.img"
    assert run("base", "--out", base).code == 0
    assert run("stamp", base, "--serial", SERIAL, "--out", image).code == 0
    root = tmp_path / "root"
    root.mkdir()
    call("debugfs", "-R", f"rdump / {root}", image)
    conf = root / DEVICE_CONF
    conf.chmod(0o600)
    tar = tmp_path / "plain.tar"
    call("tar", "--xattrs", "--numeric-owner", "-cpf", tar, "-C", root, ".")
    for name, content in (("tar.zst", tar), ("ext4.zst", image)):
        target = tmp_path / name
        target.write_bytes(packed(content.read_bytes()))
        seen = run("verify", target, "--serial", SERIAL, "--json")
        assert (seen.code, seen.json["format"]) == (0, name), seen.err
        assert run("verify", target, "--serial", "AZJN-0043").code == 8
        target.write_bytes(target.read_bytes()[:-5])
        assert run("verify", target, "--serial", SERIAL).code == 8
    damaged = bytearray(image.read_bytes())
    damaged[4096 * 20 : 4096 * 40] = bytes(4096 * 20)
    (tmp_path / "ext4.zst").write_bytes(packed(bytes(damaged)))
    assert run("verify", tmp_path / "ext4.zst", "--serial", SERIAL).code == 8


@pytest.mark.parametrize("cases", one_of([400, 5000]))
def test_whatever_the_bytes_there_is_an_answer_or_an_error_soon(cases: int, tmp_path: Path) -> None:
    argv = [str(FUZZER), "--cases", str(cases), "--jobs", "1", "--seed", "42"]
    done = subprocess.run([sys.executable, *argv], cwd=tmp_path, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{cases} cases")
    assert "'accepted'" in done.stdout
    assert [*tmp_path.glob("*.case")] == []
