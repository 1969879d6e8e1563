"""Is the image a true copy of the rootfs? Good ones of every kind pass, each difference is told."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from thorough import one_of

from azaion_imagebuild import images
from azaion_imagebuild.errors import VerificationError
from azaion_imagebuild.proof.comparison import EXPECTED, Comparison, wanted_of
from azaion_imagebuild.sandbox.bsp import TREE

BEFORE_ALL, AFTER_ALL = 0.0, 1e12
"""A build that began before everything in the rootfs was changed, and one after it."""


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A tree with everything that a real one has, and times that only whole seconds keep."""
    top = tmp_path / "rootfs"
    for folder in ("usr/bin", "usr/lib/deep/er", "var/empty", "dev", "run"):
        (top / folder).mkdir(parents=True)
    (top / ".profile-of-nobody").write_text("top-level dotfiles are lost")
    (top / "usr/lib/.kept").write_text("others are not")
    (top / "usr/bin/bash").write_bytes(b"x" * 70_000)
    (top / "usr/bin/sudo").write_bytes(b"sudo")
    (top / "usr/bin/sudo").chmod(0o4755)
    (top / "usr/bin/sudoedit").hardlink_to(top / "usr/bin/sudo")
    (top / "usr/lib/empty").touch()
    (top / ("usr/lib/" + "n" * 150)).write_text("a long name")
    (top / "usr/lib/h\u00e4user").write_text("not ASCII")
    (top / "usr/lib/sh").symlink_to("../bin/bash")
    (top / "usr/lib/long").symlink_to("../" * 20 + "bin/" + "l" * 150)
    (top / "var/empty").chmod(0o1777)
    os.mkfifo(top / "run/initctl")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(top / "run/socket"))
    if os.geteuid() == 0:
        os.mknod(top / "dev/null", 0o020666, os.makedev(1, 3))
        os.mknod(top / "dev/nvme", 0o060660, os.makedev(259, 300))
        os.chown(top / "usr/lib/sh", 990, 80_000, follow_symlinks=False)
        os.chown(top / "usr/lib/empty", 70_000, 5)
    for path, seconds in (("bash", 1_700_000_000), ("sudo", 4_200_000_000)):
        at = seconds * 10**9 + 999_999_999
        os.utime(top / "usr/bin" / path, ns=(at, at))
    os.utime(top / "usr/lib/empty", ns=(0, -5 * 10**9 + 1))
    return top


def copied(rootfs: Path) -> Path:
    """Copy as flash.sh does: tar without top-level dotfiles, then a filesystem of the copy."""
    copy = rootfs.with_name("copy")
    copy.mkdir()
    pipe = 'tar --numeric-owner -cf - * | tar --numeric-owner -xpf - -C "$0"'
    subprocess.run(["bash", "-c", pipe, copy], cwd=rootfs, check=True, capture_output=True)
    return copy


def ext4_of(copy: Path) -> Path:
    image = copy.with_name("raw.img")
    with image.open("wb") as stream:
        stream.truncate(16 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", "-d", copy, image], check=True)
    return image


def sparse_of(copy: Path) -> Path:
    image = copy.with_name("sparse.img")
    tool = TREE / "bootloader/mksparse"
    raw = ext4_of(copy)
    subprocess.run([sys.executable, tool, "--fillpattern=0", raw, image], check=True)
    return image


def tar_of(copy: Path, *options: str) -> Path:
    image = copy.with_name("system.img")
    subprocess.run(["tar", *options, "--numeric-owner", "-cpf", image, "-C", copy, "."], check=True)
    return image


def gnu_tar_of(copy: Path) -> Path:
    return tar_of(copy, "--format=gnu")


def pax_tar_of(copy: Path) -> Path:
    return tar_of(copy, "--xattrs", "--format=posix")


def compared(rootfs: Path, image: Path, began: float = AFTER_ALL) -> Comparison:
    comparison = Comparison(rootfs, wanted_of(rootfs, began))
    with images.opened(image) as filesystem:
        for entry in filesystem.entries():
            comparison.see(entry)
    return comparison


MAKERS = (ext4_of, sparse_of, gnu_tar_of, pax_tar_of)


@pytest.mark.parametrize("make", MAKERS)
def test_a_good_image_of_a_tree_with_everything_passes(rootfs: Path, make) -> None:  # type: ignore[no-untyped-def]
    found = compared(rootfs, make(copied(rootfs)))
    assert found.missing == []
    assert found.differences == {}


def damage_size(copy: Path) -> None:
    os.truncate(copy / "usr/bin/bash", 0)
    os.utime(copy / "usr/bin/bash", (1_700_000_000, 1_700_000_000))


def damage_mode(copy: Path) -> None:
    (copy / "usr/bin/sudo").chmod(0o755)


def damage_owner(copy: Path) -> None:
    os.chown(copy / "usr/lib", 4, 4)


def damage_target(copy: Path) -> None:
    (copy / "usr/lib/sh").unlink()
    (copy / "usr/lib/sh").symlink_to("/tmp/sh")


def damage_time(copy: Path) -> None:
    os.utime(copy / "usr/bin/bash", (1_700_000_001, 1_700_000_001))


def damage_type(copy: Path) -> None:
    (copy / "run/initctl").unlink()
    (copy / "run/initctl").touch()


def damage_device(copy: Path) -> None:
    (copy / "dev/nvme").unlink()
    os.mknod(copy / "dev/nvme", 0o060660, os.makedev(259, 301))


DAMAGES = {
    damage_size: ("usr/bin/bash", "0 bytes, not 70000"),
    damage_mode: ("usr/bin/sudo", "mode 0755, not 4755"),
    damage_owner: ("usr/lib", "owner 4:4, not 0:0"),
    damage_target: ("usr/lib/sh", "the link target '/tmp/sh', not '../bin/bash'"),
    damage_time: ("usr/bin/bash", "the time 2023-11-14 22:13:21 UTC, not 2023-11-14 22:13:20 UTC"),
    damage_type: ("run/initctl", "the type file, not pipe"),
    damage_device: ("dev/nvme", "device 259:301, not 259:300"),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for owners and devices")
@pytest.mark.parametrize("make", one_of(MAKERS))
@pytest.mark.parametrize("damage", one_of(DAMAGES))
def test_one_wrong_attribute_is_named_with_both_values(rootfs: Path, make, damage) -> None:  # type: ignore[no-untyped-def]
    path, words = DAMAGES[damage]
    copy = copied(rootfs)
    damage(copy)
    assert words in compared(rootfs, make(copy)).differences[path]


def test_a_path_that_the_scripts_write_may_differ_in_content_but_not_in_owner(
    rootfs: Path,
) -> None:
    (rootfs / "etc").mkdir()
    (rootfs / "etc/nv_boot_control.conf").write_text("TNSPEC reference")
    copy = copied(rootfs)
    (copy / "etc/nv_boot_control.conf").write_text("TNSPEC a board")
    os.utime(copy / "etc", (5, 5))
    assert compared(rootfs, ext4_of(copy)).differences == {}
    (copy / "etc/nv_boot_control.conf").chmod(0o666)
    found = compared(rootfs, ext4_of(copy)).differences
    assert found == {"etc/nv_boot_control.conf": "mode 0666, not 0644"}


def test_what_changed_since_the_build_began_is_held_to_type_mode_and_owner(rootfs: Path) -> None:
    copy = copied(rootfs)
    damage_size(copy)
    (copy / "usr/lib/empty").unlink()
    found = compared(rootfs, ext4_of(copy), BEFORE_ALL)
    assert (found.missing, found.differences) == ([], {})
    damage_mode(copy)
    found = compared(rootfs, ext4_of(copy), BEFORE_ALL)
    assert found.differences["usr/bin/sudo"] == "mode 0755, not 4755"


def test_what_a_clock_that_was_ahead_has_dated_is_compared_in_full(
    rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied(rootfs)
    damage_size(copy)
    a_day_ago = time.time() - 86400
    monkeypatch.setattr(time, "time", lambda: a_day_ago)
    found = compared(rootfs, ext4_of(copy), began=a_day_ago - 60)
    assert found.differences["usr/bin/bash"] == "0 bytes, not 70000"


def test_the_last_member_of_a_name_is_the_one_that_is_compared(rootfs: Path) -> None:
    image = gnu_tar_of(copied(rootfs))
    with tarfile.open(image, "a", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("./usr/bin/bash"), io.BytesIO())
    assert "0 bytes" in compared(rootfs, image).differences["usr/bin/bash"]


def test_a_hard_link_to_another_file_is_a_difference(rootfs: Path) -> None:
    copy = copied(rootfs)
    (copy / "usr/lib/.kept").unlink()
    (copy / "usr/lib/.kept").hardlink_to(copy / "usr/bin/bash")
    found = compared(rootfs, gnu_tar_of(copy)).differences
    assert any("which is another file in the rootfs" in why for why in found.values())


def test_what_cannot_be_read_in_the_rootfs_is_not_taken_for_proven(rootfs: Path) -> None:
    here = Path.cwd()
    os.chdir(rootfs / "usr")
    try:
        for name in [f"{each:0>200}" for each in range(25)]:
            Path(name).mkdir()
            os.chdir(name)
    finally:
        os.chdir(here)
    with pytest.raises(VerificationError, match=r"'usr/0000.*' in the rootfs cannot be compared"):
        wanted_of(rootfs, AFTER_ALL)


def test_every_expected_difference_has_its_reason() -> None:
    assert all(pattern and len(reason) > 20 for pattern, reason in EXPECTED)
