"""Stamping an identity into finished images, in place, whatever the container."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from thorough import one_of
from world import EMAIL, SERIAL, Run, Script, replace_script

from azaion_imagebuild import images
from azaion_imagebuild.errors import ImageBuildError, UsageError, VerificationError
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.placeholder import is_placeholder, padded, placeholder
from azaion_imagebuild.images import sha1sum
from azaion_imagebuild.images import slot as placing
from azaion_imagebuild.images import stamp as stamping
from azaion_imagebuild.images.copy import copy_image
from azaion_imagebuild.images.digest import image_digest
from azaion_imagebuild.images.locate import locate
from azaion_imagebuild.images.zstd import library
from azaion_imagebuild.l4t import base_image, cleanup
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox import Sandbox
from azaion_imagebuild.sandbox.bsp import TREE, create_rootfs, service_user
from azaion_imagebuild.settings import PLACEHOLDER_SIZE

CONF = b"AZAION_DEVICE_EMAIL=azaion-jetson-%04d@azaion.com\nAZAION_DEVICE_PASSWORD=%032x\n"
FORMATS = ["ext4", "sparse", "tar", "tar.zst"]
GROWING = ["ext4", "tar", "packed"]
"""Those that are given a slot; ``packed`` is as zstd packs it, ``tar.zst`` has one."""

Make = Callable[..., Path]


def conf(number: int) -> bytes:
    return padded(CONF % (number, number * 7919 + 1), PLACEHOLDER_SIZE)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make an image with a placeholder: raw ext4, its sparse twin, or a tar, packed or not."""

    def build(
        kind: str, *options: str, content: bytes | None = None, big: int | None = None
    ) -> Path:
        rootfs = tmp_path / "root"
        if not rootfs.exists():
            create_rootfs(rootfs, service_user())
            (rootfs / DEVICE_CONF).parent.mkdir()
        if content != b"":
            (rootfs / DEVICE_CONF).write_bytes(content or placeholder())
            (rootfs / DEVICE_CONF).chmod(0o600)
            gid = service_user() if os.geteuid() == 0 else -1
            os.chown(rootfs / DEVICE_CONF, service_user(), gid)
        if big:
            (rootfs / "var/big").write_bytes(bytes(big))
        folder = tmp_path / f"made-{kind}"
        folder.mkdir(exist_ok=True)
        if kind in ("tar", "tar.zst", "packed"):
            path = folder / "system.img"
            packed: list[str | Path] = [*options, "-cpf", path, "-C", rootfs, "."]
            subprocess.run(["tar", "--xattrs", "--numeric-owner", *packed], check=True)
            (folder / "system.img.sha1sum").write_text("0" * 40 + "\n")
            if kind != "tar":
                path.write_bytes(library().compress(path.read_bytes()))
            if kind == "tar.zst":
                with stamping.opened_for_stamping(path, 0, packed_slot):
                    pass
            return path
        raw = folder / "system.img.raw"
        raw.unlink(missing_ok=True)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", *options, "-d", rootfs, raw,
                        "16M"], check=True, capture_output=True)  # fmt: skip
        if kind == "ext4":
            return raw
        path = folder / "system.img"
        subprocess.run([TREE / "bootloader/mksparse", "--fillpattern=0", raw, path], check=True)
        raw.unlink()
        return path

    return build


def packed_slot(path: Path, descriptor: int) -> bytes | None:
    return placing.ensure_packed_slot(path, descriptor, (service_user(), service_user()))


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many stamps, and no power to lose: what fdatasync is for is not what is tested."""
    monkeypatch.setattr("azaion_imagebuild.images.stamp.os.fdatasync", lambda _: None)


def data_of(path: Path) -> bytes:
    entry = images.read_file(path, DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    return entry.data


def write(path: Path, data: bytes) -> None:
    with stamping.opened_for_stamping(path, 0) as opened:
        opened.write(data)


def stamped(path: Path, number: int) -> None:
    with stamping.opened_images([path], 0) as opened:
        stamping.stamp(opened, lambda _: conf(number))


def said_sum(path: Path) -> str:
    return path.with_name("system.img.sha1sum").read_text().strip()


def true_sum(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


def bytes_read() -> int:
    """Return what read(2) has returned to this process so far (proc_pid_io(5))."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("kind", one_of(FORMATS))
def test_a_stamp_changes_the_files_data_and_not_one_byte_else(make: Make, kind: str) -> None:
    path = make(kind)
    before = bytearray(path.read_bytes())
    with path.open("rb") as stream:
        location = locate(stream, DEVICE_CONF)
    assert location is not None
    assert (location.format, location.size, location.mode) == (kind, PLACEHOLDER_SIZE, 0o600)
    for number in range(1000):
        write(path, conf(number))
        assert number % 50 or data_of(path) == conf(number)
    after = bytearray(path.read_bytes())
    for part in location.ranges:
        for image in (before, after):
            image[part.offset : part.offset + part.length] = bytes(part.length)
    assert after == before


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("kind", FORMATS)
def test_no_earlier_password_is_left_anywhere_in_the_image(make: Make, kind: str) -> None:
    path = make(kind)
    for number in range(20):
        write(path, conf(number))
    image = path.read_bytes()
    held = [number for number in range(20) if b"%032x" % (number * 7919 + 1) in image]
    assert held == [19]


@pytest.mark.usefixtures("unsynced")
def test_the_filesystem_is_clean_after_a_thousand_stamps(make: Make) -> None:
    path = make("ext4")
    for number in range(1000):
        write(path, conf(number))
    subprocess.run(["e2fsck", "-fn", path], check=True, capture_output=True)
    seen = subprocess.run(["debugfs", "-R", f"cat /{DEVICE_CONF}", path], check=True,
                          capture_output=True).stdout  # fmt: skip
    assert seen == conf(999)


def test_a_stamped_sparse_image_unpacks_to_the_stamped_raw_one(make: Make, tmp_path: Path) -> None:
    raw = make("ext4")
    sparse = tmp_path / "sparse"
    subprocess.run([TREE / "bootloader/mksparse", "--fillpattern=0", raw, sparse], check=True)
    write(raw, conf(7))
    write(sparse, conf(7))
    unpacked = tmp_path / "unpacked"
    unpacked.touch()
    subprocess.run([TREE / "bootloader/mksparse", "--expand", sparse, unpacked], check=True)
    assert unpacked.read_bytes() == raw.read_bytes()
    if shutil.which("simg2img"):
        subprocess.run(["simg2img", sparse, tmp_path / "debian"], check=True)
        assert (tmp_path / "debian").read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("kind", ["tar", "tar.zst"])
def test_a_stamped_tar_unpacks_with_its_owner_and_mode(
    make: Make, kind: str, tmp_path: Path
) -> None:
    if kind == "tar.zst" and shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    path = make(kind)
    stamped(path, 7)
    assert said_sum(path) == true_sum(path)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xpf", path, "-C", out, "--numeric-owner"], check=True)
    found = (out / DEVICE_CONF).stat()
    assert (out / DEVICE_CONF).read_bytes() == conf(7)
    assert (found.st_uid, found.st_mode & 0o777) == (service_user(), 0o600)


@pytest.mark.usefixtures("unsynced")
def test_the_sum_beside_an_archive_is_renewed_without_reading_it_again(make: Make) -> None:
    path = make("tar", big=48 << 20)
    placing.put_last(path)
    stamped(path, 1)
    before = bytes_read()
    for number in range(2, 12):
        stamped(path, number)
        assert said_sum(path) == true_sum(path)
        before += path.stat().st_size  # that was true_sum
    assert bytes_read() - before < 4 << 20


@pytest.mark.usefixtures("unsynced")
def test_a_copy_of_an_archive_needs_no_reading_either(make: Make, tmp_path: Path) -> None:
    path, lane = make("tar", big=48 << 20), tmp_path / "lane"
    placing.put_last(path)
    stamped(path, 1)
    lane.mkdir()
    copy = lane / path.name
    copy_image(path, copy)
    shutil.copy(path.with_name("system.img.sha1sum"), lane)
    sha1sum.copied(path, copy)
    before = bytes_read()
    stamped(copy, 2)
    assert bytes_read() - before < 4 << 20
    assert said_sum(copy) == true_sum(copy)
    assert said_sum(path) == true_sum(path)


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("when", ["between two stamps", "during a stamp", "before it is copied"])
def test_the_sum_is_true_when_another_program_changed_the_archive(
    make: Make, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("tar")
    stamped(path, 1)
    passwd = path.read_bytes().index(b"root:x:0:0")

    def change() -> None:
        with path.open("r+b") as stream:
            stream.seek(passwd)
            stream.write(b"rooT")

    if when == "during a stamp":
        real = stamping.OpenImage._put

        def put(self: stamping.OpenImage, data: bytes, offset: int) -> None:
            change()
            real(self, data, offset)

        monkeypatch.setattr(stamping.OpenImage, "_put", put)
    else:
        change()
    if when == "before it is copied":
        copy = tmp_path / "system.img"
        copy_image(path, copy)
        sha1sum.copied(path, copy)
        shutil.copy(path.with_name("system.img.sha1sum"), copy.with_name("system.img.sha1sum"))
        path = copy
    stamped(path, 2)
    assert said_sum(path) == true_sum(path)


@pytest.mark.parametrize("options", [(), ("--format=pax",)], ids=["gnu", "pax"])
def test_device_conf_becomes_the_last_member_and_unpacks_as_before(
    make: Make, tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = make("tar", *options)
    was = subprocess.run(["tar", "--numeric-owner", "-tvf", path, f"./{DEVICE_CONF}"], check=True,
                         capture_output=True, text=True).stdout  # fmt: skip
    assert "device.conf" not in names_in(path)[-1]
    placing.put_last(path)
    made = path.read_bytes()
    placing.put_last(path)
    assert path.read_bytes() == made, "the second call changed something"
    assert names_in(path)[-1] == f"./{DEVICE_CONF}"
    is_now = subprocess.run(["tar", "--numeric-owner", "-tvf", path, f"./{DEVICE_CONF}"],
                            check=True, capture_output=True, text=True).stdout  # fmt: skip
    assert is_now == was * 2
    assert data_of(path) == placeholder()
    assert made.count(placeholder()) == 1, "the old member still holds its data"
    assert len(made) % 10240 == 0
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "--xattrs", "-xpf", path, "-C", out, "--numeric-owner"], check=True)
    assert (out / DEVICE_CONF).read_bytes() == placeholder()
    assert (out / DEVICE_CONF).stat().st_mode & 0o777 == 0o600


def names_in(path: Path) -> list[str]:
    listed = subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True)
    return listed.stdout.splitlines()


class Cut(Exception):
    """The power went."""


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("kind", one_of(FORMATS))
@pytest.mark.parametrize("before", one_of(["placeholder", "identity"]))
def test_a_write_that_is_cut_at_any_byte_leaves_the_old_identity_none_or_the_new_one(
    make: Make, kind: str, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(kind)
    old = conf(1) if before == "identity" else placeholder()
    new = conf(2)
    real = os.pwrite
    left = 0

    def cut(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal left
        part = data[:left]
        left -= len(part)
        real(descriptor, part, offset)
        if len(part) < len(data):
            raise Cut
        return len(part)

    with stamping.opened_for_stamping(path, 0) as opened:
        seen = set()
        for size in range(PLACEHOLDER_SIZE + 3):
            monkeypatch.setattr("azaion_imagebuild.images.stamp.os.pwrite", real)
            opened.write(old)
            monkeypatch.setattr("azaion_imagebuild.images.stamp.os.pwrite", cut)
            left = size
            with contextlib.suppress(Cut):
                opened.write(new)
            data = opened.read()
            try:
                device_conf.parse(data)
            except device_conf.MalformedDeviceConf:
                seen.add("none")
            else:
                assert data in (old, new)
                seen.add("old" if data == old else "new")
    assert seen == {"none", "new"} | ({"old"} if before == "identity" else set())


def test_a_file_split_over_extents_and_chunks_is_stamped_whole(make: Make, tmp_path: Path) -> None:
    raw = make("ext4", "-b", "1024")
    size = 5000
    (tmp_path / "big").write_bytes(placeholder(size))
    script = [f"rm /{DEVICE_CONF}", f"write {tmp_path / 'big'} /{DEVICE_CONF}"]
    for line in script:
        subprocess.run(["debugfs", "-w", "-R", line, raw], check=True, capture_output=True)
    data = padded(CONF % (3, 3), size)
    write(raw, data)
    assert data_of(raw) == data
    subprocess.run(["e2fsck", "-fn", raw], check=True, capture_output=True)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 512], ids=["no file", "only zeros, so in no chunk"]
)
def test_what_cannot_be_overwritten_in_place_is_refused(make: Make, content: bytes) -> None:
    path = make("sparse", content=content)
    with (
        pytest.raises(VerificationError) as caught,
        stamping.opened_for_stamping(path, 0),
    ):
        pass
    assert "azaion-imagebuild base" in caught.value.hint


def test_a_template_that_is_too_long_or_begins_otherwise_is_refused() -> None:
    with pytest.raises(UsageError, match="512"):
        padded(b"AZAION_DEVICE_EMAIL=" + b"x" * 600, PLACEHOLDER_SIZE)
    with pytest.raises(UsageError, match="begin"):
        padded(b"# comment\nAZAION_DEVICE_EMAIL=x\n", PLACEHOLDER_SIZE)


def test_a_copy_keeps_holes_and_is_for_its_owner_only(make: Make, tmp_path: Path) -> None:
    path = make("ext4")
    copy_image(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    found = (tmp_path / "copy").stat()
    assert found.st_mode & 0o777 == 0o600
    assert found.st_blocks <= path.stat().st_blocks + 64


# The commands.


@pytest.fixture
def base(run: Run, tmp_path: Path) -> Path:
    """A base of the sandbox."""
    out = tmp_path / "base.img"
    ran = run("base", "--out", out, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["image"] == str(out)
    assert "SANDBOX  base image  attempt" in ran.err  # no serial, no account
    assert is_placeholder(data_of(out))
    return out


@pytest.fixture
def impossible(tmp_path: Path) -> dict[Path, str]:
    """Places where no new file can be made, and what is said of each."""
    there, shut = tmp_path / "there.img", tmp_path / "shut"
    there.write_bytes(b"of somebody")
    (tmp_path / "astray.img").symlink_to("nowhere")
    shut.mkdir()
    shut.chmod(0o500)
    wrong = {
        there: "is there already",
        tmp_path / "astray.img": "is there already",
        tmp_path / "none/base.img": "there is no folder",
        there / "base.img": "there is no folder",
    }
    if os.geteuid():
        wrong[shut / "base.img"] = "this user may not write into"
    return wrong


def test_a_base_that_cannot_be_copied_out_is_not_built(
    run: Run, impossible: dict[Path, str], tmp_path: Path
) -> None:
    for out, said in impossible.items():
        ran = run("base", "--out", out)
        assert (ran.code, said in ran.err) == (2, True), ran.err
    assert (tmp_path / "there.img").read_bytes() == b"of somebody"
    assert not (tmp_path / "state/azaion-imagebuild/sandbox").exists()


def test_a_stamped_copy_that_cannot_be_made_touches_no_account(
    run: Run, base: Path, impossible: dict[Path, str], tmp_path: Path
) -> None:
    for out, said in impossible.items():
        ran = run("stamp", base, "--serial", SERIAL, "--out", out)
        assert (ran.code, said in ran.err) == (2, True), ran.err
    assert (tmp_path / "there.img").read_bytes() == b"of somebody"
    assert Sandbox(tmp_path / "state/azaion-imagebuild/sandbox").accounts.list() == []


def test_base_stamp_verify_clear(run: Run, base: Path, tmp_path: Path) -> None:
    clean = base.read_bytes()
    ran = run("stamp", base, "--serial", SERIAL, "--json")
    assert ran.code == 0, ran.err
    record: dict[str, Any] = ran.json
    assert (record["email"], record["account"], record["sandbox"]) == (EMAIL, "created", True)
    assert run("verify", base, "--serial", SERIAL).code == 0
    password = device_conf.parse(data_of(base)).password.reveal()
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    assert sandbox.accounts.login(EMAIL, password)
    assert password not in ran.err + ran.out
    assert run("stamp", base, "--clear").code == 0
    assert base.read_bytes() == clean
    assert run("verify", base, "--serial", SERIAL).code == 8


def test_a_stamped_copy_leaves_the_base_as_it_is(run: Run, base: Path, tmp_path: Path) -> None:
    clean = base.read_bytes()
    out = tmp_path / "0042.img"
    assert run("stamp", base, "--serial", SERIAL, "--out", out).code == 0
    assert run("verify", out, "--serial", SERIAL).code == 0
    assert base.read_bytes() == clean
    again = run("stamp", base, "--serial", SERIAL, "--out", out)
    assert again.code == 2
    assert "is there already" in again.err
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_raw_and_sparse_of_a_bsp_are_stamped_together(run: Run, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state/azaion-imagebuild/sandbox/Linux_for_Tegra/bootloader"
    ran = run("stamp", folder / "system.img", "--serial", SERIAL, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["also"] == [str(folder / "system.img.raw")]
    assert data_of(folder / "system.img") == data_of(folder / "system.img.raw")


def test_given_credentials_are_stamped_without_an_api(run: Run, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "given.conf"
    path.write_bytes(CONF % (42, 42))
    assert run("stamp", base, "--serial", SERIAL, "--device-conf", path).code == 0
    assert device_conf.parse(data_of(base)).password.reveal() == "%032x" % 42  # noqa: UP031
    other = run("stamp", base, "--serial", "AZJN-0043", "--device-conf", path)
    assert other.code == 2
    assert "not of azaion-jetson-0043" in other.err


@pytest.mark.parametrize("kind", one_of(FORMATS))
@pytest.mark.parametrize("way", one_of(["in place", "a copy", "given credentials"]))
def test_another_devices_identity_is_overwritten_only_where_that_is_asked_for(
    run: Run, make: Make, api_url: str, tmp_path: Path, kind: str, way: str
) -> None:
    image = make(kind, content=conf(7))
    (tmp_path / "given.conf").write_bytes(CONF % (42, 42))
    flags = {
        "in place": ["--api-url", api_url],
        "a copy": ["--api-url", api_url, "--out", "copy.img"],
        "given credentials": ["--device-conf", str(tmp_path / "given.conf")],
    }
    argv = ["stamp", image, "--serial", SERIAL, *flags[way]]
    before = image.read_bytes()
    refused = run(*argv)
    assert refused.code == 3
    assert "'azaion-jetson-0007@azaion.com'" in refused.err
    assert "--replace" in refused.err
    assert (image.read_bytes(), Path("copy.img").exists()) == (before, False)
    assert run(*argv, "--replace").code == 0
    assert run("verify", "copy.img" if way == "a copy" else image, "--serial", SERIAL).code == 0


@pytest.mark.parametrize("kind", GROWING)
def test_an_image_that_is_refused_is_not_given_a_larger_slot(
    run: Run, make: Make, scripted: Script, kind: str
) -> None:
    image = make(kind, content=CONF % (7, 7))
    before = image.read_bytes()
    assert run("stamp", image, "--serial", SERIAL, "--api-url", scripted.url).code == 3
    assert (image.read_bytes(), scripted.requests) == (before, [])


def test_an_image_that_cannot_be_stamped_is_found_before_an_account_is_touched(
    run: Run, make: Make, scripted: Script, tmp_path: Path
) -> None:
    scripted.answer(201)
    (tmp_path / "text").write_text("no image")
    for image, code in (
        (tmp_path / "text", 8),
        (make("sparse", content=b""), 8),
        (make("sparse", content=CONF % (1, 1)), 8),
        (tmp_path / "nothing", 2),
    ):
        ran = run("stamp", image, "--serial", SERIAL, "--api-url", scripted.url)
        assert ran.code in (code, 8), ran.err
        assert (len(ran.errors), len(ran.hints)) == (1, 1)
    assert scripted.requests == []


@pytest.mark.parametrize("kind", one_of(GROWING))
@pytest.mark.parametrize(
    "before", one_of([b"", CONF % (42, 0xABC), b"x" * 3000]), ids=["none", "own", "long"]
)
def test_an_image_without_a_placeholder_is_given_one_and_no_old_password_is_left(
    run: Run, make: Make, api_url: str, kind: str, before: bytes, tmp_path: Path
) -> None:
    path = make(kind, content=before)
    for _ in range(2):
        ran = run("stamp", path, "--serial", SERIAL, "--api-url", api_url)
        assert ran.code == 0, ran.err
    assert run("verify", path, "--serial", SERIAL).code == 0
    assert (b"%032x" % 0xABC) not in path.read_bytes()
    assert path.read_bytes().count(b"AZAION_DEVICE_PASSWORD=") == 1
    if kind == "packed":
        unpacked = library().decompress(path.read_bytes())
        assert unpacked.count(b"AZAION_DEVICE_PASSWORD=") == 1
        assert (b"%032x" % 0xABC) not in unpacked
    if kind == "ext4":
        subprocess.run(["e2fsck", "-fn", path], check=True, capture_output=True)
        return
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xpf", path, "-C", out, "--numeric-owner"], check=True)
    assert device_conf.parse((out / DEVICE_CONF).read_bytes()).email == EMAIL
    assert (out / DEVICE_CONF).stat().st_mode & 0o777 == 0o600
    assert (out / "etc/azaion").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("kind", ["ext4", "tar", "packed", "sparse"])
def test_an_image_is_named_from_the_folder_that_one_is_in(
    run: Run, make: Make, api_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(kind, content=placeholder() if kind == "sparse" else b"")
    monkeypatch.chdir(path.parent.parent)
    named = path.relative_to(path.parent.parent)
    for command in (("stamp", named, "--api-url", api_url), ("verify", named)):
        ran = run(*command, "--serial", SERIAL)
        assert ran.code == 0, ran.err


def test_a_file_of_another_owner_is_found_before_an_account_is_touched(
    run: Run, make: Make, scripted: Script
) -> None:
    scripted.answer(201)
    ran = run("stamp", make("ext4"), "--serial", SERIAL, "--api-url", scripted.url,
              "--owner", "root")  # fmt: skip
    assert ran.code == 8
    assert "not 0600 and 0:0" in ran.err
    assert scripted.requests == []


def test_a_new_place_belongs_to_an_owner_whose_number_is_large(make: Make) -> None:
    for kind in GROWING:
        path = make(kind, content=b"")
        with stamping.opened_for_stamping(
            path, 0, lambda image, fd: placing.ensure_slot(image, fd, (3_000_000, 70_000))
        ) as opened:
            assert (opened.location.uid, opened.location.gid) == (3_000_000, 70_000)
            assert opened.location.size == PLACEHOLDER_SIZE


def test_a_failed_provisioning_leaves_the_image_as_it_was(
    run: Run, base: Path, scripted: Script
) -> None:
    clean = base.read_bytes()
    scripted.answer(500)
    assert run("stamp", base, "--serial", SERIAL, "--api-url", scripted.url).code == 4
    assert base.read_bytes() == clean


@pytest.mark.parametrize("kind", ["ext4", "tar"])
def test_an_image_that_is_given_a_place_keeps_its_identity_until_there_is_a_new_one(
    run: Run, make: Make, kind: str, scripted: Script
) -> None:
    scripted.answer(500)
    path = make(kind, content=CONF % (42, 7))
    assert run("stamp", path, "--serial", SERIAL, "--api-url", scripted.url).code == 4
    assert run("verify", path, "--serial", SERIAL).code == 0
    assert data_of(path) == padded(CONF % (42, 7), PLACEHOLDER_SIZE)


# In the ledger.


def rows(run: Run, serial: str = SERIAL) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("ledger", "show", serial, "--json").out)
    return found


def test_a_stamp_is_in_the_ledger_from_before_the_account_to_its_end(run: Run, base: Path) -> None:
    ran = run("stamp", base, "--serial", SERIAL, "--json", "--operator", "shift A")
    begin, end = rows(run)
    assert (begin["step"], begin["outcome"], begin["account"]) == (
        "provision_identity",
        "started",
        None,
    )
    assert (end["step"], end["outcome"], end["account"]) == ("stamp", "done", "created")
    assert (end["image"], end["image_format"], end["proof"]) == (str(base), "ext4", "image")
    assert (end["flashed"], end["operator"], end["sandbox"]) == (False, "shift A", True)
    password = device_conf.parse(data_of(base)).password
    assert end["credential"] == password.fingerprint()
    assert ran.json["ledger"] == {"row": end["row"], "hash": end["hash"]}
    assert ran.json["device_conf"]["mode"] == "0600"
    assert run("ledger", "verify").code == 0


def test_the_second_serial_of_an_account_is_not_stamped(run: Run, base: Path) -> None:
    assert run("stamp", base, "--serial", SERIAL).code == 0
    stamped = base.read_bytes()
    refused = run("stamp", base, "--serial", "XYZ-0042", "--json")
    assert (refused.code, refused.json["account"]) == (3, None)
    assert f"belongs to {SERIAL}" in refused.err
    assert base.read_bytes() == stamped
    assert run("ledger", "show", "XYZ-0042").code == 2


def test_a_flashed_device_is_stamped_again_as_the_site_says(run: Run, base: Path) -> None:
    assert run("image", "--serial", SERIAL).code == 0
    warned = run("stamp", base, "--serial", SERIAL)
    assert (warned.code, "its new password locks that device out" in warned.err) == (0, True)
    Path("imagebuild.toml").write_text('[ledger]\nreprovision = "confirm"\n')
    assert run("stamp", base, "--serial", SERIAL).code == 3
    assert run("stamp", base, "--serial", SERIAL, "--yes").code == 0


def test_without_a_ledger_no_account_is_touched(run: Run, base: Path, tmp_path: Path) -> None:
    clean = base.read_bytes()
    (tmp_path / "bad").write_bytes(b"not a database" * 1000)
    ran = run("stamp", base, "--serial", SERIAL, "--database", f"sqlite:///{tmp_path}/bad")
    assert ran.code == 9
    assert base.read_bytes() == clean
    assert json.loads(run("sandbox", "accounts", "--json").out) == []


def test_a_stamp_that_fails_is_in_the_ledger_too(run: Run, base: Path, scripted: Script) -> None:
    scripted.answer(500)
    run("stamp", base, "--serial", SERIAL, "--api-url", scripted.url)
    last = rows(run)[-1]
    assert (last["step"], last["outcome"], last["exit_code"]) == ("provision_identity", "failed", 4)


def test_given_credentials_need_no_ledger_and_none_of_its_libraries(
    base: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given.conf"
    given.write_bytes(CONF % (42, 42))
    code = (
        "import sys; from azaion_imagebuild.cli import main as cli; code = cli.run(sys.argv[1:]);"
        "print({'sqlalchemy', 'alembic', 'requests'} & set(sys.modules)); exit(code)"
    )
    argv: list[str | Path] = ["stamp", base, "--serial", SERIAL, "--device-conf", given]
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout == "set()\n"


def test_a_real_image_is_never_stamped_with_an_account_of_the_sandbox(
    run: Run, base: Path, tmp_path: Path
) -> None:
    real = tmp_path / "release"
    real.write_text("# R35 (release), REVISION: 3.1, GCID: 1\n")
    for line in ("rm /etc/nv_tegra_release", f"write {real} /etc/nv_tegra_release"):
        subprocess.run(["debugfs", "-w", "-R", line, base], check=True, capture_output=True)
    ran = run("stamp", base, "--serial", SERIAL)
    assert ran.code == 2
    assert "no admin API is set" in ran.err
    assert is_placeholder(data_of(base))


def test_an_unstamped_image_is_never_flashed_and_its_loader_says_why(
    run: Run, base: Path, tmp_path: Path
) -> None:
    from azaion_imagebuild.sandbox.loader import loader
    from azaion_imagebuild.system.http import JsonClient, Transport

    with (
        loader(base, "http://127.0.0.1:1") as server,
        JsonClient(server.url, Transport()) as client,
    ):
        answer = client.send("GET", "/health")
    assert answer.status == 503
    assert b"unstamped placeholder" in answer.body


def test_a_link_stands_for_the_image_that_it_leads_to_and_its_twin(
    run: Run, tmp_path: Path
) -> None:
    assert run("base").code == 0
    built = tmp_path / "state/azaion-imagebuild/sandbox/Linux_for_Tegra/bootloader"
    Path("link.img").symlink_to(built / "system.img.raw")
    assert run("stamp", "link.img", "--serial", SERIAL).code == 0
    assert device_conf.parse(data_of(built / "system.img")).email == EMAIL
    assert data_of(built / "system.img") == data_of(built / "system.img.raw")


# In the pipeline: [image] inject = "stamp".


def test_the_second_device_is_stamped_into_the_first_ones_base(run: Run, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    count = tmp_path / "built"
    sandbox.create(1.0)
    replace_script(
        sandbox.bsp / "flash.sh",
        f'[[ "$*" == *--no-flash* ]] && echo x >> {count}; exec ./flash.sh.real "$@"\n',
    )
    for serial in ("AZJN-0001", "AZJN-0002", "AZJN-0003"):
        ran = run("image", "--serial", serial, "--inject", "stamp", "--json")
        assert ran.code == 0, ran.err
        assert ran.json["smoke"] == "logged in"
        assert ran.json["residue"] == []
        email = device_conf.parse(data_of(sandbox.device)).email
        assert email == f"azaion-jetson-{serial[-4:]}@azaion.com"
        assert not (sandbox.bsp / "rootfs" / DEVICE_CONF).exists()
        assert is_placeholder(data_of(sandbox.bsp / "bootloader/system.img"))
    assert count.read_text() == "x\n"
    (sandbox.bsp / "rootfs/usr/bin/more").write_text("new")
    assert run("image", "--serial", "AZJN-0004", "--inject", "stamp").code == 0
    assert count.read_text() == "x\nx\n"
    assert images.read_file(sandbox.device, "usr/bin/more", 10) is not None
    assert run("image", "--serial", "AZJN-0004", "--inject", "stamp", "--rebuild").code == 0
    assert count.read_text() == "x\nx\nx\n"


def test_a_stamped_device_records_its_base_whose_digest_is_read_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests: dict[Path, str] = {}

    def noted(path: Path) -> str:
        assert path not in digests
        return digests.setdefault(path, image_digest(path))

    monkeypatch.setattr(base_image, "image_digest", noted)
    ran = [
        run("image", "--serial", serial, "--inject", "stamp", "--json")
        for serial in ("AZJN-0001", "AZJN-0002")
    ]
    raw = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox").bsp / "bootloader/system.img.raw"
    assert [each.json["image_sha256"] for each in ran] == [None, None]
    assert [each.json["base_sha256"] for each in ran] == [digests[raw]] * 2
    assert run("stamp", str(raw), "--clear").code == 0
    assert image_digest(raw) == digests[raw], "the base is not what it was"
    assert "digest_image" not in "".join(each.err for each in ran)


@pytest.mark.parametrize("cleared", [True, False])
def test_a_stamped_image_is_not_searched_once_its_placeholder_is_back(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cleared: bool
) -> None:
    assert run("image", "--serial", "AZJN-0001", "--inject", "stamp").code == 0
    searched: list[str] = []
    real = cleanup._holds

    def holds(path: Path, *rest: Any) -> bool:
        searched.append(path.name)
        return real(path, *rest)

    monkeypatch.setattr(cleanup, "_holds", holds)
    if not cleared:
        monkeypatch.setattr(base_image, "clear_base", lambda build, keep=None: [])
    ran = run("image", "--serial", "AZJN-0002", "--inject", "stamp", "--json")
    if cleared:
        assert ran.code == 0, ran.err
        assert not {"system.img", "system.img.raw"} & set(searched)
    else:
        assert ran.code == 8, ran.err
        assert "the device's password was still found in bootloader/system.img" in ran.json["error"]


def test_a_built_image_is_digested_in_a_step_that_is_shown(run: Run, tmp_path: Path) -> None:
    ran = run("image", "--serial", SERIAL, "--flash", "0", "--json")
    raw = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox").bsp / "bootloader/system.img.raw"
    digest = image_digest(raw)
    assert (ran.json["image_sha256"], ran.json["base_sha256"]) == (digest, None)
    assert re.search(rf"digest_image +[0-9.]+ s  {digest[:16]}", ran.err), ran.err


def test_a_stamped_build_that_fails_leaves_a_placeholder(run: Run, tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    assert run("image", "--serial", SERIAL, "--inject", "stamp").code == 0
    sandbox.device.unlink()
    replace_script(sandbox.bsp / "flash.sh", "echo Error: probing the target board failed.; exit 1")
    ran = run("image", "--serial", SERIAL, "--inject", "stamp", "--json")
    assert ran.code == 7
    for name in ("system.img", "system.img.raw"):
        assert is_placeholder(data_of(sandbox.bsp / "bootloader" / name))


def test_a_base_is_forgotten_when_another_build_replaces_its_images(
    run: Run, tmp_path: Path
) -> None:
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    assert run("image", "--serial", "AZJN-0001", "--inject", "stamp").code == 0
    assert run("image", "--serial", "AZJN-0002").code == 0
    assert run("image", "--serial", "AZJN-0003", "--inject", "stamp").code == 0
    assert device_conf.parse(data_of(sandbox.device)).email == "azaion-jetson-0003@azaion.com"


def test_an_unstamped_base_is_never_flashed(run: Run, tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "forget.py").write_text(
        "from azaion_imagebuild import hookimpl\n"
        "from azaion_imagebuild.l4t import base_image\n"
        "@hookimpl\n"
        "def build_image(build, staged):\n"
        "    return base_image.current_base(build, staged[0].ownership)\n"
    )
    Path("imagebuild.toml").write_text(
        '[hooks]\ndirs = ["../plugins"]\n[image]\ninject = "stamp"\n'
    )
    ran = run("image", "--serial", SERIAL, "--json")
    assert (ran.code, ran.json["flashed"]) == (8, False)
    assert "device.conf in" in ran.json["error"]
    assert " is an unstamped placeholder: no identity" in ran.json["error"]


def test_a_sum_keeps_what_follows_it_whatever_its_bytes(make: Make) -> None:
    path = make("tar")
    beside = path.with_name("system.img.sha1sum")
    beside.write_bytes(b"0" * 40 + b"  sys\xff\xfe.img\n")
    stamped(path, 1)
    assert beside.read_bytes() == true_sum(path).encode() + b"  sys\xff\xfe.img\n"


def test_a_sum_that_cannot_be_renewed_says_what_to_do(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("tar")

    def read_only(path: Path, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(ImageBuildError, match=r"cannot renew .*/system\.img\.sha1sum: Read-only"):
        stamped(path, 1)
