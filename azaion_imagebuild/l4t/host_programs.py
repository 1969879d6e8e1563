"""The programs of the host that NVIDIA's scripts call, and the packages that have them.

The scripts check for two or three of them, and stop halfway if another one is missing. Sources: the
BSP's own ``tools/l4t_flash_prerequisites.sh``, and what the scripts of R35.3.1 were seen to call.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..model import Build, Finding
from ..system.files import read_text
from ..system.process import find_program, run
from .releases import network_of

PREREQUISITES = "tools/l4t_flash_prerequisites.sh"

_ALWAYS = {
    "tar": "tar",
    "losetup": "mount",
    "mount": "mount",
    "mkfs.msdos": "dosfstools",
    "uuidgen": "uuid-runtime",
    "xmllint": "libxml2-utils",
    "python3": "python3",
    "cpp": "cpp",
    "cpio": "cpio",
    "gzip": "gzip",
    "ssh-keygen": "openssh-client",
}
"""flash.sh itself, its recovery image, and tegraflash.py."""

_INITRD = {
    "abootimg": "abootimg",
    "strings": "binutils",
    "sshpass": "sshpass",
    "udevadm": "udev",
}
_NETWORK = {
    "exportfs": "nfs-kernel-server",
    "service": "init-system-helpers",
    "showmount": "nfs-common",
}
"""Needed even if only packages are built."""

_NETWORK_FLASH = {"ssh": "openssh-client", "ip": "iproute2", "ping6": "iputils-ping"}

_IN_PACKAGE = {
    "binutils": "strings",
    "cpp": "cpp",
    "cpio": "cpio",
    "device-tree-compiler": "dtc",
    "dosfstools": "mkfs.msdos",
    "gdisk": "sgdisk",
    "lbzip2": "lbzip2",
    "libxml2-utils": "xmllint",
    "lz4": "lz4c",
    "openssl": "openssl",
    "parted": "parted",
    "python3": "python3",
    "rsync": "rsync",
    "uuid-runtime": "uuidgen",
    "xmlstarlet": "xmlstarlet",
    "zstd": "zstd",
}
"""The programs for which NVIDIA's list has a package.

Not here: what only the initrd flash needs (see above); binfmt-support, qemu-user-static and whois,
which are for preparing a rootfs; ``python``, which is asked for where a script calls it.
"""

_NAMED_IN_SCRIPTS = {
    "zstd": ("zstd", re.compile(r"\bzstd\b")),  # packs the rootfs, as read in R36.4
    "python": ("python-is-python3", re.compile(r"^[^#]*\bpython -c\b", re.MULTILINE)),
}
"""Programs that some releases call, listed or not: package, and caller."""

_PACKERS = ("flash.sh", "tools/kernel_flash/l4t_create_images_for_kernel_flash.sh")
_DSA_SCRIPT = "tools/ota_tools/version_upgrade/ota_make_recovery_img_dtb.sh"
_DSA_KEY = re.compile(r"^\s*ssh-keygen\b.*-t\s+dsa\b", re.MULTILINE)


def findings(build: Build, tree: Path) -> Iterator[Finding]:
    """Check the programs that a build with ``tree`` needs; one finding names all packages."""
    needed = _needed(build, tree)
    missing = [name for name in needed if _find(build, name) is None]
    packages = sorted({needed[name] for name in missing})
    if "python3-yaml" in _listed_packages(tree) and not _has_yaml(build):
        missing, packages = [*missing, "python3's yaml"], [*packages, "python3-yaml"]
    if missing:
        yield Finding(
            message=f"NVIDIA's scripts need what is not installed: {', '.join(missing)}",
            hint=f"sudo apt-get install {' '.join(packages)}",
        )
    yield from _key_findings(build, tree)


def _needed(build: Build, tree: Path) -> Mapping[str, str]:
    """Return the programs (and their packages) for the configured method."""
    settings = build.settings.bsp
    needed = dict(_ALWAYS)
    needed |= {_IN_PACKAGE[name]: name for name in _listed_packages(tree) if name in _IN_PACKAGE}
    text = "".join(_text(tree / name) for name in _PACKERS)
    needed |= {
        name: package for name, (package, call) in _NAMED_IN_SCRIPTS.items() if call.search(text)
    }
    if settings.method == "initrd":
        needed |= _INITRD
        needed |= _NETWORK if network_of(build) else {}
        needed |= _NETWORK_FLASH if network_of(build) and build.flash else {}
    return needed


def _listed_packages(tree: Path) -> list[str]:
    """Return the packages that NVIDIA's list installs."""
    text = _text(tree / PREREQUISITES).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    words = [re.split(r"[;&|]", line.partition("install ")[2])[0].split() for line in lines]
    return [word for line in words for word in line if not word.startswith("-")]


def _has_yaml(build: Build) -> bool:
    python = _find(build, "python3")
    if python is None:
        return True  # python3 itself is missing
    return run([python, "-c", "import yaml"], cwd=Path("/"), timeout=60).returncode == 0


def _key_findings(build: Build, tree: Path) -> Iterator[Finding]:
    """Check that OpenSSH can make the DSA key for a release's recovery image.

    Without it (OpenSSH 9.8 and newer) flash.sh says only “command is failed”.
    """
    ssh = _find(build, "ssh")
    if ssh is None or not _DSA_KEY.search(_text(tree / _DSA_SCRIPT)):
        return
    if "ssh-dss" not in run([ssh, "-Q", "key"], cwd=Path("/"), timeout=60).tail:
        script = shlex.quote(str(tree / _DSA_SCRIPT))
        yield Finding(
            message="this host's OpenSSH makes no DSA keys, but this release's recovery image gets"
            " one",
            hint="use a host with OpenSSH before 9.8 (Ubuntu 22.04), or leave that key out:"
            f" sudo sed -i '/ssh-keygen -t dsa/d' {script}",
        )


def _find(build: Build, name: str) -> str | None:
    own = build.settings.bsp.environment.get("PATH")  # the scripts get this PATH
    return shutil.which(name, path=own) if own else find_program(name)


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except OSError:
        return ""
