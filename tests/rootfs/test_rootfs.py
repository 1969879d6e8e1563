"""The rootfs by descriptors; every test runs under pyfakefs and on the real filesystem."""

import os
import stat
from pathlib import Path

import pytest
from world import Tree

from azaion_imagebuild.errors import StagingError
from azaion_imagebuild.model import DEVICE_CONF, Ownership
from azaion_imagebuild.rootfs.tree import Rootfs

ME = Ownership(uid=os.geteuid(), gid=os.getegid())


def write(tree: Tree, data: bytes = b"new", ownership: Ownership = ME) -> None:
    with Rootfs(tree.path) as rootfs:
        rootfs.write_file(DEVICE_CONF, data, mode=0o600, ownership=ownership)


def test_a_new_file_has_its_mode_and_its_directories_are_0755(tree: Tree) -> None:
    before = os.umask(0o077)
    try:
        with Rootfs(tree.path) as rootfs:
            staged = rootfs.write_file("etc/a/b/device.conf", b"x", mode=0o600, ownership=ME)
    finally:
        os.umask(before)
    path = tree.path / "etc/a/b/device.conf"
    assert path.read_bytes() == b"x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert staged.new_dirs == ("etc/a", "etc/a/b")


def test_nothing_else_in_the_tree_is_touched(tree: Tree) -> None:
    (tree.path / "etc/azaion").mkdir()
    os.utime(tree.path / "etc/azaion", ns=(5 * 10**17, 5 * 10**17))
    os.utime(tree.path / "etc", ns=(10**18, 10**18))
    before = tree.snapshot()
    write(tree)
    after = tree.snapshot()
    assert after.pop(DEVICE_CONF)
    assert after == before


def test_writing_and_removing_leaves_the_tree_as_it_was(tree: Tree) -> None:
    before = tree.snapshot()
    with Rootfs(tree.path) as rootfs:
        staged = rootfs.write_file(DEVICE_CONF, b"x", mode=0o600, ownership=ME)
        assert rootfs.remove_file(DEVICE_CONF)
        rootfs.remove_dirs(staged.new_dirs)
        assert not rootfs.remove_file(DEVICE_CONF)
    assert tree.snapshot() == before


def test_an_existing_file_is_replaced_whole(tree: Tree) -> None:
    write(tree, b"old, and longer than the new one")
    write(tree, b"new")
    assert (tree.path / DEVICE_CONF).read_bytes() == b"new"
    assert os.listdir(tree.path / "etc/azaion") == ["device.conf"]


def test_what_a_killed_run_left_beside_it_goes(tree: Tree) -> None:
    (tree.path / "etc/azaion").mkdir()
    (tree.path / "etc/azaion/device.conf.azaion-new").write_text("half")
    with Rootfs(tree.path) as rootfs:
        assert rootfs.remove_file(DEVICE_CONF)
    assert os.listdir(tree.path / "etc/azaion") == []


def test_an_absolute_link_leads_inside_the_rootfs_not_to_the_host(tree: Tree) -> None:
    (tree.path / "data").mkdir()
    (tree.path / "etc/azaion").symlink_to("/data")
    write(tree)
    assert (tree.path / "data/device.conf").read_bytes() == b"new"


def test_dots_do_not_lead_above_the_root(tree: Tree) -> None:
    (tree.path / "etc/azaion").symlink_to("../../../../../../data")
    (tree.path / "data").mkdir()
    write(tree)
    assert (tree.path / "data/device.conf").exists()
    assert not (tree.path.parent / "data").exists()


def test_etc_that_leads_to_the_root_stays_in_the_tree(tree: Tree) -> None:
    os.rename(tree.path / "etc", tree.path / "real-etc")
    (tree.path / "etc").symlink_to("../..")
    write(tree)
    assert (tree.path / "azaion/device.conf").exists()
    assert not (tree.path.parent / "azaion").exists()


@pytest.mark.parametrize("target", ["azaion", "/etc/azaion", "../etc/azaion"])
def test_links_in_a_circle_are_refused(tree: Tree, target: str) -> None:
    (tree.path / "etc/azaion").symlink_to(target)
    with pytest.raises(StagingError, match="cannot write") as caught:
        write(tree)
    assert "circle" in caught.value.hint


def test_a_link_at_the_end_is_replaced_and_its_target_left_alone(tree: Tree) -> None:
    (tree.path / "etc/azaion").mkdir()
    (tree.path / "etc/shadow").write_text("secret")
    (tree.path / DEVICE_CONF).symlink_to("/etc/shadow")
    write(tree)
    assert (tree.path / "etc/shadow").read_text() == "secret"
    assert not (tree.path / DEVICE_CONF).is_symlink()


def test_a_file_in_the_way_is_refused_and_nothing_is_left(tree: Tree) -> None:
    (tree.path / "etc/azaion").write_text("a file")
    before = tree.snapshot()
    with pytest.raises(StagingError) as caught:
        write(tree)
    assert "directory must be" in caught.value.hint
    assert tree.snapshot() == before


def test_a_directory_in_its_place_is_refused_and_nothing_is_left(tree: Tree) -> None:
    (tree.path / DEVICE_CONF).mkdir(parents=True)
    before = tree.snapshot()
    with pytest.raises(StagingError):
        write(tree)
    assert tree.snapshot() == before


def test_reading_follows_links_inside_the_tree(tree: Tree) -> None:
    (tree.path / "usr").mkdir()
    os.rename(tree.path / "etc/passwd", tree.path / "usr/passwd")
    (tree.path / "etc/passwd").symlink_to("/usr/passwd")
    with Rootfs(tree.path) as rootfs:
        entry = rootfs.read_file("etc/passwd", limit=1000)
    assert entry is not None
    assert entry.data.startswith(b"root:")


def test_reading_says_none_for_what_is_not_there(tree: Tree) -> None:
    (tree.path / "etc/dangling").symlink_to("/nowhere")
    with Rootfs(tree.path) as rootfs:
        assert rootfs.read_file(DEVICE_CONF, limit=10) is None
        assert rootfs.read_file("etc/dangling", limit=10) is None
        assert rootfs.look(DEVICE_CONF) is None


def test_reading_refuses_a_file_that_is_too_long(tree: Tree) -> None:
    with Rootfs(tree.path) as rootfs, pytest.raises(StagingError, match="longer than 3 bytes"):
        rootfs.read_file("etc/passwd", limit=3)


def test_reading_refuses_a_directory(tree: Tree) -> None:
    with Rootfs(tree.path) as rootfs, pytest.raises(StagingError, match="not a regular file"):
        rootfs.read_file("etc", limit=10)


def test_looking_tells_what_stands_there(tree: Tree) -> None:
    (tree.path / "etc/link").symlink_to("/etc/passwd")
    with Rootfs(tree.path) as rootfs:
        kinds = [rootfs.look(path) for path in ("etc/passwd", "etc", "etc/link")]
    assert [node.kind for node in kinds if node] == ["regular file", "directory", "symbolic link"]


def test_a_rootfs_that_is_not_there_is_a_clear_error(tree: Tree) -> None:
    with pytest.raises(StagingError, match="cannot open the rootfs"):
        Rootfs(tree.path / "nowhere")


def test_a_failed_write_takes_back_the_directories_it_made(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = tree.snapshot()
    monkeypatch.setattr("azaion_imagebuild.rootfs.tree.os.fsync", full)
    with pytest.raises(StagingError, match="No space left") as caught:
        write(tree)
    assert "make room" in caught.value.hint
    assert tree.snapshot() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_owner_of_the_rootfs_gets_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with Rootfs(tmp_path) as rootfs:
        rootfs.write_file(DEVICE_CONF, b"", mode=0o600, ownership=Ownership(uid=1234, gid=2345))
        entry = rootfs.read_file(DEVICE_CONF, limit=1)
    assert entry is not None
    assert (entry.mode, entry.uid, entry.gid) == (0o600, 1234, 2345)
    folder = (tmp_path / "etc/azaion").stat()
    assert (folder.st_uid, folder.st_gid) == (0, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may give files away")
def test_an_ordinary_user_who_cannot_give_a_file_away_is_told(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with Rootfs(tmp_path) as rootfs, pytest.raises(StagingError) as caught:
        rootfs.write_file(DEVICE_CONF, b"", mode=0o600, ownership=Ownership(uid=0, gid=0))
    assert "sudo" in caught.value.hint
    assert os.listdir(tmp_path / "etc") == []
