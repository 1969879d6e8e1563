"""Stamping an archive that zstd packed: packed again once, then overwritten in its last frame."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from image_making import call, noise
from world import SERIAL, Run

from azaion_imagebuild import images
from azaion_imagebuild.errors import ImageBuildError, VerificationError
from azaion_imagebuild.identity.placeholder import padded, placeholder
from azaion_imagebuild.images import indexed, slot
from azaion_imagebuild.images import stamp as stamping
from azaion_imagebuild.images.reframe import reframe
from azaion_imagebuild.images.tar import Tar
from azaion_imagebuild.images.version import Version
from azaion_imagebuild.images.zstd import Unpacked, library
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox.bsp import create_rootfs, service_user
from azaion_imagebuild.settings import PLACEHOLDER_SIZE

zstd: Any = library()
OWNER = (service_user(), service_user() if os.geteuid() == 0 else os.getegid())
TARGET = ("--checkpoint=10000", "--warning=no-timestamp", "--numeric-owner", "--xattrs",
          "--xattrs-include=*")  # fmt: skip
"""The options of NVIDIA's l4t_flash_from_kernel.sh (R38), which runs on the device."""

needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")


def conf(number: int) -> bytes:
    text = b"AZAION_DEVICE_EMAIL=azaion-jetson-%04d@azaion.com\nAZAION_DEVICE_PASSWORD=%032x\n"
    return padded(text % (number, number * 7919 + 1), PLACEHOLDER_SIZE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    create_rootfs(root, service_user())
    (root / DEVICE_CONF).parent.mkdir()
    (root / DEVICE_CONF).write_bytes(placeholder())
    (root / DEVICE_CONF).chmod(0o600)
    if os.geteuid() == 0:
        os.chown(root / DEVICE_CONF, *OWNER)
    (root / "usr/noise").write_bytes(noise("packed", 400_000))
    (root / "usr/hard").hardlink_to(root / "usr/noise")
    (root / "usr/link").symlink_to("noise")
    (root / "usr/long").mkdir()
    (root / "usr/long" / ("name" * 40)).write_bytes(b"x" * 3000)
    os.utime(root / "usr/noise", (1, 12345))
    return root


def tar_of(root: Path) -> bytes:
    argv = ["tar", "--xattrs", "--numeric-owner", "-cpf", "-", "-C", str(root), "."]
    return subprocess.run(argv, check=True, capture_output=True).stdout


@pytest.fixture
def image(root: Path, tmp_path: Path) -> Path:
    """An archive as R36.4 packs it, with a placeholder somewhere in the middle."""
    path = tmp_path / "images/external/system.img"
    path.parent.mkdir(parents=True)
    path.write_bytes(zstd.compress(tar_of(root)))
    path.with_name("system.img.sha1sum").write_text("0" * 40 + "\n")
    return path


def make_slot(path: Path, descriptor: int) -> bytes | None:
    return slot.ensure_packed_slot(path, descriptor, OWNER)


def prepare(path: Path) -> None:
    with stamping.opened_for_stamping(path, 0, make_slot):
        pass


def write(path: Path, data: bytes) -> None:
    with stamping.opened_for_stamping(path, 0) as opened:
        stamping.stamp([opened], lambda _: data)


def unpacked(path: Path) -> bytes:
    return bytes(zstd.decompress(path.read_bytes()))


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """Return all of a tree that a device gets: kind, mode, owner, time, content, links."""
    seen = {}
    for path in (root, *sorted(root.rglob("*"))):
        at = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        target = path.readlink() if path.is_symlink() else None
        links = at.st_nlink if path.is_file() else 0
        name = path.relative_to(root).as_posix()
        seen[name] = (at.st_mode, at.st_uid, at.st_gid, int(at.st_mtime), content, target, links)
    return seen


def unpack(tmp_path: Path, name: str, *argv: object, stdin: bytes | None = None) -> Any:
    out = tmp_path / name
    out.mkdir()
    subprocess.run(["tar", *map(str, argv), "-C", out], check=True, input=stdin,
                   capture_output=True)  # fmt: skip
    return tree(out)


@needs_zstd
def test_every_way_to_unpack_a_stamped_archive_gives_what_the_plain_one_gives(
    root: Path, image: Path, tmp_path: Path
) -> None:
    prepare(image)
    write(image, conf(7))
    (root / DEVICE_CONF).write_bytes(conf(7))
    plain = unpack(tmp_path, "plain", "-xpf", "-", stdin=tar_of(root))
    found = {
        "tar -I zstd": unpack(tmp_path, "a", "-I", "zstd", "-xpf", image),
        "tar --zstd": unpack(tmp_path, "b", "--zstd", "-xpf", image),
        "by its magic": unpack(tmp_path, "c", "-xpf", image),
        "on the device": unpack(tmp_path, "d", "-x", "-I", "zstd -T0", "-pf", image, *TARGET),
        "zstd -d": unpack(
            tmp_path, "e", "-xpf", "-",
            stdin=subprocess.run(["zstd", "-dqc", image], check=True, capture_output=True).stdout,
        ),
    }  # fmt: skip
    moved = {DEVICE_CONF, "etc/azaion"}  # this test has written the one, and tar the other
    for how, seen in found.items():
        assert seen.keys() == plain.keys(), how
        for name in seen.keys() - moved:
            assert seen[name] == plain[name], (how, name)
        assert seen[DEVICE_CONF][:3] + seen[DEVICE_CONF][4:] == (
            plain[DEVICE_CONF][:3] + plain[DEVICE_CONF][4:]
        )
    call("zstd", "-tq", image)


def test_packing_again_moves_device_conf_to_the_end_and_changes_no_other_byte(image: Path) -> None:
    before = Tar(io.BytesIO(unpacked(image)))
    old = {each.name: before_bytes for each, before_bytes in members(unpacked(image))}
    prepare(image)
    data = unpacked(image)
    new = members(data)
    assert new[-1][0].name == DEVICE_CONF
    assert {each.name: content for each, content in new} == old
    assert [each.name for each, _ in new[:-1]] == [
        each.name for each in before.members() if each.name != DEVICE_CONF
    ]
    assert len(data) % 10240 == 0


def members(data: bytes) -> list[tuple[Any, bytes]]:
    archive = Tar(io.BytesIO(data))
    return [(each, data[each.start : archive.after(each)]) for each in archive.members()]


def test_a_stamp_changes_bytes_of_the_last_frame_only(image: Path) -> None:
    prepare(image)
    stream = Unpacked(io.BytesIO(image.read_bytes()))
    stream.drain()
    last = stream.frames[-1].offset
    before = image.read_bytes()
    assert len(stream.frames) == 2
    for number in range(5):
        write(image, conf(number))
        after = image.read_bytes()
        assert (after[:last], len(after)) == (before[:last], len(before))
        assert zstd.decompress(after[last:]).count(conf(number)) == 1
        said = image.with_name("system.img.sha1sum").read_text().split()[0]
        assert said == hashlib.sha1(after, usedforsecurity=False).hexdigest()


def test_packing_again_keeps_the_archives_owner_and_mode_and_happens_once(image: Path) -> None:
    image.chmod(0o640)
    owner = (4711, 4712) if os.geteuid() == 0 else OWNER
    os.chown(image, *owner)
    prepare(image)
    first = image.stat()
    assert (first.st_mode & 0o777, first.st_uid, first.st_gid) == (0o640, *owner)
    prepare(image)
    assert (image.stat().st_ino, image.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_a_link_to_an_archive_stays_a_link(image: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.img"
    link.symlink_to(image)
    prepare(link)
    write(link, conf(3))
    assert link.is_symlink()
    found = images.read_file(image, DEVICE_CONF, 9999)
    assert found is not None
    assert found.data == conf(3)


def test_a_stamp_unpacks_as_much_of_a_large_archive_as_of_a_small_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for number, size in enumerate((400_000, 4_000_000)):
        (root / "usr/noise").write_bytes(noise("packed", size))
        path = tmp_path / f"{number}.img"
        path.write_bytes(zstd.compress(tar_of(root)))
        prepare(path)
        calls: list[int] = []
        decode = Unpacked._decode

        def counted(self: Unpacked, calls: list[int] = calls, decode: Any = decode) -> bytes:
            data: bytes = decode(self)
            calls.append(len(data))
            return data

        with monkeypatch.context() as patched:
            patched.setattr(Unpacked, "_decode", counted)
            write(path, conf(1))
            for name in (DEVICE_CONF, "etc/passwd", "etc/group"):
                assert indexed.read_file(path, name, 9999) is not None
        seen.append(calls)
    assert len(seen[0]) == len(seen[1])
    assert abs(sum(seen[0]) - sum(seen[1])) < 10240 * len(seen[0])  # the archive's last record
    assert sum(seen[0]) < 4 << 20


def test_the_note_holds_no_credential_and_is_written_again_when_it_is_lost(image: Path) -> None:
    prepare(image)
    write(image, conf(1))
    note = image.with_name(".system.img.azaion-place.json")
    text = note.read_text()
    assert "AZAION" not in text
    assert set(json.loads(text)["kept"]) == {"etc/passwd", "etc/group", "etc/nv_tegra_release"}
    for damage in ("", "{}", text.replace('"frame":', '"frame":1'), text.replace("0", "1")):
        note.write_text(damage)
        write(image, conf(2))
        found = indexed.read_file(image, DEVICE_CONF, 9999)
        assert found is not None
        assert found.data == conf(2)
    for name in ("etc/passwd", "etc/group", DEVICE_CONF, "etc/nowhere"):
        assert indexed.read_file(image, name, 9999) == images.read_file(image, name, 9999)


def test_a_note_of_a_frame_with_another_file_is_not_believed(image: Path, root: Path) -> None:
    prepare(image)
    note = image.with_name(".system.img.azaion-place.json")
    fields = json.loads(note.read_text())
    decoy = tar_of(root)
    start = decoy.index(b"./" + DEVICE_CONF.encode())
    whole = image.read_bytes()
    image.write_bytes(whole + zstd.compress(decoy[start : start + 1024] + bytes(1024)))
    version = Version.of(image)
    for frame in (fields["frame"], len(whole)):
        fields |= {"frame": frame, "image": {
            "inode": version.inode, "size": version.size, "mtime_ns": version.mtime_ns,
            "ctime_ns": version.ctime_ns}}  # fmt: skip
        note.write_text(json.dumps(fields))
        with stamping.opened_for_stamping(image, 0) as opened:
            (place,) = opened.location.ranges
        assert place.offset < len(whole)


@pytest.mark.parametrize("how", ["hard link", "symbolic link", "a link above it", "cut short"])
def test_what_cannot_be_packed_again_stays_as_it_is(image: Path, root: Path, how: str) -> None:
    if how == "hard link":
        (root / "etc/same").hardlink_to(root / DEVICE_CONF)
        (root / "zz").mkdir()
        (root / "zz/same").hardlink_to(root / DEVICE_CONF)
    elif how == "symbolic link":
        (root / DEVICE_CONF).rename(root / "etc/other")
        (root / DEVICE_CONF).symlink_to("../other")
    elif how == "a link above it":
        (root / "etc/azaion").rename(root / "etc/other")
        (root / "etc/azaion").symlink_to("other")
    data = zstd.compress(tar_of(root))
    image.write_bytes(data[:-20] if how == "cut short" else data)
    before = image.read_bytes()
    with pytest.raises(VerificationError):
        prepare(image)
    assert image.read_bytes() == before
    assert {path.name for path in image.parent.iterdir()} == {"system.img", "system.img.sha1sum"}


def test_a_full_disk_leaves_the_old_archive(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.read_bytes()

    def full(_: bytes) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("azaion_imagebuild.images.reframe.stored_frame", full)
    with pytest.raises(ImageBuildError, match="No space left") as raised:
        prepare(image)
    assert "make room" in raised.value.hint
    assert image.read_bytes() == before
    assert {path.name for path in image.parent.iterdir()} == {"system.img", "system.img.sha1sum"}


def test_what_waited_for_an_archive_that_is_packed_again_stamps_the_new_one(image: Path) -> None:
    began, done = threading.Event(), []

    def wait() -> None:
        began.set()
        with stamping.opened_for_stamping(image, 30, make_slot) as opened:
            opened.write(conf(9))
        done.append(True)

    thread = threading.Thread(target=wait)
    descriptor = os.open(image, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        thread.start()
        began.wait()
        reframe(image, io.BytesIO(image.read_bytes()), OWNER, PLACEHOLDER_SIZE)
    finally:
        os.close(descriptor)
    thread.join()
    found = images.read_file(image, DEVICE_CONF, 9999)
    assert done
    assert found is not None
    assert found.data == conf(9)


def test_a_packed_raw_image_is_refused_with_what_to_do(
    run: Run, tmp_path: Path, api_url: str
) -> None:
    base, image = tmp_path / "base.img", tmp_path / "system.img.zst"
    assert run("base", "--out", base).code == 0
    image.write_bytes(zstd.compress(base.read_bytes()))
    before = image.read_bytes()
    ran = run("stamp", image, "--serial", SERIAL, "--api-url", api_url)
    assert (ran.code, "--sparse" in ran.err) == (8, True), ran.err
    assert image.read_bytes() == before


def test_an_archive_of_nvidias_is_a_base_for_many_devices(
    run: Run, image: Path, tmp_path: Path, api_url: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    ran = run("fleet", "AZJN-0001..AZJN-0003", "--image", image, "--out", out, "--api-url", api_url)
    assert ran.code == 0, ran.err
    for number in (1, 2, 3):
        (found,) = out.glob(f"*000{number}*.img")
        assert run("verify", found, "--serial", f"AZJN-000{number}").code == 0
