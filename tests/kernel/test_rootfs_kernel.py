"""The rootfs where a fake filesystem cannot follow: fifos, devices, xattrs, races."""

import contextlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from azaion_imagebuild.errors import StagingError
from azaion_imagebuild.model import DEVICE_CONF, Ownership
from azaion_imagebuild.rootfs.tree import Rootfs

ME = Ownership(uid=os.geteuid(), gid=os.getegid())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs"
    (path / "etc/azaion").mkdir(parents=True)
    return path


def test_reading_a_fifo_does_not_hang(root: Path) -> None:
    os.mkfifo(root / DEVICE_CONF)
    with Rootfs(root) as rootfs:
        with pytest.raises(StagingError, match="not a regular file"):
            rootfs.read_file(DEVICE_CONF, limit=10)
        node = rootfs.look(DEVICE_CONF)
    assert node is not None
    assert node.kind == "fifo"


@pytest.mark.skipif(os.geteuid() != 0, reason="mknod needs root")
def test_a_device_is_not_opened(root: Path) -> None:
    os.mknod(root / DEVICE_CONF, 0o600 | 0o020000, os.makedev(1, 5))
    with Rootfs(root) as rootfs:
        with pytest.raises(StagingError, match="not a regular file"):
            rootfs.read_file(DEVICE_CONF, limit=10)
        node = rootfs.look(DEVICE_CONF)
    assert node is not None
    assert node.kind == "character device"


def test_extended_attributes_are_handed_on_and_acls_are_not(root: Path) -> None:
    path = root / DEVICE_CONF
    path.write_text("old")
    try:
        os.setxattr(path, "user.azaion", b"kept")
    except OSError:
        pytest.skip("this filesystem has no extended attributes")
    if shutil.which("setfacl"):
        subprocess.run(["setfacl", "-m", "u:12345:r", str(path)], check=True)
        assert "system.posix_acl_access" in os.listxattr(path)
    with Rootfs(root) as rootfs:
        ownership = rootfs.ownership(DEVICE_CONF)
        rootfs.write_file(DEVICE_CONF, b"new", mode=0o600, ownership=ownership)
    assert os.getxattr(path, "user.azaion") == b"kept"
    assert "system.posix_acl_access" not in os.listxattr(path)


def test_a_directory_swapped_with_a_link_never_lets_a_write_out(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    here, aside = root / "etc/azaion", root / "etc/aside"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):  # the writer made the directory meanwhile
                os.rename(here, aside)
            with contextlib.suppress(OSError):
                os.symlink(outside, here)
            with contextlib.suppress(OSError):
                os.unlink(here)
            with contextlib.suppress(OSError):
                os.rename(aside, here)

    thread = threading.Thread(target=swap)
    thread.start()
    written = 0
    try:
        with Rootfs(root) as rootfs:
            for _ in range(600):
                try:
                    rootfs.write_file(DEVICE_CONF, b"x", mode=0o600, ownership=ME)
                    written += 1
                except StagingError:
                    continue
    finally:
        stop.set()
        thread.join()
    assert written
    assert os.listdir(outside) == []
