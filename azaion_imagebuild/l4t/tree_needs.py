"""What NVIDIA's scripts need in their tree and the rootfs, apart from board and firmware."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..model import Build, Finding

_FILE_OPTIONS = {
    "-c": "a partition layout",
    "-d": "a device tree",
    "-u": "a PKC key",
    "-v": "an SBK key",
    "-I": "an initrd",
    "-K": "a kernel",
    "--user_key": "a user key",
    "--uefi-keys": "UEFI keys",
    "--pv-crt": "a certificate",
}
"""Options of flash.sh and l4t_initrd_flash.sh whose argument is a file (usage of R35.3.1)."""


def findings(build: Build, tree: Path) -> Iterator[Finding]:
    """Find missing folders and files on which a script would fail halfway."""
    if not (tree / "rootfs/etc").is_dir():
        yield Finding(
            message=f"{tree / 'rootfs/etc'} is missing: flash.sh writes into it, whatever rootfs is"
            " packed",
            hint=f"sudo mkdir -p {shlex.quote(str(tree / 'rootfs/etc'))}",
        )
    if build.rootfs_dir.is_dir() and not (build.rootfs_dir / "boot").is_dir():
        yield Finding(
            message=f"the rootfs {build.rootfs_dir} has no boot/: flash.sh copies the kernel there",
            hint="extract the sample rootfs there, then run sudo ./apply_binaries.sh in the BSP",
        )
    yield from _write_findings(build, tree)
    for option, name in named_files(build.settings.bsp.args):
        if not name:
            yield Finding(
                message=f"[bsp] args: {option} is the last word, and needs {_FILE_OPTIONS[option]}"
                " after it",
                hint="name the file, or leave the option out",
            )
        elif not (tree / name).is_file():
            yield Finding(
                message=f"[bsp] args name {name!a} ({option}, {_FILE_OPTIONS[option]}), which is"
                " not there",
                hint=_hint(tree, name),
            )


def _write_findings(build: Build, tree: Path) -> Iterator[Finding]:
    """Find folders that the scripts write into, but cannot: a read-only mount, for example."""
    folders = [tree / "bootloader", tree / "kernel/dtb"]
    if build.settings.bsp.method == "initrd":
        folders += [tree, tree / "tools/kernel_flash"]
    if not build.overlays:
        folders += [build.rootfs_dir / "etc", build.rootfs_dir / "boot"]
    for folder in folders:
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            yield Finding(
                message=f"{folder} cannot be written: NVIDIA's scripts write into it",
                hint=_hint_to_write(folder),
            )


def _hint_to_write(folder: Path) -> str:
    shown = shlex.quote(str(folder))
    return ("run the same command with sudo; or " if os.geteuid() != 0 else "") + (
        "check whether its filesystem is mounted read-only, or it is immutable:"
        f" findmnt -T {shown}; lsattr -d {shown}"
    )


def _hint(tree: Path, name: str) -> str:
    # Each release has the layouts in another folder.
    there = sorted(tree.glob(f"bootloader/*/cfg/{Path(name).name}")) if Path(name).name else []
    if there:
        return f"this release has it elsewhere: use {there[0].relative_to(tree)}"
    return f"give a path from {tree} on, or a full one: ls {shlex.quote(str((tree / name).parent))}"


def named_files(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (option, file) for each file that arguments name, also inside ``-p "…"``.

    The file is empty if an option is the last word.
    """
    words = iter(args)
    for word in words:
        option, given, value = word.partition("=")
        if option == "-p" or (word.startswith("-p") and not word.startswith("--")):
            inner = word[2:] or next(words, "")
            yield from named_files(_split(inner))
        elif option in _FILE_OPTIONS:
            yield option, value if given else next(words, "")
        elif word[:2] in _FILE_OPTIONS and not word.startswith("--"):
            yield word[:2], word[2:]  # -cFILE, as getopts reads it


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
