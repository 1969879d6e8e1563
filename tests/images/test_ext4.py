"""Files read out of ext2, ext3 and ext4 images that mke2fs made, and out of damaged ones."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_making import (
    Counted,
    blocks_by_debugfs,
    call,
    change,
    changed,
    inode_offsets,
    mke2fs,
    noise,
    seen_by_debugfs,
    with_holes,
)
from thorough import one_of

from azaion_imagebuild.images import CorruptImage
from azaion_imagebuild.images.ext4 import Ext4
from azaion_imagebuild.images.inode import Inode
from azaion_imagebuild.model import DEVICE_CONF

LIMIT = 16 * 1024 * 1024
CONF = b"AZAION_DEVICE_EMAIL=azaion-jetson-0042@azaion.com\nAZAION_DEVICE_PASSWORD=0123\n"
LONG_NAMES = [f"{number:04}-{'n' * 200}" for number in range(400)]
SIZES = (0, 1, 1023, 1024, 1025, 2048, 4095, 4096, 4097, 65536, 65537)
FILES = (
    DEVICE_CONF,
    "usr/bin/su",
    "srv/holes",
    "srv/only-a-hole",
    "srv/scattered",
    "srv/long",
    f"many/{LONG_NAMES[0]}",
    f"many/{LONG_NAMES[-1]}",
    *(f"srv/size-{size}" for size in SIZES),
)
LINKS = {
    "fast": "etc/azaion",
    "59-bytes": "./" * 24 + "etc/azaion/",  # the longest that fits into an inode
    "60-bytes": "./" * 25 + "etc/azaion",
    "slow": "./" * 120 + "etc/azaion",
    "absolute": "/etc/azaion",
    "srv/with-dots": "../usr/bin/../../etc/./azaion",
    "above-the-root": "../../../../etc/azaion",
    "over-another": "/srv/with-dots",
}


def put(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def found(filesystem: Ext4, path: str) -> Inode:
    inode = filesystem.find(path)
    assert inode is not None
    return inode


def mapped(filesystem: Ext4, inode: Inode) -> dict[int, int]:
    """Return the physical block of every logical one that is not a hole."""
    return {
        extent.logical + index: extent.physical + index
        for extent in filesystem.extents(inode)
        for index in range(extent.length)
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every image of this file holds."""
    root = tmp_path_factory.mktemp("files")
    put(root / DEVICE_CONF, CONF, 0o600)
    put(root / "usr/bin/su", b"#!/bin/false\n", 0o4755)
    (root / "srv").mkdir()
    for size in SIZES:
        put(root / f"srv/size-{size}", noise(size, size), 0o640)
    with_holes(root / "srv/holes", 1_000_000, [(0, 10), (300_000, 5000), (900_000, 70_000)])
    with_holes(root / "srv/only-a-hole", 500_000, [])
    # Runs of 4096 bytes: an extent tree of three levels where a block has 1024 bytes.
    with_holes(
        root / "srv/scattered", 4_000_000, [(start, 4096) for start in range(0, 4_000_000, 8192)]
    )
    # Longer than 12 + 1024 blocks of 4096 bytes: double indirect in a block map.
    put(root / "srv/long", noise("long", 4_500_000))
    (root / "many").mkdir()
    put(root / "many" / LONG_NAMES[0], b"one of many\n")
    for name in LONG_NAMES[1:]:
        os.link(root / "many" / LONG_NAMES[0], root / "many" / name)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    (root / os.fsdecode(b"latin-\xe9")).symlink_to(os.fsdecode(b"target-\xe9"))
    put(root / os.fsdecode(b"target-\xe9"), b"not UTF-8\n")
    os.mkfifo(root / "fifo")
    return root


FEATURES = {
    "ext4": "-t ext4",
    "no-metadata_csum": "-t ext4 -O ^metadata_csum",
    "no-64bit": "-t ext4 -O ^64bit",
    "no-extents": "-t ext4 -O ^extents,^64bit",
    "no-flex_bg": "-t ext4 -O ^flex_bg,^has_journal",
    "ext2": "-t ext2",
}
OTHERS = {
    "ext3": "-t ext3 -b 4096",
    "ext4-64k": "-t ext4 -b 65536",
    "ext2-64k": "-t ext2 -b 65536",
    "revision-0": "-t ext2 -r 0 -b 1024",
    "no-filetype": "-t ext4 -b 2048 -O ^filetype",
    "inodes-of-128": "-t ext4 -b 4096 -I 128",
    "inodes-of-1024": "-t ext4 -b 4096 -I 1024",
    "many-groups": "-t ext4 -b 1024 -g 1024 -N 4096 -O ^has_journal",
    "rare-features": "-t ext4 -b 4096 -O ea_inode,encrypt,metadata_csum_seed,large_dir,quota",
}
VARIANTS = OTHERS | {
    f"{name}-{size}": f"{options} -b {size}"
    for name, options in FEATURES.items()
    for size in (1024, 2048, 4096)
}


@pytest.fixture(
    scope="module",
    params=one_of(VARIANTS.values(), kept=[*VARIANTS].index("ext4-4096")),
    ids=list(VARIANTS),
)
def image(
    request: pytest.FixtureRequest, files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """One filesystem for each set of options; the owners are those that only root could give."""
    path = mke2fs(tmp_path_factory.mktemp("image") / "image", request.param, "48M", files)
    change(
        path,
        f"sif /{DEVICE_CONF} uid 70000",
        f"sif /{DEVICE_CONF} gid 4000000000",
        "sif /usr/bin/su uid 65535",
        "sif /usr/bin/su gid 65536",
    )
    yield path
    path.unlink()


def test_every_file_reads_as_debugfs_reads_it(image: Path, files: Path) -> None:
    expected = seen_by_debugfs(image, FILES)
    assert (expected[DEVICE_CONF].uid, expected[DEVICE_CONF].gid) == (70000, 4000000000)
    with image.open("rb") as stream:
        filesystem = Ext4(stream)
        for path in FILES:
            entry = filesystem.read_file(path, LIMIT)
            assert entry == expected[path], path
            assert entry.data == (files / path).read_bytes(), path


def test_blocks_lie_where_debugfs_finds_them(image: Path) -> None:
    with image.open("rb") as stream:
        filesystem = Ext4(stream)
        inode = found(filesystem, "srv/scattered")
        blocks = mapped(filesystem, inode)
    last = -(-inode.size // filesystem.block_size) - 1
    logicals = [*range(0, last, 7), last]
    expected = blocks_by_debugfs(image, "srv/scattered", logicals)
    assert [blocks.get(logical, 0) for logical in logicals] == expected
    assert max(blocks) <= last


def test_links_lead_inside_the_image(image: Path) -> None:
    with image.open("rb") as stream:
        filesystem = Ext4(stream)
        file = found(filesystem, DEVICE_CONF)
        for name in LINKS:
            assert filesystem.find(f"{name}/device.conf") == file, name
        entry = filesystem.read_file(os.fsdecode(b"latin-\xe9"), LIMIT)
    assert entry is not None
    assert entry.data == b"not UTF-8\n"


def test_every_path_that_went_in_is_listed(image: Path, files: Path) -> None:
    paths = {str(path.relative_to(files)) for path in files.rglob("*")}
    with image.open("rb") as stream:
        assert sorted(each.path for each in Ext4(stream).entries()) == sorted(
            {*paths, "lost+found"}
        )


MANY = [f"{number:05}-{'n' * (number % 40)}" for number in range(3000)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four files, and one with 3,000 names for them."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(4):
        put(folder / f"file-{number}", b"%d" % number)
    (folder / "big").mkdir()
    for number, name in enumerate(MANY):
        os.link(folder / f"file-{number % 4}", folder / "big" / name)
    return folder


@pytest.mark.parametrize("indexed", one_of([False, True]), ids=["linear", "hashed"])
@pytest.mark.parametrize("size", one_of([1024, 2048, 4096]))
def test_every_name_of_a_big_directory_is_found(
    tmp_path: Path, many: Path, size: int, indexed: bool
) -> None:
    image = mke2fs(tmp_path / "image", f"-t ext4 -b {size}", "8M", many)
    if indexed:
        call("e2fsck", "-fyD", image, fine=(0, 1))
    with image.open("rb") as stream:
        filesystem = Ext4(stream)
        assert bool(found(filesystem, "big").flags & 0x1000) == indexed
        for number in range(0, 3000, 101):
            entry = filesystem.read_file(f"big/{MANY[number]}", 1)
            assert entry is not None
            assert entry.data == b"%d" % (number % 4)
        assert filesystem.read_file("big/03000-", 1) is None


@pytest.mark.parametrize("size", [1024, 4096])
def test_the_last_block_of_three_levels_of_indirection_is_found(tmp_path: Path, size: int) -> None:
    (tmp_path / "files").mkdir()
    per_block = size // 4
    far = 12 + per_block + per_block**2
    pieces = [(block * size, 1) for block in (11, 12, far - 1, far, far + 3 * per_block)]
    with_holes(tmp_path / "files/far", pieces[-1][0] + 1, pieces)
    image = mke2fs(tmp_path / "image", f"-t ext2 -b {size}", "8M", tmp_path / "files")
    with image.open("rb") as stream:
        filesystem = Ext4(stream)
        blocks = mapped(filesystem, found(filesystem, "far"))
    logicals = [block + step for block in (11, 12, far, far + 3 * per_block) for step in (-1, 0)]
    expected = blocks_by_debugfs(image, "far", logicals)
    assert [blocks.get(logical, 0) for logical in logicals] == expected
    assert len(blocks) == len(pieces)


@pytest.mark.parametrize("size", [1024, 2048, 4096])
def test_space_that_was_only_set_aside_reads_as_zeros(tmp_path: Path, size: int) -> None:
    stale = noise("stale", 20 * size)
    put(tmp_path / "files/stale", stale)
    put(tmp_path / "files/half", b"written")
    image = mke2fs(tmp_path / "image", f"-t ext4 -b {size}", "8M", tmp_path / "files")
    change(image, "rm /stale", "fallocate /half 1 20", f"sif /half size {20 * size + 5}")
    expected = b"written".ljust(20 * size + 5, b"\0")
    with image.open("rb") as stream:
        filesystem = Ext4(stream)
        extents = list(filesystem.extents(found(filesystem, "half")))
        entry = filesystem.read_file("half", LIMIT)
    where = [extent.physical * size for extent in extents if not extent.written]
    assert any(image.read_bytes()[start : start + size] in stale for start in where)
    assert entry is not None
    assert entry.data == expected
    assert seen_by_debugfs(image, ["half"])["half"].data == expected


def test_a_filesystem_guarded_against_double_mounts_is_read(tmp_path: Path, files: Path) -> None:
    image = mke2fs(tmp_path / "image", "-t ext4 -O mmp", "48M", files)
    with image.open("rb") as stream:
        entry = Ext4(stream).read_file(DEVICE_CONF, LIMIT)
    assert entry is not None
    assert entry.data == CONF


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """A small filesystem in memory, and where the things lie that a test damages."""

    data: bytes
    block: int
    inodes: dict[str, int]
    """Byte at which the inode of a path begins."""
    blocks: dict[str, int]
    """Number of the first block of a path's data."""

    def inode(self, path: str, field: tuple[int, str], number: int) -> bytes:
        """Return the image with another number in the inode of ``path``."""
        return changed(self.data, (self.inodes[path] + field[0], field[1], number))

    def content(self, path: str, offset: int, kind: str, number: int) -> bytes:
        """Return the image with another number in the first block of ``path``."""
        return changed(self.data, (self.blocks[path] * self.block + offset, kind, number))


SIZE, LINK_COUNT, FLAGS = (4, "I"), (26, "H"), (32, "I")
MAP = 40
SMALL_FILES = (DEVICE_CONF, "deep", "etc/azaion", "short-link", "long-link", "many", "empty-link")
SMALL = {
    "ext4-1024": "-t ext4 -b 1024 -N 128 -O ^has_journal,^resize_inode",
    "ext4-4096": "-t ext4 -b 4096 -N 128 -O ^has_journal,^resize_inode,^metadata_csum",
    "ext2-1024": "-t ext2 -b 1024 -N 128 -O ^resize_inode",
}


def make_small(folder: Path, options: str) -> Small:
    files = folder / "files"
    put(files / DEVICE_CONF, CONF * 20, 0o600)
    # 40 runs: an extent tree of two levels; in a block map the last ones are indirect twice.
    with_holes(files / "deep", 320_000, [(start, 500) for start in range(0, 320_000, 8192)])
    (files / "many").mkdir()
    for number in range(60):
        os.link(files / DEVICE_CONF, files / f"many/{number:02}-a-rather-long-name")
    for name in ("twin-1", "twin-2"):
        put(files / name, b"")
    (files / "short-link").symlink_to("etc/azaion")
    (files / "empty-link").symlink_to("etc")
    (files / "long-link").symlink_to("./" * 40 + "etc/azaion")
    (files / "chain-0").symlink_to(DEVICE_CONF)
    for number in range(1, 41):
        (files / f"chain-{number}").symlink_to(f"chain-{number - 1}")
    (files / "loop").symlink_to("/loop")
    (files / "there").symlink_to("and-back")
    (files / "and-back").symlink_to("/there")
    (files / "dangling").symlink_to("/nowhere/at/all")
    (files / "through-a-file").symlink_to("etc/azaion/device.conf/../device.conf")
    os.mkfifo(files / "fifo")
    image = mke2fs(folder / "image", options, "1M", files)
    call("e2fsck", "-fyD", image, fine=(0, 1))  # makes the directory "many" a hashed one
    return Small(
        data=image.read_bytes(),
        block=int(options.split("-b ")[1].split()[0]),
        inodes=dict(zip(SMALL_FILES, inode_offsets(image, SMALL_FILES), strict=True)),
        blocks={path: blocks_by_debugfs(image, path, [0])[0] for path in SMALL_FILES[:3]},
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"), SMALL["ext4-1024"])


@pytest.fixture(scope="module")
def small_ext2(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"), SMALL["ext2-1024"])


@pytest.mark.parametrize(
    "path",
    [
        "nowhere",
        "etc/azaion/device",
        "etc/azaion/device.conf.new",
        "many/" + "n" * 300,
        "dangling",
        "dangling/device.conf",
        f"{DEVICE_CONF}/x",
        f"{DEVICE_CONF}/../device.conf",
        "through-a-file",
    ],
)
def test_what_is_not_there_is_none(small: Small, path: str) -> None:
    assert Ext4(io.BytesIO(small.data)).read_file(path, LIMIT) is None


def test_a_stream_that_gives_less_than_it_was_asked_for_is_asked_again(small: Small) -> None:
    class Sluggish(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 100))

    entry = Ext4(Sluggish(small.data)).read_file(DEVICE_CONF, LIMIT)
    assert entry is not None
    assert entry.data == CONF * 20


def refused(data: bytes, reason: str, path: str = DEVICE_CONF, limit: int = LIMIT) -> None:
    with pytest.raises(CorruptImage, match=reason):
        Ext4(io.BytesIO(data)).read_file(path, limit)


def test_a_file_longer_than_the_limit_is_refused(small: Small) -> None:
    length = len(CONF) * 20
    refused(small.data, f"{length} bytes long, more than {length - 1}", limit=length - 1)
    assert Ext4(io.BytesIO(small.data)).read_file(DEVICE_CONF, length)


@pytest.mark.parametrize("path", ["etc/azaion", "short-link", "fifo", "", "/", ".."])
def test_what_is_no_regular_file_is_refused(small: Small, path: str) -> None:
    refused(small.data, "is not a regular file", path)


def test_40_links_are_followed_as_the_kernel_does(small: Small) -> None:
    assert Ext4(io.BytesIO(small.data)).read_file("chain-39", LIMIT)


@pytest.mark.parametrize("path", ["loop", "there", "there/device.conf", "chain-40"])
def test_links_in_a_circle_are_refused(small: Small, path: str) -> None:
    refused(small.data, "lead in a circle", path)


def test_an_image_copied_while_it_was_mounted_is_refused(tmp_path: Path) -> None:
    image = mke2fs(tmp_path / "image", "-t ext4", "8M")
    call("debugfs", "-w", "-R", "features needs_recovery", image)
    refused(image.read_bytes(), "journal was not replayed")


def test_data_inline_in_inodes_is_refused(tmp_path: Path, files: Path) -> None:
    image = mke2fs(tmp_path / "image", "-t ext4 -O inline_data", "48M", files)
    for path in ("srv/size-1", DEVICE_CONF):  # the latter is in an inline directory
        refused(image.read_bytes(), "inline in its inode", path)


@pytest.mark.parametrize("path", [DEVICE_CONF, "etc/azaion", "short-link", "long-link"])
def test_what_is_encrypted_is_refused(small: Small, path: str) -> None:
    data = small.inode(path, FLAGS, 0x800 if path == "short-link" else 0x80800)
    refused(data, "is encrypted", path if path == DEVICE_CONF else f"{path}/device.conf")


@pytest.mark.parametrize("feature", [0x1, 0x8, 0x10, 0x1000, 0x40000, 0x80000000])
def test_a_feature_that_changes_the_format_is_refused(small: Small, feature: int) -> None:
    (features,) = struct.unpack_from("<I", small.data, 1024 + 96)
    data = changed(small.data, (1024 + 96, "I", features | feature))
    refused(data, f"not supported .incompat {feature:#x}.")


def test_clusters_of_blocks_are_refused(tmp_path: Path) -> None:
    image = mke2fs(tmp_path / "image", "-t ext4 -b 4096 -O bigalloc -C 16384", "8M")
    refused(image.read_bytes(), "bigalloc")


@pytest.mark.parametrize("length", [0, 1000, 1080, 2047, 2048, 100_000, 2**20 - 1])
def test_an_image_cut_short_is_refused(small: Small, length: int) -> None:
    refused(small.data[:length], "cut short")


def test_an_image_that_shrinks_while_it_is_read_is_refused(small: Small) -> None:
    stream = io.BytesIO(small.data)
    filesystem = Ext4(stream)
    stream.truncate(3000)
    with pytest.raises(CorruptImage, match="cut short"):
        filesystem.read_file(DEVICE_CONF, LIMIT)


def test_a_name_that_stands_twice_is_refused(small: Small) -> None:
    assert small.data.count(b"twin-2") == 1
    refused(small.data.replace(b"twin-2", b"twin-1"), "b'twin-1' is twice", "twin-1")


def test_an_inode_that_was_deleted_is_refused(small: Small) -> None:
    refused(small.inode(DEVICE_CONF, LINK_COUNT, 0), "deleted")


def test_a_link_without_a_target_is_refused(small: Small) -> None:
    refused(small.inode("empty-link", SIZE, 0), "target that cannot be", "empty-link")
    refused(small.inode("empty-link", (MAP, "B"), 0), "target that cannot be", "empty-link")
    refused(small.inode("empty-link", SIZE, 5000), "is 5000 bytes long", "empty-link")


@pytest.mark.parametrize(
    ("offset", "kind", "number", "reason"),
    [
        (56, "H", 0xEF52, "no ext4 superblock"),
        (0, "I", 0, "contradict"),
        (0, "I", 0xFFFFFFFF, "more inodes than"),
        (4, "I", 0, "contradict"),
        (4, "I", 1025, "cut short"),
        (4, "I", 0xFFFFFFFF, "cut short"),
        (20, "I", 0, "contradict"),
        (24, "I", 7, "block size"),
        (24, "I", 0xFFFFFFFF, "block size"),
        (32, "I", 0, "contradict"),
        (32, "I", 8193, "contradict"),
        (40, "I", 0, "contradict"),
        (40, "I", 8193, "contradict"),
        (88, "H", 0, "contradict"),
        (88, "H", 64, "contradict"),
        (88, "H", 192, "contradict"),
        (88, "H", 2048, "contradict"),
        (254, "H", 0, "contradict"),
        (254, "H", 32, "contradict"),
        (254, "H", 72, "contradict"),
        (254, "H", 2048, "contradict"),
        (336, "I", 1, "cut short"),
    ],
)
def test_a_superblock_that_lies_is_refused(
    small: Small, offset: int, kind: str, number: int, reason: str
) -> None:
    refused(changed(small.data, (1024 + offset, kind, number)), reason)


@pytest.mark.parametrize(
    ("offset", "kind", "number"), [(8, "I", 0), (8, "I", 1), (8, "I", 1023), (40, "I", 1)]
)
def test_a_group_descriptor_that_lies_is_refused(
    small: Small, offset: int, kind: str, number: int
) -> None:
    refused(changed(small.data, (2048 + offset, kind, number)), "outside the filesystem|deleted")


@pytest.mark.parametrize(
    ("offset", "kind", "number", "reason"),
    [
        (24, "I", 129, "no inode 129"),
        (24, "I", 0xFFFFFFFF, "no inode"),
        (4, "H", 0, "do not fit into its block"),
        (4, "H", 8, "do not fit into its block"),
        (4, "H", 14, "do not fit into its block"),
        (4, "H", 1028, "do not fit into its block"),
        (4, "H", 1020, "last record does not fit"),  # 4 bytes are left of the block
        (4, "H", 1016, "last record does not fit"),
        (6, "B", 5, "name does not fit"),
    ],
)
def test_a_directory_that_lies_is_refused(
    small: Small, offset: int, kind: str, number: int, reason: str
) -> None:
    refused(small.content("etc/azaion", offset, kind, number), reason)


@pytest.mark.parametrize("size", [0, 1, 1023, 2**32 - 1])
def test_a_directory_of_an_impossible_size_is_refused(small: Small, size: int) -> None:
    refused(small.inode("etc/azaion", SIZE, size), "a size it cannot have|too large")


def test_a_directory_with_a_hole_is_refused_for_the_name_may_have_been_there(small: Small) -> None:
    refused(small.inode("etc/azaion", SIZE, 2048), "has a hole")
    refused(small.inode("etc/azaion", (MAP + 12 + 4, "H"), 32769), "has a hole")  # not written


def test_what_lies_past_the_end_of_a_directory_is_not_looked_at(small: Small) -> None:
    filesystem = Ext4(io.BytesIO(small.data))
    directory = found(filesystem, "many")
    assert directory.size > 2048
    cut = small.inode("many", SIZE, 1024)
    for number in range(60):
        assert filesystem.read_file(f"many/{number:02}-a-rather-long-name", LIMIT)
        assert not Ext4(io.BytesIO(cut)).read_file(f"many/{number:02}-a-rather-long-name", LIMIT)


def test_what_lies_past_the_end_of_a_file_is_not_among_its_extents(small: Small) -> None:
    filesystem = Ext4(io.BytesIO(small.inode(DEVICE_CONF, SIZE, 1)))
    (extent,) = filesystem.extents(found(filesystem, DEVICE_CONF))
    assert extent.length == 1
    entry = filesystem.read_file(DEVICE_CONF, 1)
    assert entry is not None
    assert entry.data == CONF[:1]


@pytest.mark.parametrize(
    ("offset", "kind", "number", "reason"),
    [
        (0, "H", 0xF30B, "damaged"),
        (2, "H", 0, "damaged"),
        (2, "H", 5, "damaged"),
        (6, "H", 0, "outside|overlap|order"),
        (6, "H", 2, "damaged"),
        (6, "H", 6, "damaged"),
        (12, "I", 1, "out of order"),
        (16, "I", 0, "outside"),
        (16, "I", 1024, "outside"),
        (20, "H", 1, "outside"),
    ],
)
def test_the_root_of_an_extent_tree_that_lies_is_refused(
    small: Small, offset: int, kind: str, number: int, reason: str
) -> None:
    refused(small.inode("deep", (MAP + offset, kind), number), reason, "deep")


@pytest.mark.parametrize(
    ("offset", "kind", "number", "reason"),
    [
        (0, "H", 0, "damaged"),
        (2, "H", 0, "damaged"),
        (2, "H", 85, "damaged"),
        (6, "H", 1, "damaged"),
        (24, "I", 0, "out of order"),
        (24, "I", 0xFFFFFFFF, "out of order"),
        (16, "H", 0, "overlap"),
        (16, "H", 32769 + 1000, "overlap|outside"),
        (16, "H", 100, "overlap"),
        (18, "H", 1, "outside"),
        (20, "I", 0, "outside"),
        (20, "I", 1024, "outside"),
    ],
)
def test_a_leaf_of_an_extent_tree_that_lies_is_refused(
    small: Small, offset: int, kind: str, number: int, reason: str
) -> None:
    (leaf,) = struct.unpack_from("<I", small.data, small.inodes["deep"] + MAP + 16)
    refused(changed(small.data, (leaf * 1024 + offset, kind, number)), reason, "deep")


def node(depth: int, *children: int) -> bytes:
    """Return a node of an extent tree whose children begin at the blocks 0, 1, 2 and so on."""
    rows = [struct.pack("<IIHH", start, child, 0, 0) for start, child in enumerate(children)]
    return struct.pack("<HHHHI", 0xF30A, len(rows), len(rows), depth, 0) + b"".join(rows)


def leaf(physical: int) -> bytes:
    return struct.pack("<HHHHIIHHI", 0xF30A, 1, 1, 0, 0, 0, 1, 0, physical)


def with_tree(small: Small, root: bytes, **blocks: bytes) -> Counted:
    """Return the image with an extent tree for "deep": a root, and ``block_N=`` its nodes."""
    data = bytearray(small.data)
    begin = small.inodes["deep"] + MAP
    data[begin : begin + len(root)] = root
    for name, content in blocks.items():
        begin = int(name.removeprefix("block_")) * small.block
        data[begin : begin + len(content)] = content
    return Counted(io.BytesIO(data))


def test_a_tree_as_deep_as_may_be_is_read(small: Small) -> None:
    nodes = {f"block_{900 + depth}": node(depth, 899 + depth) for depth in (1, 2, 3, 4)}
    conf = small.blocks[DEVICE_CONF]
    entry = Ext4(with_tree(small, node(5, 904), block_900=leaf(conf), **nodes)).read_file(
        "deep", LIMIT
    )
    assert entry is not None
    assert entry.data == (CONF * 20)[:1024].ljust(320_000, b"\0")


def test_a_deeper_tree_is_refused(small: Small) -> None:
    with pytest.raises(CorruptImage, match="damaged extent tree"):
        Ext4(with_tree(small, node(6, 905))).read_file("deep", LIMIT)


@pytest.mark.parametrize("children", [1, 84])
def test_a_tree_in_a_circle_is_refused_at_once(small: Small, children: int) -> None:
    stream = with_tree(small, node(5, 904), block_904=node(4, *[904] * children))
    with pytest.raises(CorruptImage, match="header is damaged"):
        Ext4(stream).read_file("deep", LIMIT)
    assert stream.reads < 20


def test_a_tree_that_shares_its_branches_is_refused_at_once(small: Small) -> None:
    nodes = {f"block_{900 + depth}": node(depth, *[899 + depth] * 84) for depth in (1, 2, 3, 4)}
    stream = with_tree(small, node(5, *[904] * 4), block_900=leaf(950), **nodes)
    with pytest.raises(CorruptImage, match="out of order"):
        Ext4(stream).read_file("deep", LIMIT)
    assert stream.reads < 30


@pytest.mark.parametrize("pointer", [0, 11, 12, 13])
@pytest.mark.parametrize("number", [1, 1024, 0xFFFFFFFF])
def test_a_block_map_that_leads_outside_is_refused(
    small_ext2: Small, pointer: int, number: int
) -> None:
    data = small_ext2.inode("deep", (MAP + 4 * pointer, "I"), number)
    refused(data, "outside the filesystem", "deep")


def endless(small: Small, size: int) -> Counted:
    """Return the image with an etc/azaion of ``size`` bytes, made of one block again and again.

    Block 900 points to that block 256 times, 901 to 900 and 902 to 901.
    """
    data = bytearray(small.data)
    begin = small.inodes["etc/azaion"]
    block = small.blocks["etc/azaion"]
    struct.pack_into("<I", data, begin + SIZE[0], size)
    struct.pack_into("<15I", data, begin + MAP, *[block] * 12, 900, 901, 902)
    for number, target in ((900, block), (901, 900), (902, 901)):
        struct.pack_into("<256I", data, number * 1024, *[target] * 256)
    return Counted(io.BytesIO(data))


MOST_SEARCHED = 16 * 1024**2
MOST_READS = 8 * MOST_SEARCHED // 1024
"""A block of a directory costs up to eight reads: itself, its five nodes, an inode with its
group's descriptor."""


def test_a_directory_without_end_is_searched_up_to_16_mib(small_ext2: Small) -> None:
    above = 2 * 1024  # the root and etc
    stream = endless(small_ext2, MOST_SEARCHED - above)
    assert Ext4(stream).read_file("etc/azaion/other", LIMIT) is None
    assert MOST_SEARCHED // 1024 < stream.reads < 1.1 * MOST_SEARCHED // 1024
    stream = endless(small_ext2, MOST_SEARCHED)
    with pytest.raises(CorruptImage, match="too many or too large directories"):
        Ext4(stream).read_file("etc/azaion/other", LIMIT)
    assert stream.reads < 20


def test_a_path_without_end_is_followed_through_16_mib(small: Small) -> None:
    stream = Counted(io.BytesIO(small.data))
    with pytest.raises(CorruptImage, match="too many or too large directories"):
        Ext4(stream).read_file("etc/../" * 20_000 + DEVICE_CONF, LIMIT)
    assert stream.reads < MOST_READS


@pytest.fixture(scope="module", params=one_of(SMALL.values()), ids=list(SMALL))
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"), request.param)


PROVEN = (DEVICE_CONF, "long-link/device.conf", "short-link/device.conf", "deep", "many/07-x")
PROVEN_LIMIT = 400_000


def prove(stream: Counted) -> None:
    """Read all of the small image; whatever it holds, the reader keeps its promises."""
    for path in (None, *PROVEN):
        reads, size = stream.reads, stream.bytes_read
        with contextlib.suppress(CorruptImage):
            filesystem = Ext4(stream)
            if path is None:
                for _ in filesystem.entries():
                    continue
            else:
                entry = filesystem.read_file(path, PROVEN_LIMIT)
                assert entry is None or len(entry.data) <= PROVEN_LIMIT
        assert stream.reads - reads < MOST_READS
        assert stream.bytes_read - size < 8 * MOST_SEARCHED


@pytest.fixture(scope="module")
def ranges(target: Small) -> list[tuple[int, int]]:
    """What the reader goes by: ranges of bytes where damage can mislead it."""
    stream = Counted(io.BytesIO(target.data))
    prove(stream)
    filesystem = Ext4(stream)
    content = {
        block * target.block
        for path in (DEVICE_CONF, "deep")
        for block in mapped(filesystem, found(filesystem, path)).values()
    }
    return sorted({place for place in stream.ranges if place[0] not in content})


TELLING = [0, 1, 2, 3, 5, 8, 11, 12, 34, 78, 0xFF, 0x100, 0x400, 0x1000, 0x7FFF, 0x8000, 0x8001]
TELLING += [
    1012,
    1016,
    1020,
    4084,
    4088,
    4092,
    0xF30A,
    0xFFFF,
    0x10000,
    0x80000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
]
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.integers(0, 2**16),
        st.sampled_from("BHHIII"),
        st.sampled_from(TELLING) | st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=6,
)


@given(changes=CHANGES)
@settings(max_examples=300, deadline=None)
def test_no_damage_misleads_the_reader(
    target: Small, ranges: list[tuple[int, int]], changes: list[tuple[int, int, str, int]]
) -> None:
    damage = []
    for place, step, kind, number in changes:
        start, length = ranges[place % len(ranges)]
        width = struct.calcsize(kind)
        offset = start + step % (length // width) * width
        damage.append((offset, kind, number & (256**width - 1)))
    prove(Counted(io.BytesIO(changed(target.data, *damage))))


@given(seed=st.integers(0, 2**32), kept=st.sampled_from([0, 1024, 2048, 4096, 40_000]))
@settings(max_examples=50, deadline=None)
def test_no_noise_behind_a_magic_number_misleads_the_reader(
    small: Small, seed: int, kept: int
) -> None:
    data = small.data[:kept] + noise(seed, 100_000 - kept) + bytes(2**20 - 100_000)
    prove(Counted(io.BytesIO(changed(data, (1024 + 56, "H", 0xEF53), (1024 + 24, "I", seed % 8)))))
