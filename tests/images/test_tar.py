"""Tar archives: what is read out of one is what GNU tar unpacks from it, or it is refused."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import stat
import tarfile
import tempfile
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_making import Counted, call, noise, with_holes
from tar_making import (
    AS_ROOT,
    BLOCK,
    CONF,
    CONF_NAME,
    END,
    FIFO,
    FOLDER,
    HARD_LINK,
    LIMIT,
    LONG_LINK,
    LONG_NAME,
    MODES,
    NEW,
    NEW_MEMBER,
    OLD_MEMBER,
    PACKINGS,
    PAX,
    PAX_GLOBAL,
    PAX_SOLARIS,
    REGULAR,
    SPARSE,
    STARTS,
    SYMLINK,
    any_members,
    folder,
    header,
    link,
    long_name,
    member,
    packed,
    padded,
    pax,
    record,
)
from thorough import thorough

from azaion_imagebuild.images import CorruptImage, image_format, open_filesystem
from azaion_imagebuild.images.tar import MAGIC, MAGIC_OFFSET, Member, Tar
from azaion_imagebuild.model import DEVICE_CONF, FileEntry


def read(archive: bytes, path: str = DEVICE_CONF) -> FileEntry | None:
    return Tar(io.BytesIO(archive)).read_file(path, LIMIT)


def refused(archive: bytes, reason: str) -> None:
    with pytest.raises(CorruptImage, match=reason):
        read(archive)


def entry(data: bytes, mode: int = 0o600, uid: int = 1000, gid: int = 1001) -> FileEntry:
    return FileEntry(data=data, mode=mode, uid=uid, gid=gid)


def unpacked(archive: bytes) -> FileEntry | None:
    """Return what GNU tar leaves at the place of device.conf; None: nothing at all."""
    with tempfile.TemporaryDirectory() as name:
        image, tree = Path(name, "system.img"), Path(name, "tree")
        image.write_bytes(archive)
        tree.mkdir()
        call("tar", "--xattrs", "-xpf", image, "-C", tree, fine=(0, 2))
        place = tree / DEVICE_CONF
        try:
            status = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        assert stat.S_ISREG(status.st_mode), "tar unpacks it as no regular file"
        mode = stat.S_IMODE(status.st_mode)
        return entry(place.read_bytes(), mode, status.st_uid, status.st_gid)


def same(found: FileEntry | None, expected: FileEntry | None) -> bool:
    """Compare; an ordinary user's tar unpacks what belongs to him."""
    if AS_ROOT or found is None or expected is None:
        return found == expected
    return (found.data, found.mode) == (expected.data, expected.mode)


# Archives that GNU tar and Python's tarfile made


ENTRY = entry(CONF, 0o600, 70000, 30000)
LONG_NAMES = (
    f"srv/{'n' * 100}",
    f"srv/{'d' * 90}/{'n' * 60}",
    f"long/{'d' * 90}/{'n' * 120}",
    f"long/{'d' * 150}/{'e' * 150}/{'n' * 200}",
)
FORMATS = {
    "ustar": ("--format=ustar", "--exclude=./long"),
    "gnu": ("--format=gnu",),
    "gnu-sparse": ("--format=gnu", "-S"),
    "oldgnu": ("--format=oldgnu",),
    "oldgnu-sparse": ("--format=oldgnu", "-S"),
    "pax": ("--format=pax",),
    "posix-xattrs": ("--format=posix", "--xattrs"),
    "posix-sparse-0.0": ("--format=posix", "-S", "--sparse-version=0.0"),
    "posix-sparse-0.1": ("--format=posix", "-S", "--sparse-version=0.1"),
    "posix-sparse-1.0": ("--xattrs", "-S", "--sparse-version=1.0"),
}
NVIDIA = ("--xattrs",)


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything that can lie in a rootfs."""
    root = tmp_path_factory.mktemp("rootfs")
    contents = {DEVICE_CONF: CONF, "etc/empty": b"", "usr/bin/su": noise("su", 70_000)}
    contents |= {name: name.encode() for name in LONG_NAMES}
    contents |= {f"srv/size-{size}": noise(size, size) for size in (1, 511, 512, 513, 10_240)}
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    Path(os.fsdecode(os.fsencode(root) + b"/srv/caf\xe9")).write_bytes(b"no UTF-8")
    with_holes(root / "srv/a-hole", 500_000, [(100_000, 10)])
    with_holes(root / "srv/holes", 3_000_000, [(at * 100_000, 5000) for at in range(30)])
    (root / "usr/bin/hard").hardlink_to(root / "usr/bin/su")
    (root / "bin").symlink_to("usr/bin")
    (root / "long/link").symlink_to("t/" * 150)
    os.mkfifo(root / "etc/fifo")
    os.mknod(root / "etc/socket", stat.S_IFSOCK | 0o600)
    (root / DEVICE_CONF).chmod(0o600)
    (root / "usr/bin/su").chmod(0o4755)
    (root / "srv").chmod(0o1777)
    return root


def gnu_tar(root: Path, *options: str, group: int = 30000) -> bytes:
    """Pack a tree as NVIDIA's scripts do, as if it belonged to another user."""
    with tempfile.NamedTemporaryFile() as image:
        owner = ("--owner=:70000", f"--group=:{group}", "--numeric-owner")
        call("tar", *options, *owner, "-cpf", image.name, "-C", root, ".")
        return Path(image.name).read_bytes()


def seen_by_tarfile(archive: bytes) -> Iterator[Member]:
    """Yield the members as Python's own reader sees them."""
    kinds = {b"\0": REGULAR, b"7": REGULAR}
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as reader:
        for each in reader:
            yield Member(
                name="/".join(part for part in each.name.split("/") if part not in ("", ".")),
                kind=SPARSE if each.issparse() else kinds.get(each.type, each.type),
                mode=each.mode & 0o7777,
                uid=each.uid,
                gid=each.gid,
                uname=each.uname,
                gname=each.gname,
                size=each.size,
                start=each.offset,
                offset=each.offset_data,
            )


def essence(each: Member) -> tuple[object, ...]:
    """Leave out the size and data of a sparse member, where the map of its holes is or is not."""
    place = () if each.kind == SPARSE else (each.size, each.start, each.offset)
    return (each.name, each.kind, each.mode, each.uid, each.gid, each.uname, each.gname, *place)


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_the_members_are_those_that_pythons_reader_sees(
    rootfs: Path, options: tuple[str, ...]
) -> None:
    archive = gnu_tar(rootfs, *options)
    members = list(Tar(io.BytesIO(archive)).members())
    assert [*map(essence, members)] == [*map(essence, seen_by_tarfile(archive))]
    kinds = {each.name: each.kind for each in members}
    names = {path.relative_to(rootfs).as_posix() for path in rootfs.rglob("*")} - {"etc/socket"}
    if options == FORMATS["ustar"]:
        names = {name for name in names if not name.startswith("long")}
    assert set(kinds) == names | {""}
    expected = SPARSE if "-S" in options else REGULAR
    assert kinds["srv/holes"] == kinds["srv/a-hole"] == expected
    assert {kinds["usr/bin/su"], kinds["usr/bin/hard"]} == {REGULAR, HARD_LINK}
    assert kinds["bin"] == SYMLINK
    assert kinds["etc/fifo"] == FIFO


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_files_are_read_with_mode_and_owner_out_of_every_format_of_gnu_tar(
    rootfs: Path, options: tuple[str, ...]
) -> None:
    archive = Tar(io.BytesIO(gnu_tar(rootfs, *options)))
    assert archive.read_file(DEVICE_CONF, LIMIT) == ENTRY
    for path in {each.path for each in archive.entries()} - {
        "srv/holes",
        "srv/a-hole",
        "usr/bin/su",
        "usr/bin/hard",
    }:
        place = rootfs / path
        if place.is_file() and not place.is_symlink():
            found = archive.read_file(path, LIMIT)
            mode = stat.S_IMODE(place.stat().st_mode)
            assert found == entry(place.read_bytes(), mode, 70000, 30000)
    for path in ("etc/azaion", "etc/fifo", "bin"):
        with pytest.raises(CorruptImage, match="not a regular file"):
            archive.read_file(path, LIMIT)
    for path in ("etc/azaion/device", "etc/socket", "azaion/device.conf", f"{'n' * 100}"):
        assert archive.read_file(path, LIMIT) is None


def test_a_set_user_id_bit_and_an_owner_beyond_octal_are_read(rootfs: Path) -> None:
    for options in (NVIDIA, ("--format=gnu",)):
        archive = Tar(io.BytesIO(gnu_tar(rootfs, *options, "--sort=name", group=3_000_000)))
        first = archive.read_file("usr/bin/hard", 70_000)
        assert first == entry(noise("su", 70_000), 0o4755, 70000, 3_000_000)


@pytest.mark.parametrize("packing", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_read_out_of_every_format_of_pythons_tarfile(rootfs: Path, packing: int) -> None:
    def owned(each: tarfile.TarInfo) -> tarfile.TarInfo | None:
        each.uid, each.gid = 70000, 30000
        each.uname = each.gname = ""
        return None if each.name == without else each

    without = "./long" if packing == tarfile.USTAR_FORMAT else ""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=packing) as writer:
        writer.add(rootfs, ".", filter=owned)
    archive = stream.getvalue()
    members = list(Tar(io.BytesIO(archive)).members())
    assert len(members) > 20
    assert [*map(essence, members)] == [*map(essence, seen_by_tarfile(archive))]
    assert read(archive) == ENTRY
    found = read(archive, LONG_NAMES[1])
    assert found is not None
    assert found.data == LONG_NAMES[1].encode()


def test_an_archive_is_told_by_its_magic_number(rootfs: Path) -> None:
    archive = gnu_tar(rootfs, *NVIDIA)
    assert archive[MAGIC_OFFSET:].startswith(MAGIC)
    assert image_format(io.BytesIO(archive)) == "tar"
    assert open_filesystem(io.BytesIO(archive)).read_file(DEVICE_CONF, LIMIT) == ENTRY
    for data in (
        b"",
        b"ustar",
        bytes(10_240),
        archive[:MAGIC_OFFSET],
        gnu_tar(rootfs / "etc", "-z"),
    ):
        with pytest.raises(CorruptImage, match=r"no tar magic|no tar header"):
            Tar(io.BytesIO(data))


@pytest.mark.parametrize("where", ["header", "file", "xattr"])
def test_an_extended_attribute_that_looks_like_a_header_is_only_an_attribute(
    tmp_path: Path, where: str
) -> None:
    root = tmp_path / "rootfs"
    place = root / DEVICE_CONF
    place.parent.mkdir(parents=True)
    place.write_bytes(CONF)
    other = root / "other"
    other.write_bytes(NEW)
    value = record(b"path", CONF_NAME)
    value = {"header": NEW_MEMBER, "file": NEW, "xattr": b"\0\xff\n" + value}[where]
    try:
        for each in (place, other, root):
            os.setxattr(each, "user.text", value)
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    archive = gnu_tar(root, *NVIDIA)
    assert b"SCHILY.xattr.user.text" in archive
    found = read(archive)
    assert found is not None
    assert found.data == CONF
    found = read(archive, "other")
    assert found is not None
    assert found.data == NEW


# The last member counts


@pytest.mark.parametrize("packing", ["ustar", "gnu", "oldgnu", "posix"])
@pytest.mark.parametrize("later", ["file", "gone", "folder", "symlink", "hard link", "fifo"])
def test_the_last_member_of_a_name_counts(tmp_path: Path, packing: str, later: str) -> None:
    image, root = tmp_path / "system.img", tmp_path / "rootfs"
    place = root / DEVICE_CONF
    place.parent.mkdir(parents=True)
    (root / "new").write_bytes(NEW)
    for data in (CONF[:-9], CONF):
        place.write_bytes(data)
        place.chmod(0o640)
        mode = "-rpf" if image.exists() else "-cpf"
        call("tar", f"--format={packing}", "--numeric-owner", mode, image, "-C", root, ".")
    if later != "gone":
        place.unlink()
    match later:
        case "file":
            place.write_bytes(NEW)
            place.chmod(0o600)
        case "folder":
            place.mkdir()
        case "symlink":
            place.symlink_to("../../new")
        case "hard link":
            place.hardlink_to(root / "new")
        case "fifo":
            os.mkfifo(place)
    names = ["./new"] if later == "gone" else ["./new", f"./{DEVICE_CONF}"]
    call("tar", f"--format={packing}", "--numeric-owner", "-rpf", image, "-C", root, *names)
    archive = image.read_bytes()
    if later in ("file", "gone"):
        expected = (NEW, 0o600) if later == "file" else (CONF, 0o640)
        found = read(archive)
        assert found is not None
        assert (found.data, found.mode) == expected
        assert (found.uid, found.gid) == (place.stat().st_uid, place.stat().st_gid)
        assert same(found, unpacked(archive))
    else:
        refused(archive, "not a regular file")


@pytest.mark.parametrize("place", ["etc", "etc/azaion"])
@pytest.mark.parametrize("target", ["srv", "/srv", "../srv", "."])
def test_a_folder_on_the_way_that_is_a_link_is_refused(
    tmp_path: Path, place: str, target: str
) -> None:
    root = tmp_path / "rootfs"
    (root / place).parent.mkdir(parents=True)
    (root / place).symlink_to(target)
    (root / "passwd").write_bytes(b"root:x:0:0::/:/bin/sh\n")
    archive = gnu_tar(root, *NVIDIA)
    refused(archive, f"/{place} is not a directory")
    assert read(archive, "passwd") is not None


@pytest.mark.parametrize("packing", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("asked", [DEVICE_CONF, f"/{DEVICE_CONF}", f"./{DEVICE_CONF}"])
@pytest.mark.parametrize("start", ["", "./", "/", "././/"])
def test_a_name_is_the_same_with_and_without_a_dot_before_it(
    start: str, asked: str, packing: int
) -> None:
    archive = packed([(f"{start}{DEVICE_CONF}", REGULAR, CONF)], packing)
    assert read(archive, asked) == entry(CONF)
    assert [each.path for each in Tar(io.BytesIO(archive)).entries()] == [DEVICE_CONF]


@pytest.mark.parametrize(
    "name", [b"../a", b"..", b"a/..", b"a/../" + CONF_NAME, b"/../a", b"./..//a", b"etc/.."]
)
def test_a_name_that_leads_upwards_is_refused(name: bytes) -> None:
    refused(OLD_MEMBER + member(name, NEW) + END, "leads out of the archive")
    refused(OLD_MEMBER + long_name(name) + member(b"a", NEW) + END, "leads out")
    refused(OLD_MEMBER + pax(record(b"path", name)) + member(b"a", NEW) + END, "leads out")
    prefix, slash, rest = name.partition(b"/")
    if prefix and slash:
        refused(OLD_MEMBER + member(rest, NEW, at_345=prefix) + END, "leads out")


def test_dots_that_lead_nowhere_are_part_of_a_name() -> None:
    archive = b"".join(member(name, NEW) for name in (b"..a", b"a../b", b".../c", b"a/..b"))
    assert [each.path for each in Tar(io.BytesIO(archive + END)).entries()] == [
        "..a",
        "a../b",
        ".../c",
        "a/..b",
    ]


# What GNU tar makes of what nobody should write


PATH, SPARSE_PATH = record(b"path", CONF_NAME), record(b"GNU.sparse.name", CONF_NAME)
GNU_AGREES = {
    "a long name": (long_name(CONF_NAME + b"\0junk") + member(b"a", NEW), NEW),
    "the last of two long names": (long_name(b"b") + long_name(CONF_NAME) + member(b"a", NEW), NEW),
    "a long link's name": (long_name(b"b", LONG_LINK) + NEW_MEMBER, NEW),
    "a pax name": (pax(PATH) + member(b"a", NEW), NEW),
    "a pax name of Solaris": (pax(PATH, kind=PAX_SOLARIS) + member(b"a", NEW), NEW),
    "the last of two pax names": (pax(record(b"path", b"b"), PATH) + member(b"a", NEW), NEW),
    "a pax name before a long one": (pax(PATH) + long_name(b"b") + member(b"a", NEW), NEW),
    "a pax name after a long one": (long_name(b"b") + pax(PATH) + member(b"a", NEW), NEW),
    "a pax name of another": (pax(record(b"path", b"b")) + NEW_MEMBER, CONF),
    "a pax header at the end": (pax(PATH), CONF),
    "a long name at the end": (long_name(CONF_NAME), CONF),
    "a name in two parts": (member(b"azaion/device.conf", NEW, at_345=b"etc"), NEW),
    "no second part in GNU's old format": (
        member(CONF_NAME, NEW, at_257=b"ustar  \0", at_345=b"00000000000"),
        NEW,
    ),
    "no magic behind the first member": (
        member(CONF_NAME, NEW, at_257=bytes(8), at_345=b"etc"),
        NEW,
    ),
    "an old kind of file": (member(CONF_NAME, NEW, kind=b"\0"), NEW),
    "a mode with the kind in it": (member(CONF_NAME, NEW, at_100=b"0100600"), NEW),
    "a contiguous file": (member(CONF_NAME, NEW, kind=b"7"), NEW),
    "a size in a pax header": (
        pax(record(b"size", b"%d" % len(NEW))) + header(CONF_NAME) + padded(NEW),
        NEW,
    ),
    "a size in base 256": (
        header(CONF_NAME, at_124=b"\x80" + len(NEW).to_bytes(11, "big")) + padded(NEW),
        NEW,
    ),
    "a size in short octal": (
        header(CONF_NAME, at_124=b"  %o \0\0\0\0\0" % len(NEW)) + padded(NEW),
        NEW,
    ),
    "a size of nothing": (header(CONF_NAME, at_124=bytes(12)), b""),
    "a comment on every member": (pax(record(b"comment", b"x"), kind=PAX_GLOBAL), CONF),
    "nothing behind one block of zeros": (bytes(BLOCK) + NEW_MEMBER, CONF),
    "nothing behind the end": (END + NEW_MEMBER, CONF),
    "a folder replaced by a file": (
        folder(CONF_NAME + b"/") + NEW_MEMBER,
        NEW,
    ),
    "a name that goes on": (member(CONF_NAME + b"ig", NEW), CONF),
    "links elsewhere": (
        folder(b"usr/lib") + link(b"lib", b"usr/lib") + member(b"lib/libc.so", NEW),
        CONF,
    ),
} | {
    f"data behind what has none: {kind!r}": (
        header(b"b", BLOCK * 2, kind, at_157=CONF_NAME) + NEW_MEMBER,
        NEW,
    )
    for kind in (HARD_LINK, SYMLINK, FOLDER, FIFO)
}


@pytest.mark.parametrize(("added", "data"), GNU_AGREES.values(), ids=GNU_AGREES)
def test_an_odd_archive_is_read_as_gnu_tar_unpacks_it(added: bytes, data: bytes) -> None:
    archive = OLD_MEMBER + added + END
    assert read(archive) == entry(data)
    assert same(unpacked(archive), entry(data))


AMBIGUOUS = {
    "below a link": (link(b"x", b"etc") + member(b"x/azaion/device.conf", NEW), "through a link"),
    "below a link to a link": (
        link(b"x", b"etc") + link(b"y", b"x/azaion") + member(b"y/device.conf", NEW),
        "through a link",
    ),
    "below a hard link to a link": (
        link(b"x", b"etc") + link(b"y", b"x", HARD_LINK) + member(b"y/azaion/device.conf", NEW),
        "through a link",
    ),
    "over a link that GNU tar makes at the end": (
        link(CONF_NAME, b"/srv/a") + NEW_MEMBER,
        "not a regular file in the archive but a link",
    ),
    "a folder below a link": (link(b"x", b".") + link(b"x/etc", b"srv"), "through a link"),
    "two pax headers": (
        pax(PATH) + pax(record(b"uid", b"5")) + member(b"a", NEW),
        "two extended",
    ),
    "a name for all": (pax(PATH, kind=PAX_GLOBAL) + member(b"a", NEW), "global"),
    "an owner for all": (pax(record(b"uid", b"5"), kind=PAX_GLOBAL) + NEW_MEMBER, "global"),
    "a file with a slash behind": (header(CONF_NAME + b"/"), "not a regular"),
    "an old file with a slash behind": (header(CONF_NAME + b"//", kind=b"\0"), "not a regular"),
    "a file with a dot behind": (header(CONF_NAME + b"/."), "the name"),
    "a file that is the root": (header(b"./."), "the name"),
    "a file with a slash and data": (
        header(CONF_NAME + b"/", 9) + padded(NEW),
        "damaged|not a number",
    ),
    "a member below the file": (member(CONF_NAME + b"/a", NEW), "members of its own"),
    "a sparse pax name": (pax(SPARSE_PATH) + member(b"a", NEW), "not a regular"),
    "a sparse pax name before another": (
        pax(SPARSE_PATH, record(b"path", b"b")) + member(b"a", NEW),
        "not a regular",
    ),
    "a sparse map": (pax(record(b"GNU.sparse.map", b"0,4")) + NEW_MEMBER, "not a regular"),
    "a name with a NUL": (pax(record(b"path", CONF_NAME + b"\0a")) + member(b"a"), "the name"),
    "no name": (member(b"", NEW), "the name"),
    "an empty pax name": (pax(record(b"path", b"")) + NEW_MEMBER, "the name"),
    "an empty long name": (long_name(b"\0") + NEW_MEMBER, "the name"),
    "root by name": (member(CONF_NAME, NEW, at_265=b"root"), "root by name and of 1000"),
    "group root by name": (member(CONF_NAME, NEW, at_297=b"root"), "root by name and of 1001"),
    **{
        f"the kind {kind!r}": (header(CONF_NAME, kind=kind), "not a regular")
        for kind in (b"D", b"M", b"N", b"S", b"V", b"Z", b"3", b"4", b"\xff", FIFO)
    },
    **{
        f"a folder of the kind {kind!r}": (link(b"etc/azaion", b"a", kind), "not a directory")
        for kind in (REGULAR, HARD_LINK, SYMLINK, FIFO, b"Z", b"D")
    },
}


@pytest.mark.parametrize(("added", "reason"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_could_be_unpacked_in_another_way_than_it_is_read_is_refused(
    added: bytes, reason: str
) -> None:
    refused(OLD_MEMBER + added + END, reason)


def test_an_owner_by_name_counts_only_for_the_file_that_is_read() -> None:
    others = member(b"a", NEW, at_265=b"root") + member(b"b", NEW, at_265=b"azaion")
    assert read(OLD_MEMBER + others + END) == entry(CONF)
    by_name = member(CONF_NAME, NEW, at_108=b"0000000", at_265=b"root", at_297=b"azaion")
    assert read(by_name + END) == entry(NEW, uid=0)


@given(members=any_members(), packing=PACKINGS, mode=MODES)
@settings(max_examples=200, deadline=None)
def test_whatever_gnu_tar_unpacks_is_what_is_read_if_it_is_not_refused(
    members: list[tuple[str, bytes, bytes | str]], packing: int, mode: int
) -> None:
    archive = packed(members, packing, mode)
    try:
        found = read(archive)
    except CorruptImage:
        return
    assert same(unpacked(archive), found)


ORDERLY = (
    ("etc", FOLDER),
    ("etc/azaion", FOLDER),
    (DEVICE_CONF, REGULAR),
    (f"{DEVICE_CONF}.old", REGULAR),
    ("usr/etc/azaion/device.conf", REGULAR),
    ("device.conf", SYMLINK),
    ("usr/azaion", SYMLINK),
    ("usr/other", HARD_LINK),
    ("run", FIFO),
)


@given(
    picked=st.lists(st.sampled_from(ORDERLY), max_size=10),
    start=STARTS,
    packing=PACKINGS,
    mode=MODES,
)
@settings(max_examples=60, deadline=None)
def test_an_orderly_archive_is_never_refused_and_its_last_file_is_read(
    picked: list[tuple[str, bytes]], start: str, packing: int, mode: int
) -> None:
    files = [
        (start + name, kind, b"%d" % number if kind == REGULAR else DEVICE_CONF)
        for number, (name, kind) in enumerate([("usr", FOLDER), *picked])
    ]
    archive = packed(files, packing, mode)
    contents = [data for name, _, data in files if name == start + DEVICE_CONF]
    found = read(archive)
    if contents:
        assert isinstance(contents[-1], bytes)
        assert found == entry(contents[-1], mode)
    else:
        assert found is None
    assert same(unpacked(archive), found)


# Archives that are cut short


@pytest.mark.parametrize("packing", ["ustar", "oldgnu-sparse", "posix-xattrs", "posix-sparse-1.0"])
def test_an_archive_cut_short_anywhere_before_its_end_is_refused(
    tmp_path: Path, packing: str
) -> None:
    root = tmp_path / "rootfs"
    (root / DEVICE_CONF).parent.mkdir(parents=True)
    (root / DEVICE_CONF).write_bytes(CONF)
    (root / DEVICE_CONF).chmod(0o600)
    with_holes(root / "holes", 100_000, [(at * 10_000, 10) for at in range(10)])
    whole = gnu_tar(root, *FORMATS[packing]) + bytes(BLOCK)
    *_, last = Tar(io.BytesIO(whole)).members()
    end = last.offset + -(-last.size // BLOCK) * BLOCK + BLOCK
    starts = range(0, len(whole), BLOCK)
    for length in (start + step for start in starts for step in (0, 1, 257, 262, 511)):
        if length < end:
            refused(whole[:length], r"cut short|no tar header")
        else:
            assert read(whole[:length]) == ENTRY


def test_an_archive_that_shrinks_while_it_is_read_is_refused() -> None:
    stream = io.BytesIO(OLD_MEMBER + member(b"a", noise("a", 5000)) + END)
    archive = Tar(stream)
    found = archive.find(DEVICE_CONF)
    assert found is not None
    stream.truncate(BLOCK + 9)
    with pytest.raises(CorruptImage, match="cut short"):
        archive.read_file(DEVICE_CONF, LIMIT)


# Archives larger than memory


class Far:
    """A stream of any length: zeros, and some pieces of data in between."""

    def __init__(self, size: int, pieces: dict[int, bytes]) -> None:
        self.size, self.pieces, self.position = size, pieces, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = start + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1, /) -> bytes:
        assert 0 <= size <= 2**20, "nobody can hold that much"
        data = bytearray(max(0, min(size, self.size - self.position)))
        for offset, piece in self.pieces.items():
            start, end = offset - self.position, offset - self.position + len(piece)
            if start < len(data) and end > 0:
                data[max(start, 0) : end] = piece[max(-start, 0) : len(data) - start]
        self.position += len(data)
        return bytes(data)


@pytest.mark.parametrize("packing", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [8 * 2**30 - 1, 8 * 2**30, 60 * 10**9 + 1, 2**45])
def test_a_member_behind_one_of_any_size_is_found_without_reading_that(
    size: int, packing: Literal[1, 2]
) -> None:
    info = tarfile.TarInfo("./srv/huge")
    info.size = size
    head = info.tobuf(packing)
    after = len(head) + -(-size // BLOCK) * BLOCK
    stream = Far(after + len(OLD_MEMBER) + len(END), {0: head, after: OLD_MEMBER})
    counted = Counted(stream)
    archive = Tar(counted)
    assert archive.read_file(DEVICE_CONF, LIMIT) == entry(CONF)
    assert counted.bytes_read < 4096
    with pytest.raises(CorruptImage, match=f"{size} bytes long, more than {LIMIT}"):
        archive.read_file("srv/huge", LIMIT)
    huge = archive.find("srv/huge")
    assert huge is not None
    assert huge.size == size
    with pytest.raises(CorruptImage, match="cut short"):
        Tar(Far(after - 1, {0: head})).find(DEVICE_CONF)


def test_a_file_up_to_the_limit_is_read_and_no_longer_one() -> None:
    archive = Tar(io.BytesIO(OLD_MEMBER + END))
    assert archive.read_file(DEVICE_CONF, len(CONF)) == entry(CONF)
    with pytest.raises(CorruptImage, match="more than"):
        archive.read_file(DEVICE_CONF, len(CONF) - 1)


@thorough
def test_an_archive_of_many_members_is_read_in_little_memory(tmp_path: Path) -> None:
    image = tmp_path / "system.img"
    with image.open("wb") as stream:
        for number in range(6_000):
            name = b"./usr/lib/%s/%d" % (b"n" * 150, number)
            kind = SYMLINK if number % 4 == 0 else REGULAR
            stream.write(pax(record(b"path", name), record(b"mtime", b"1700000000.5")))
            stream.write(member(b"a", b"" if kind == SYMLINK else b"data", kind))
        stream.write(OLD_MEMBER + END)
    with image.open("rb") as stream:
        tracemalloc.start()
        try:
            found = Tar(stream).read_file(DEVICE_CONF, LIMIT)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert found == entry(CONF)
        assert sum(1 for _ in Tar(stream).entries()) == 6_001
    assert peak < 2**20 // 2  # the names alone have a megabyte


def test_links_without_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("azaion_imagebuild.images.tar._MOST_LINKS", 9)
    links = [link(b"%d" % number, b"a", kind) for number, kind in enumerate([SYMLINK, b"1"] * 5)]
    assert read(OLD_MEMBER + b"".join(links[:9] * 3) + END) == entry(CONF)
    refused(OLD_MEMBER + b"".join(links) + END, "more than 9 links")


# Damaged and hostile headers


def test_every_changed_byte_of_a_header_is_noticed() -> None:
    archive = pax(record(b"uid", b"5")) + OLD_MEMBER + END
    headers = (0, 2 * BLOCK)
    for start, byte, change in itertools.product(headers, range(BLOCK), (1, 0x20, 0x80)):
        data = bytearray(archive)
        data[start + byte] ^= change
        if byte in (154, 155):  # what ends the checksum
            with contextlib.suppress(CorruptImage):
                assert read(bytes(data)) == entry(CONF, uid=5)
        else:
            refused(bytes(data), "damaged|checksum|no tar header at byte 0")


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (b"        ", "not a number"),
        (b"\x000000600", "not a number"),
        (b"0000608\0", "not a number"),
        (b"0000600x", "not a number"),
        (b"060 0600", "not a number"),
        (b"-0000600", "not a number"),
        (b"+0000600", "not a number"),
        (b"0x000600", "not a number"),
        (b"\t0000600", "not a number"),
        (b"\xff" * 8, "negative"),
        (b"\x81" + bytes(7), "not a number"),
        (b"\xc0" + bytes(7), "not a number"),
    ],
)
@pytest.mark.parametrize("at", [100, 108, 116, 124])
def test_a_number_that_gnu_tar_may_read_in_another_way_is_refused(
    field: bytes, reason: str, at: int
) -> None:
    field = field.ljust(12, field[-1:]) if at == 124 else field
    refused(header(CONF_NAME, 0, REGULAR, **{f"at_{at}": field}) + END, reason)


@pytest.mark.parametrize("size", [1, BLOCK * 3, 2**33, 2**62, 2**87, 2**88 - 1])
@pytest.mark.parametrize("kind", "07\0SDZxXgLK")
def test_a_size_beyond_the_archive_is_refused_without_reading(size: int, kind: str) -> None:
    lie = header(b"a", kind=kind.encode(), at_124=b"\x80" + size.to_bytes(11, "big"))
    stream = Counted(io.BytesIO(OLD_MEMBER + lie))
    with pytest.raises(CorruptImage, match=r"cut short|extended tar header of"):
        Tar(stream).read_file(DEVICE_CONF, LIMIT)
    assert stream.bytes_read <= 5 + 2 * BLOCK


def lying_pax(text: bytes) -> bytes:
    return pax(text) + NEW_MEMBER + END


@pytest.mark.parametrize(
    "text",
    [
        b"a",
        b" ",
        b"\n",
        b"9",
        b"9 ",
        b"0 a=b\n",
        b"-6 a=b\n",
        b"+6 a=b\n",
        b"5 a=b\n",
        b"7 a=b\n",
        b"6 a=bc",
        b"6\ta=b\n",
        b"5 ab\n",
        b" 6 a=b\n",
        b"6 a=b\n6 a=b",
        b"6 a=b\n\n",
        b"6 a=b\n99 path=etc\n",
        b"99999999999999999999 a=b\n",
        b"9" * 5000 + b" a=b\n",
        b"\xd9\xa6 a=b\n",  # an Arabic 6
        b"0x6 a=b\n",
        b"6 a=b\n" * 50 + b"7 a=b\n",
    ],
)
def test_a_pax_record_that_lies_about_its_length_is_refused(text: bytes) -> None:
    refused(lying_pax(text), "extended tar header is damaged")


@pytest.mark.parametrize("key", [b"uid", b"gid", b"size"])
@pytest.mark.parametrize(
    "value",
    [b"", b"-1", b"+1", b" 1", b"1 ", b"1.0", b"0x1", b"1_0", b"9" * 20, "²".encode(), b"1\0"],
)
def test_a_pax_number_that_is_none_is_refused(key: bytes, value: bytes) -> None:
    refused(lying_pax(record(key, value)), f"says {key.decode()}=")


@thorough
def test_an_extended_header_is_read_in_little_memory_and_none_over_a_megabyte() -> None:
    names = b"".join(record(b"%d" % number, b"") for number in range(2**20 // 16))
    fits = pax(names + record(b"uid", b"5")) + NEW_MEMBER + END
    tracemalloc.start()
    try:
        assert read(fits) == entry(NEW, uid=5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20
    for kind in (PAX, PAX_SOLARIS, PAX_GLOBAL, LONG_NAME, LONG_LINK):
        stream = Counted(io.BytesIO(member(b"a", bytes(2**20 + 1), kind) + NEW_MEMBER + END))
        with pytest.raises(CorruptImage, match="an extended tar header of 1048577 bytes"):
            Tar(stream).read_file(DEVICE_CONF, LIMIT)
        assert stream.bytes_read <= 5 + BLOCK


def never_misled(archive: bytes) -> None:
    """Read with a file, nothing or a refusal as the result, each byte at most once."""
    for path in (DEVICE_CONF, "a"):
        stream = Counted(io.BytesIO(archive))
        with contextlib.suppress(CorruptImage):
            found = Tar(stream).read_file(path, LIMIT)
            assert found is None or len(found.data) <= LIMIT
        assert stream.reads <= len(archive) // BLOCK + 4
        assert stream.bytes_read <= len(archive) + LIMIT + 5
    stream = Counted(io.BytesIO(archive))
    with contextlib.suppress(CorruptImage):
        for entry in Tar(stream).entries():
            assert not {"", ".", ".."} & {*entry.path.split("/")}
    assert stream.reads <= len(archive) // BLOCK + 4
    assert stream.bytes_read <= len(archive) + 5


def test_headers_that_never_end_are_read_once_each() -> None:
    extended = (PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK)
    for block in (header(CONF_NAME), *(header(b"a", kind=kind) for kind in extended)):
        never_misled(block * 2000)
    never_misled(header(b"a", kind=SPARSE, at_482=b"\1") + b"\1" * BLOCK * 2000)


BASE = bytearray(
    packed(
        [
            ("./", FOLDER, b""),
            ("./" + "n" * 200, REGULAR, noise("n", 700)),
            ("./etc/azaion", FOLDER, b""),
            (f"./{DEVICE_CONF}", REGULAR, CONF),
            ("./bin", SYMLINK, "usr/bin"),
            ("./a", REGULAR, NEW),
        ]
    ).rstrip(b"\0")
)
BASE += END + bytes(-len(BASE) % BLOCK)
HEADERS = [at for at in range(0, len(BASE), BLOCK) if BASE[at + MAGIC_OFFSET :].startswith(MAGIC)]


def with_sums(data: bytearray, headers: Iterable[int]) -> bytes:
    """Put valid checksums into the headers."""
    for at in headers:
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])
    return bytes(data)


@given(
    flips=st.lists(
        st.tuples(st.integers(0, len(BASE) - 1), st.integers(1, 255)), min_size=1, max_size=9
    ),
    valid=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_no_flipped_bytes_mislead_the_reader(flips: list[tuple[int, int]], valid: bool) -> None:
    data = bytearray(BASE)
    for at, change in flips:
        data[at] ^= change
    never_misled(with_sums(data, HEADERS) if valid else bytes(data))


RAW = st.binary(max_size=12) | st.sampled_from(
    [
        b"",
        b"0",
        b"777777777777",
        b"7777777\0",
        b"00000001000\0",
        b"00000002000 ",
        b"-1",
        b"\x80" + bytes(10) + b"\1",
        b"\x80" + bytes(9) + b"\2\0",
        b"\x80" + b"\xff" * 11,
        b"\xff" * 12,
        b"\xff" * 8,
    ]
)
NAMED = st.binary(max_size=99) | st.sampled_from(
    [CONF_NAME, CONF_NAME + b"/", b"./etc", b"etc/azaion", b"a", b"/", b".", b"..", b"", b"a/../b"]
)


@st.composite
def hostile_records(draw: st.DrawFn) -> bytes:
    """Draw the data of a pax header, true to the format or not."""
    keys = [
        b"path",
        b"size",
        b"uid",
        b"gid",
        b"GNU.sparse.name",
        b"GNU.sparse.map",
        b"SCHILY.xattr",
    ]
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        value = draw(NAMED | st.sampled_from([b"512", b"1000", b"9" * 19, b"-1", b"1e3"]))
        text = record(draw(st.sampled_from(keys)), value)
        lie = draw(st.sampled_from([0, 0, 0, 1, -1, 10**9]))
        length, _, rest = text.partition(b" ")
        parts.append(b"%d %s" % (max(0, int(length) + lie), rest) if lie else text)
    return b"".join(parts)


@st.composite
def hostile_blocks(draw: st.DrawFn) -> bytes:
    """Draw a header with a valid checksum and anything in it, and maybe its data."""
    kind = draw(st.sampled_from([*b"0127L", *b"xxxxLKgXSD5", 0, 255]) | st.integers(0, 255))
    data = draw(hostile_records()) if kind in b"xgX" else draw(NAMED) + bytes(2)
    fields = {
        f"at_{at}": draw(RAW)[:width]
        for at, width in ((100, 8), (108, 8), (116, 8), (124, 12))
        if draw(st.sampled_from([True, False, False, False, False]))
    }
    magic = draw(st.sampled_from([b"ustar\x0000", b"ustar  \0", bytes(8)]))
    more = draw(st.sampled_from([b"", b"", b"\1", b"\xff"]))
    start = header(draw(NAMED), len(data), bytes([kind]), at_257=magic, at_482=more, **fields)
    return start + padded(data) * draw(st.sampled_from([1, 1, 1, 0, 2]))


@given(blocks=st.lists(hostile_blocks() | st.just(NEW_MEMBER), max_size=8))
@settings(max_examples=400, deadline=None)
def test_no_hostile_headers_with_valid_checksums_mislead_the_reader(blocks: list[bytes]) -> None:
    never_misled(folder(b"./") + b"".join(blocks) + END)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_no_noise_with_valid_checksums_misleads_the_reader(seed: int, count: int) -> None:
    data = bytearray(noise(seed, count * BLOCK))
    for at in range(0, len(data), BLOCK):
        data[at + MAGIC_OFFSET : at + MAGIC_OFFSET + 5] = MAGIC
        data[at + 124 : at + 136] = b"%011o\0" % (seed % 1025)
    never_misled(with_sums(data, range(0, len(data), BLOCK)) + END)
