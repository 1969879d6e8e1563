"""The reference BSP: a small Linux_for_Tegra whose flash.sh builds real images."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path

from ..errors import UsageError
from ..l4t.initrd_host import REFERENCE_MARK

TREE = Path(__file__).parent / "Linux_for_Tegra"
_EXECUTABLE = (
    "flash.sh",
    "bootloader/mksparse",
    "bootloader/tegraflash",
    "tools/kernel_flash/l4t_initrd_flash.sh",
    "tools/kernel_flash/l4t_initrd_flash_internal.sh",
    "tools/reference_host/exportfs",
    "tools/reference_host/service",
)


def service_user() -> int:
    """Return the uid of the sandbox's service user: the caller's own, or 1000 for root.

    An ordinary user cannot chown files, so the account ``azaion`` of the sandbox's rootfs has the
    caller's uid: the owner in the image is then right without root.
    """
    return os.geteuid() or 1000


def create_bsp(bsp: Path) -> Path:
    """Create the reference BSP at ``bsp``, again if its version differs; return it."""
    mark = bsp / REFERENCE_MARK
    version = _version()
    if bsp.exists() and not mark.is_file():
        raise UsageError(
            f"{bsp} is in the sandbox's place, but this tool did not make it",
            hint="move it away, or set AZAION_IMAGEBUILD_STATE_DIR to another folder",
        )
    if not mark.is_file() or mark.read_text() != version:
        new = bsp.with_name(bsp.name + ".new")
        for old in (new, bsp):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(TREE, new)
        _make_readable(new)
        for name in _EXECUTABLE:
            (new / name).chmod(0o755)
        create_rootfs(new / "rootfs", service_user())
        (new / REFERENCE_MARK).write_text(version)
        new.rename(bsp)
    return bsp


def is_reference_bsp(bsp: Path) -> bool:
    """Tell whether a folder is a reference BSP that this tool made."""
    return (bsp / REFERENCE_MARK).is_file()


def create_rootfs(rootfs: Path, uid: int) -> None:
    """Create a small root filesystem with the service user ``azaion`` (``uid``)."""
    for folder in (
        "bin",
        "boot/extlinux",
        "dev",
        "etc/systemd/system",
        "home/azaion",
        "lib/modules",
        "opt/azaion",
        "proc",
        "root",
        "sys",
        "tmp",
        "usr/bin",
        "var/lib",
    ):
        (rootfs / folder).mkdir(parents=True)
    for path, text in _files(uid).items():
        (rootfs / path).write_text(text)
    _make_readable(rootfs)
    (rootfs / "etc/shadow").chmod(0o640)
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "usr/bin/azaion-loader").chmod(0o755)
    os.chown(rootfs / "home/azaion", uid, uid if os.geteuid() == 0 else -1)


def _make_readable(tree: Path) -> None:
    """Set the modes of NVIDIA's trees, because the umask may have removed bits."""
    for path in (tree, *tree.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _files(uid: int) -> dict[str, str]:
    return {
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        f"azaion:x:{uid}:{_group(uid)}:Azaion Loader:/home/azaion:/usr/sbin/nologin\n",
        "etc/group": f"root:x:0:\nnogroup:x:65534:\nazaion:x:{_group(uid)}:\n",
        "etc/shadow": "root:*:19000:0:99999:7:::\nazaion:*:19000:0:99999:7:::\n",
        "etc/hostname": "jetson\n",
        "etc/nv_tegra_release": "# R35 (release), REVISION: 3.1, GCID: 0, BOARD: t186ref, EABI:"
        " aarch64, DATE: reference BSP\n",
        "etc/nv_boot_control.conf": "TNSPEC reference\n",
        "etc/user_release_version": "0\n",
        "boot/extlinux/extlinux.conf": "DEFAULT primary\nLABEL primary\n  LINUX /boot/Image\n",
        "boot/Image": "reference kernel\n",
        "usr/bin/azaion-loader": "#!/bin/sh\necho reference Loader\n",
    }


def _group(uid: int) -> int:
    return uid if os.geteuid() == 0 else os.getegid()


def _version() -> str:
    digest = sha256(Path(__file__).read_bytes())
    for path in sorted(TREE.rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return f"{digest.hexdigest()} {service_user()}\n"
