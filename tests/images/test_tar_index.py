"""A tar is walked once: where its files lie is remembered, and checked before it is believed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tar_making import any_members, packed
from thorough import one_of
from world import EMAIL, SERIAL, Run

from azaion_imagebuild import images
from azaion_imagebuild.errors import VerificationError
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.placeholder import is_placeholder, padded, placeholder
from azaion_imagebuild.images import indexed, tar
from azaion_imagebuild.images import stamp as stamping
from azaion_imagebuild.images import tar_index as places
from azaion_imagebuild.images.copy import copy_image
from azaion_imagebuild.images.stream import read_exactly
from azaion_imagebuild.images.tar import BLOCK, Tar
from azaion_imagebuild.images.version import Version
from azaion_imagebuild.l4t import cleanup
from azaion_imagebuild.model import DEVICE_CONF, RELEASE_FILE, FileEntry
from azaion_imagebuild.sandbox import Sandbox
from azaion_imagebuild.settings import PLACEHOLDER_SIZE

CONF = b"AZAION_DEVICE_EMAIL=%s\nAZAION_DEVICE_PASSWORD=%032x\n"
PASSWD = b"root:x:0:0::/root:/bin/sh\nazaion:x:1000:1000::/:/bin/false\n"
RELEASE = b"# R35, reference BSP\n"
NEEDED = (DEVICE_CONF, "etc/passwd", "etc/group", RELEASE_FILE)
Member = tuple[str, bytes]


def conf(number: int) -> bytes:
    return padded(CONF % (EMAIL.encode(), number * 7919 + 1), PLACEHOLDER_SIZE)


def tar_of(members: Iterable[Member], packing: int = tarfile.GNU_FORMAT) -> bytes:
    """Pack (name, data); a name that ends in a slash is a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=packing) as writer:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.mode = 0o600 if name.endswith(DEVICE_CONF) else 0o755
            info.uid = info.gid = 1000 if name.endswith(DEVICE_CONF) else 0
            info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def rootfs(others: int = 20) -> list[Member]:
    files = [(f"./usr/{number}", b"x" * 700) for number in range(others)]
    return [
        ("./etc/", b""),
        *files[: others // 2],
        ("./etc/passwd", PASSWD),
        ("./etc/group", b"root:x:0:\n"),
        ("./etc/azaion/", b""),
        (f"./{DEVICE_CONF}", placeholder()),
        (f"./{RELEASE_FILE}", RELEASE),
        *files[others // 2 :],
    ]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A tar as the initrd flash has it, with a placeholder."""
    path = tmp_path / "images" / "system.img"
    path.parent.mkdir()
    path.write_bytes(tar_of(rootfs()))
    return path


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets an entry whenever an archive is walked."""
    seen: list[str] = []
    members = Tar.members

    def counted(self: Tar) -> Any:
        seen.append("walked")
        return members(self)

    monkeypatch.setattr(Tar, "members", counted)
    return seen


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many stamps, and no power to lose."""
    monkeypatch.setattr("azaion_imagebuild.images.stamp.os.fdatasync", lambda _: None)


def note_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.azaion-place.json")


def write(path: Path, data: bytes) -> None:
    with stamping.opened_for_stamping(path, 0) as opened:
        opened.write(data)


def read(path: Path) -> FileEntry | None:
    return indexed.read_file(path, DEVICE_CONF, device_conf.LONGEST)


def read_again(path: Path) -> FileEntry | None:
    return images.read_file(path, DEVICE_CONF, device_conf.LONGEST)


def data_of(path: Path) -> bytes:
    entry = read_again(path)
    assert entry is not None
    return entry.data


def offset_of(path: Path, name: str = DEVICE_CONF) -> int:
    """Return where the header of a member begins."""
    with path.open("rb") as stream:
        member = Tar(stream).find(name)
    assert member is not None
    return member.start


def change(path: Path, offset: int, data: bytes) -> None:
    """Overwrite a part of an image as another program would, later than whatever was before."""
    tick(path)
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def tick(path: Path) -> None:
    """Wait until the clock has moved on since a file was changed; that of old kernels is coarse."""
    scratch = path.with_name("scratch")
    scratch.touch()
    while scratch.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        scratch.touch()
    scratch.unlink()


def with_sum(header: bytes) -> bytes:
    """Return a header with its checksum put right."""
    header = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def edit(path: Path, **changes: Any) -> None:
    """Change fields of the note."""
    fields = json.loads(note_of(path).read_text())
    note_of(path).write_text(json.dumps(fields | changes))


def as_if_nothing_had_changed(path: Path) -> None:
    """Let the note be of the image as it is now: as if all its times had been kept."""
    edit(path, image=structs.asdict(Version.of(path)))


@pytest.fixture
def given_conf(tmp_path: Path) -> Path:
    path = tmp_path / "given.conf"
    path.write_bytes(conf(42))
    return path


# Walked once


def test_only_the_first_stamp_walks_through_the_archive(
    run: Run, image: Path, given_conf: Path, walks: list[str], tmp_path: Path
) -> None:
    command = ("stamp", image, "--serial", SERIAL, "--device-conf", given_conf)
    assert run(*command).code == 0
    assert walks == ["walked"]
    for _ in range(3):
        assert run(*command).code == 0
        assert run("stamp", image, "--clear").code == 0
    out = tmp_path / "copy.img"
    assert run(*command, "--out", out).code == 0
    assert walks == ["walked"]
    assert (data_of(out), is_placeholder(data_of(image))) == (conf(42), True)
    assert list(tmp_path.glob(".*")) == [], "a copy gets no note"
    assert run("verify", image, "--serial", SERIAL).code == 8
    assert run("verify", out, "--serial", SERIAL).code == 0


def test_the_sandbox_is_known_again_without_a_walk(run: Run, image: Path, walks: list[str]) -> None:
    for _ in range(2):
        ran = run("stamp", image, "--serial", SERIAL, "--json")
        assert (ran.code, ran.json["sandbox"]) == (0, True), ran.err
    assert walks == ["walked"]


def test_a_stamp_reads_no_more_of_a_large_archive_than_of_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counted(stream: Any, offset: int, size: int, what: str) -> bytes:
        sizes.append(size)
        return read_exactly(stream, offset, size, what)

    for module in ("images.tar", "images.tar_index"):
        monkeypatch.setattr(f"azaion_imagebuild.{module}.read_exactly", counted)
    seen = []
    for others in (0, 3000):
        path = tmp_path / f"{others}"
        path.write_bytes(tar_of(rootfs(others)))
        write(path, conf(1))
        sizes.clear()
        write(path, conf(2))
        entry = read(path)
        assert entry is not None
        assert entry.data == conf(2)
        seen.append(sum(sizes))
    assert seen[0] == seen[1] < 8 * BLOCK


def test_a_thousand_stamps_change_the_members_data_and_walk_once(
    image: Path, walks: list[str]
) -> None:
    before = image.read_bytes()
    start = offset_of(image) + BLOCK
    walks.clear()
    for number in range(1000):
        write(image, conf(number))
        entry = read(image)
        assert entry is not None
        assert (entry.data, entry.mode, entry.uid, entry.gid) == (conf(number), 0o600, 1000, 1000)
    assert walks == ["walked"]
    assert image.read_bytes() == before[:start] + conf(999) + before[start + PLACEHOLDER_SIZE :]


@pytest.mark.parametrize("packing", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_extended_headers_are_remembered_with_their_member(
    tmp_path: Path, walks: list[str], packing: int
) -> None:
    path = tmp_path / "system.img"
    long = f"./{'./' * 60}{DEVICE_CONF}"  # in an extended header, where there are such
    name = long if packing != tarfile.USTAR_FORMAT else DEVICE_CONF
    path.write_bytes(tar_of([("./etc/passwd", PASSWD), (name, placeholder())], packing))
    for number in range(2):
        write(path, conf(number))
        entry = read(path)
        assert entry is not None
        assert entry.data == conf(number)
    assert walks == ["walked"]


def test_a_link_to_an_image_shares_what_is_remembered(
    image: Path, walks: list[str], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(image)
    write(tmp_path / "link", conf(1))
    write(image, conf(2))
    assert walks == ["walked"]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_note_holds_no_secret_and_can_be_changed_by_its_owner_only(image: Path) -> None:
    write(image, conf(42))
    text = note_of(image).read_text()
    assert "%032x" % (42 * 7919 + 1) not in text
    assert "@" not in text
    assert note_of(image).stat().st_mode & 0o777 == 0o644
    assert [path.name for path in image.parent.iterdir() if path != image] == [note_of(image).name]


def test_only_a_tar_gets_a_note(tmp_path: Path) -> None:
    root, raw = tmp_path / "root", tmp_path / "system.img.raw"
    (root / DEVICE_CONF).parent.mkdir(parents=True)
    (root / DEVICE_CONF).write_bytes(placeholder())
    mke2fs = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(raw), "4M"]
    subprocess.run(mke2fs, check=True, capture_output=True)
    write(raw, conf(1))
    entry = read(raw)
    assert entry is not None
    assert entry.data == conf(1)
    assert list(tmp_path.glob(".*")) == []


# A changed image is located again


def test_a_member_that_was_added_is_the_one_that_is_stamped(image: Path, tmp_path: Path) -> None:
    write(image, conf(1))
    old = offset_of(image)
    added = tmp_path / "added" / DEVICE_CONF
    added.parent.mkdir(parents=True)
    added.write_bytes(placeholder())
    size = image.stat().st_size
    subprocess.run(["tar", "-rf", image, "-C", tmp_path / "added", f"./{DEVICE_CONF}"], check=True)
    assert image.stat().st_size == size, "it was added to the padding"
    as_if_nothing_had_changed(image)
    write(image, conf(2))
    assert offset_of(image) > old
    assert data_of(image) == conf(2)


def test_a_header_that_was_changed_is_read_again(image: Path, walks: list[str]) -> None:
    write(image, conf(1))
    start = offset_of(image)
    walks.clear()
    header = image.read_bytes()[start : start + BLOCK]
    for mode in (b"0000640", b"0000600"):
        header = with_sum(header[:100] + mode + header[107:])
        change(image, start, header)
        as_if_nothing_had_changed(image)
        entry = read(image)
        assert entry is not None
        assert (entry.mode, entry.data) == (int(mode, 8), conf(1))
    assert walks == ["walked"] * 2
    change(image, start, header[:99] + b"x" + header[100:])  # the checksum is wrong
    as_if_nothing_had_changed(image)
    with pytest.raises(VerificationError, match="damaged"):
        read(image)


def test_a_change_elsewhere_is_noticed_although_its_mtime_was_set_back(image: Path) -> None:
    write(image, conf(1))
    before = image.stat()
    start = offset_of(image, "etc/azaion")
    header = image.read_bytes()[start : start + BLOCK]
    change(image, start, with_sum(header[:156] + b"2" + header[157:]))  # a link now
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert image.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(VerificationError, match="not a directory"):
        write(image, conf(2))
    assert conf(2) not in image.read_bytes()


def test_another_file_in_its_place_is_located_again(image: Path) -> None:
    write(image, conf(1))
    found = image.stat()
    members = rootfs()
    other = image.with_name("other")
    other.write_bytes(tar_of([*members[-4:], *members[:-4]]))
    other.replace(image)
    os.utime(image, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert image.stat().st_size == found.st_size
    write(image, conf(2))
    assert data_of(image) == conf(2)


@pytest.mark.parametrize("length", [0, 300, BLOCK, 9 * BLOCK, 25 * BLOCK])
def test_an_archive_that_was_cut_short_is_refused(image: Path, length: int) -> None:
    write(image, conf(1))
    os.truncate(image, length)
    for _ in range(2):
        with pytest.raises(VerificationError):
            write(image, conf(2))
        as_if_nothing_had_changed(image)


def test_a_note_of_another_version_of_this_tool_is_not_believed(
    image: Path, walks: list[str]
) -> None:
    write(image, conf(1))
    edit(image, version="0.0.1")
    write(image, conf(2))
    assert walks == ["walked"] * 2


@given(lists=st.lists(any_members(), min_size=2, max_size=3))
@settings(max_examples=60, deadline=None)
def test_whatever_becomes_of_an_archive_is_read_as_if_nothing_were_remembered(
    lists: list[list[tuple[str, bytes, bytes | str]]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "system.img")
        path.touch()
        for members in lists:
            change(path, 0, packed(members))
            for needed in (DEVICE_CONF, "etc/passwd"):
                again = outcome(images.read_file, path, needed)
                assert [outcome(indexed.read_file, path, needed) for _ in range(2)] == [again] * 2


def outcome(reader: Callable[..., FileEntry | None], path: Path, name: str) -> object:
    try:
        return reader(path, name, 65536)
    except VerificationError as error:
        return error.message


# Notes that are not ours, or lie


GARBAGE = {
    "nothing": b"",
    "no JSON": b"\xff\x00{",
    "deep": b"[" * 4000,
    "huge": b" " * 10_000_000,
    "a number": b"1" * 4000,
    "null": b"null",
    "a list": b"[]",
    "no fields": b"{}",
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_replaced(image: Path, walks: list[str], text: bytes) -> None:
    note_of(image).write_bytes(text)
    write(image, conf(1))
    write(image, conf(2))
    assert walks == ["walked"]
    assert data_of(image) == conf(2)


PLACES: list[Any] = [{}, [], 5, "x", {"start": 0}]
WRONG: list[dict[str, Any]] = [
    {"image": None},
    {"image": {}},
    {"image": [1, 2, 3, 4]},
    {"end": None},
    {"end": True},
    {"end": -512},
    {"end": 1},
    {"end": 0},
    {"end": 10**30},
    {"end": 1e3},
    {"files": None},
    {"files": []},
    {"files": {}},
    *({"files": {DEVICE_CONF: place}} for place in PLACES),
    *(
        {"files": {DEVICE_CONF: {"start": start, "sha256": "0" * 64}}}
        for start in (None, True, -512, 1, 0, 512, 10**6 * 512, 10**400, 512.0, "512", [512])
    ),
    {"files": {DEVICE_CONF: {"start": 0, "sha256": None, "more": 1}}},
]


@pytest.mark.parametrize("fields", one_of(WRONG), ids=[str(fields)[:50] for fields in WRONG])
def test_a_note_with_a_wrong_field_is_not_believed(
    image: Path, walks: list[str], fields: dict[str, Any]
) -> None:
    write(image, conf(1))
    edit(image, **fields)
    walks.clear()
    write(image, conf(2))
    assert walks == ["walked"]
    assert data_of(image) == conf(2)


def with_decoy(image: Path) -> int:
    """Let a file of the archive hold a header of device.conf; return where."""
    decoy = tar_of([(DEVICE_CONF, placeholder())])
    image.write_bytes(tar_of([*rootfs(), ("./srv/backup.tar", decoy)]))
    return offset_of(image, "srv/backup.tar") + BLOCK


def plant(image: Path, start: int) -> None:
    """Let the note say that device.conf is at ``start``, with the digest of what is there."""
    with image.open("rb") as stream:
        archive = places.IndexedTar(image, stream.fileno())
        member = archive.member_at(start)
        assert member is not None
        place = msgspec.to_builtins(archive._place(member))
    files = json.loads(note_of(image).read_text())["files"]
    edit(image, files=files | {DEVICE_CONF: place})


@pytest.mark.parametrize("how", ["owner", "group", "others", "link", "folder", "fifo"])
def test_a_note_that_somebody_else_may_have_written_is_not_believed(
    image: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoy = with_decoy(image)
    write(image, conf(1))
    note = note_of(image)
    plant(image, decoy)
    match how:
        case "owner":
            if os.geteuid():
                monkeypatch.setattr("azaion_imagebuild.images.tar_index.os.geteuid", lambda: 4711)
            else:
                os.chown(note, 4711, 0)
        case "group":
            note.chmod(0o664)
        case "others":
            note.chmod(0o646)
        case "link":
            note.rename(note.with_name("planted"))
            note.symlink_to("planted")
        case "folder":
            note.unlink()
            note.mkdir()
        case "fifo":
            note.unlink()
            os.mkfifo(note)
    write(image, conf(2))
    assert data_of(image) == conf(2)
    assert image.read_bytes().count(placeholder()) == 1, "the decoy is as it was"
    if how == "link":
        assert note.is_file()
        assert not note.is_symlink()
        assert "sha256" in note.with_name("planted").read_text()
    assert list(image.parent.glob("*.json.*")) == []


def test_a_note_of_ours_that_lies_never_leads_outside_a_member_of_that_name(image: Path) -> None:
    old = [(DEVICE_CONF, placeholder())]
    odd = ("./srv/odd", b"x" + tar_of(old))  # a header in there, at an odd offset
    image.write_bytes(tar_of([*old, *rootfs(), odd]))
    write(image, conf(1))
    with image.open("rb") as stream:
        members = list(Tar(stream).members())
    named = {each.offset for each in members if each.name == DEVICE_CONF}
    assert len(named) == 2
    starts = {each.start for each in members} | {offset_of(image, "srv/odd") + BLOCK + 1}
    for start in sorted({*starts, *range(0, image.stat().st_size, BLOCK)}):
        if start in starts:
            plant(image, start)
        else:
            edit(image, files={DEVICE_CONF: {"start": start, "sha256": "0" * 64}})
        with stamping.opened_for_stamping(image, 0) as opened:
            (place,) = opened.location.ranges
        assert place.offset in named
        assert place.length == PLACEHOLDER_SIZE


def test_headers_of_any_length_are_found_but_not_remembered(
    tmp_path: Path, walks: list[str]
) -> None:
    path = tmp_path / "system.img"
    info = tarfile.TarInfo(DEVICE_CONF)
    info.size, info.pax_headers = PLACEHOLDER_SIZE, {"comment": "x" * 100_000}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as writer:
        writer.addfile(info, io.BytesIO(placeholder()))
    for number in range(2):
        write(path, conf(number))
        assert data_of(path) == conf(number)
    assert walks.count("walked") == 4, "each time: to stamp, and to look here"


# Other programs, and crashes


class Killed(BaseException):
    """The process was."""


@pytest.mark.parametrize("where", ["update", "write_index", "os.replace"])
def test_a_crash_between_the_stamp_and_the_note_leads_to_a_walk(
    image: Path, walks: list[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    write(image, conf(1))
    tick(image)
    with monkeypatch.context() as patched:
        patched.setattr(f"azaion_imagebuild.images.tar_index.{where}", killed)
        with pytest.raises(Killed):
            write(image, conf(2))
    assert data_of(image) == conf(2)
    walks.clear()
    for number in (3, 4):
        write(image, conf(number))
        entry = read(image)
        assert entry is not None
        assert entry.data == conf(number)
    assert walks == ["walked"]
    assert [path.name for path in image.parent.iterdir() if path != image] == [note_of(image).name]


def test_what_another_program_moves_while_the_image_is_open_is_not_stamped(image: Path) -> None:
    old = offset_of(image)
    with stamping.opened_for_stamping(image, 0) as opened:
        change(image, 0, tar_of([("./usr/first", b""), *rootfs()]))
        now = image.read_bytes()
        with pytest.raises(VerificationError, match="another program changed"):
            opened.write(conf(1))
    assert image.read_bytes() == now
    write(image, conf(2))
    assert offset_of(image) > old
    assert data_of(image) == conf(2)


def test_what_another_program_changes_elsewhere_while_it_is_open_does_no_harm(image: Path) -> None:
    with stamping.opened_for_stamping(image, 0) as opened:
        change(image, offset_of(image, "usr/3") + BLOCK, b"y")
        opened.write(conf(1))
    assert data_of(image) == conf(1)


@pytest.mark.parametrize("sync", [1, 2, 3])
def test_a_change_in_the_middle_of_a_stamp_is_not_remembered_as_ours(
    image: Path, walks: list[str], monkeypatch: pytest.MonkeyPatch, sync: int
) -> None:
    write(image, conf(1))
    start = offset_of(image, "usr/19")
    header = image.read_bytes()[start : start + BLOCK]
    named = with_sum(f"./{DEVICE_CONF}".encode().ljust(100, b"\0") + header[100:])

    syncs = []

    def meanwhile(_: int) -> None:
        syncs.append(1)
        if len(syncs) == sync:
            change(image, start, named)

    with monkeypatch.context() as patched:
        patched.setattr("azaion_imagebuild.images.stamp.os.fdatasync", meanwhile)
        write(image, conf(2))
    walks.clear()
    entry = read(image)
    assert walks == ["walked"]
    assert entry is not None
    assert entry.data == b"x" * 700


def test_a_change_during_the_walk_is_not_remembered(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = Tar.walk

    def disturbed(self: Tar, paths: Iterable[str]) -> tar.Walk:
        found = walk(self, paths)
        change(image, 0, tar_of([("./usr/first", b""), *rootfs()]))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Tar, "walk", disturbed)
        assert read(image) is not None
    assert not note_of(image).exists()
    write(image, conf(1))
    assert data_of(image) == conf(1)


def test_a_note_of_another_time_stays_wrong(image: Path) -> None:
    write(image, conf(1))
    old = note_of(image).read_bytes()
    before = Version.of(image)
    change(image, 0, image.read_bytes()[:1])
    now = Version.of(image)
    places.update(image, structs.replace(before, inode=0), now)
    assert note_of(image).read_bytes() == old


def test_a_copy_of_an_image_that_changed_meanwhile_is_walked(image: Path, tmp_path: Path) -> None:
    write(image, conf(1))
    for meanwhile in (False, True):
        copy = tmp_path / f"copy-{meanwhile}"
        with places.copied_with(image, copy):
            copy_image(image, copy)
            if meanwhile:
                change(image, 0, image.read_bytes()[:1])
        assert note_of(copy).exists() is not meanwhile
        places.forget(copy)
        assert not note_of(copy).exists()


# Nothing stays behind


def test_a_note_goes_with_its_image(run: Run, tmp_path: Path) -> None:
    Path("imagebuild.toml").write_text(
        '[bsp]\nmethod = "initrd"\nexternal_device = "nvme0n1p1"\n'
        'partition_xml = "tools/kernel_flash/flash_l4t_external.xml"\n'
    )
    bsp = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox").bsp
    place = bsp / "tools/kernel_flash/images/external/system.img"
    for serial in ("AZJN-0001", "AZJN-0002"):
        ran = run("image", "--serial", serial, "--inject", "stamp")
        assert ran.code == 0, ran.err
        found = device_conf.parse(data_of(place)).email  # the sandbox keeps its image
        assert found == f"azaion-jetson-{serial[-4:]}@azaion.com"
        assert note_of(place).is_file()
    assert run("image", "--serial", "AZJN-0003").code == 0
    assert list(bsp.rglob("*azaion-place*")) == []


def test_notes_are_removed_with_the_images_of_a_tree(tmp_path: Path) -> None:
    def cleared(tree: Path) -> None:
        cleanup.clear_images(tree)
        cleanup.remove_unusable(tree)

    for clear in (cleared, lambda tree: cleanup.remove_images_since(tree, 0)):
        names = ("system.img", "system.img.raw", "system.img_b", "system.img_b.raw")
        packed = "tools/kernel_flash/images"
        folders = ("bootloader", f"{packed}/internal", f"{packed}/external")
        for name in (f"{folder}/{each}" for folder in folders for each in names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(tar_of(rootfs()))
            write(tmp_path / name, conf(1))
            note_of(tmp_path / name).with_suffix(".json.4711").touch()  # of a killed run
        clear(tmp_path)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
