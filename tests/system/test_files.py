from __future__ import annotations

import os
from pathlib import Path

import pytest

from azaion_imagebuild.system.files import (
    NEW_SUFFIX,
    new_file,
    opened_folder,
    prepared_file,
    read_text,
    replace_file,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return an empty folder."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def test_a_file_is_replaced_whole_and_is_private(place: Path) -> None:
    path = place / "file"
    path.write_text("old")
    with opened_folder(place) as folder, new_file(folder, "file") as stream:
        stream.write(b"new")
        assert path.read_text() == "old"
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert os.listdir(place) == ["file"]


@pytest.mark.parametrize("raises", [True, False])
def test_what_is_not_published_leaves_nothing(place: Path, raises: bool) -> None:
    path = place / "file"
    path.write_text("old")
    try:
        with opened_folder(place) as folder, prepared_file(folder, "file") as (stream, _):
            stream.write(b"new")
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert path.read_text() == "old"
    assert os.listdir(place) == ["file"]


def test_what_a_killed_run_left_is_removed_and_not_followed(place: Path) -> None:
    other = place / "other"
    other.write_text("kept")
    (place / f".file{NEW_SUFFIX}").symlink_to(other)
    replace_file(place / "file", b"new")
    assert other.read_text() == "kept"
    assert sorted(os.listdir(place)) == ["file", "other"]


def test_a_replaced_file_may_keep_owner_and_mode_of_another(place: Path) -> None:
    path = place / "exports"
    path.write_text("old")
    path.chmod(0o664)
    if os.geteuid() == 0:
        os.chown(path, 1000, 1001)
    before = path.stat()
    replace_file(path, b"new", like=path)
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid
    )  # fmt: skip


def test_a_file_moves_with_its_folder(place: Path) -> None:
    (place / "a").mkdir()
    with opened_folder(place / "a") as folder, new_file(folder, "file") as stream:
        (place / "a").rename(place / "b")
        (place / "a").mkdir()
        stream.write(b"new")
    assert (place / "b/file").read_bytes() == b"new"
    assert os.listdir(place / "a") == []


def test_a_setting_of_the_kernel_can_be_read() -> None:
    assert read_text(Path("/proc/sys/kernel/ostype")) == "Linux\n"
    with pytest.raises(OSError, match="longer than 5 bytes"):
        read_text(Path("/proc/sys/kernel/ostype"), 5)
