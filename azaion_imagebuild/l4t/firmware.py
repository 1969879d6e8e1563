"""Checking the firmware that a board's configuration and partition layout name.

If a file is missing, flash.sh leaves its partition's file name empty (``mkfilesoft``) and ends with
0: the device would be flashed without it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..model import Build, Finding
from ..system.files import read_text
from . import releases
from .tree_needs import named_files

Severity = Literal["error", "warning"]
BUILT_LAYOUT = "bootloader/flash.xml"
"""The layout that flash.sh filled in."""
OPTIONAL = {
    "tsec_fw": "NVIDIA's releases for Orin name it and do not contain it",
}
"""Types of partitions that are empty in a good build, with the reason."""

_VARIABLES: dict[str, str] = {
    "MB1FILE": "MB1FILE",
    "PSCBL1FILE": "PSCBL1FILE",
    "NVHOSTNVDEC": "NVHOSTNVDEC",
    "MB2BLFILE": "MB2BLFILE",
    "XUSB_FW": "XUSBFILE",
    "BPFFILE": "BPFFILE",
    "PSCFW": "PSCFW",
    "MCE_IMAGE": "MTSMCEFILE",
    "WB0FILE": "WB0BOOT",
    "PSCRF_IMAGE": "PSC_RF",
    "MB2RF_IMAGE": "MB2_RF",
    "EKSFILE": "EKSFILE",
    "DCE": "DCE",
    "SPEFILE": "SPEFILE",
    "CAMERAFW": "CAMERAFW",
    "APEFILE": "APEFILE",
    "TOSFILE": "TOSFILE",
    "TBCFILE": "TBCFILE",
    "SCEFILE": "SCEFILE",
    "MTSPREBOOT": "MTSPREBOOT",
    "MTS_MCE": "MTS_MCE",
    "MTSPROPER": "MTSPROPER",
}
"""The words of a layout that flash.sh replaces by a file which must be there before, and the
variable of the board's configuration that names it (flash.sh of R35.3.1). Other words stand for
files that flash.sh makes itself, such as the kernel's image."""

_NOT_SHIPPED = {
    "TSECFW": "as OPTIONAL says",
    "IST_UCODE": "the in-system test, which NVIDIA delivers apart",
    "FSIFWFILE": "the safety island, which NVIDIA delivers apart",
    "CBOOTOPTION_FILE": "a site's own options of cboot",
    "DFLT_CUSTOMER_INFO": "a site's own data",
    "BADPAGEFILE": "made by flash.sh",
    "UEFIBL": "made by flash.sh",
    "RCM_UEFIBL": "made by flash.sh",
}
"""Variables that name a file which a complete BSP does not contain, with the reason (all 58 boards
of R35.3.1)."""

_BY_NAME = ("adsp-fw.bin",)  # layouts of Orin name it so, for APEFILE
_WHERE = ("bootloader", "bootloader/*", "bootloader/*/BCT", "bootloader/*/cfg", "kernel/dtb")
"""Where flash.sh looks for what a board's configuration names, depending on the variable."""

_ASSIGNED = re.compile(
    r'^[ \t]*([A-Z_0-9]+)="?([\w./+-]+\.(?:bin|img|fw|dtb|dtbo|dts|dtsi|cfg|dat))"?;?'
    r"[ \t]*(?:#.*)?$",
    re.MULTILINE,
)
_LAYOUT = re.compile(r'^EMMC_CFG="?([\w.+-]+\.xml)"?;?[ \t]*$', re.MULTILINE)
_SOURCED = re.compile(r'^[ \t]*(?:source|\.)[ \t]+"?\$\{LDK_DIR\}/([\w.+-]+)"?', re.MULTILINE)
_PARTITION = re.compile(r"<partition\b([^<>]*)>(.*?)</partition>", re.DOTALL)
_ATTRIBUTE = re.compile(r'\b(\w+)="([^"]*)"')
_FILENAME = re.compile(r"<filename>([^<]*)</filename>")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_MOST_CONFS = 8
_RAN = 35  # the release whose boards were all looked at


def preflight_findings(tree: Path, build: Build) -> Iterator[Finding]:
    """Find the firmware that flash.sh would omit, before anything is built."""
    confs = list(_confs(tree, build.settings.bsp.board))
    named = _named(confs)
    severity: Severity = "error" if releases.release_of(build).number == _RAN else "warning"
    yield from _layout_findings(tree, build, confs, severity)
    reported: set[str] = set()
    for layout in _layouts(tree, build, confs):
        for word in _files(_text_of_layout(layout)):
            paths = _paths(word, named)
            if paths and word not in reported and not any(_is_there(tree, each) for each in paths):
                reported.update((word, _VARIABLES.get(word, word)))
                yield _lacking(paths, os.path.relpath(layout, tree))
    folders = [tree, *(each for where in _WHERE for each in tree.glob(where))]
    for variable in named.keys() - reported - _NOT_SHIPPED.keys():
        paths = _alternatives(named[variable])
        if not any(_is_there(folder, each) for each in paths for folder in folders):
            conf = f"{build.settings.bsp.board}.conf or what it includes, as {variable},"
            yield _lacking(paths, conf, severity)


def built_findings(tree: Path, build: Build) -> Iterator[Finding]:
    """Find the partitions whose file flash.sh left out of what it built."""
    wanted = set(_with_firmware(tree, build))
    for attributes, content in _partitions(tree / BUILT_LAYOUT):
        partition = dict(_ATTRIBUTE.findall(attributes))
        name, kind = partition.get("name", "?"), partition.get("type", "")
        files = _files(content)
        # flash.sh empties the name of some files, and takes the whole line of others out.
        left_out = "" in files or (not files and name in wanted)
        if left_out and kind not in OPTIONAL:
            yield Finding(
                message=f"flash.sh left the firmware of the partition {name!a} out:"
                f" {tree / BUILT_LAYOUT} names no file for it",
                hint="put the missing file into bootloader/ of the BSP, then run the same command"
                " again; do not flash this image",
            )


def _with_firmware(tree: Path, build: Build) -> Iterator[str]:
    """Yield the names of the partitions for which a layout and the board's files have firmware."""
    confs = list(_confs(tree, build.settings.bsp.board))
    named = _named(confs)
    for layout in _layouts(tree, build, confs):
        for attributes, content in _partitions(layout):
            words = _files(content)
            if any(_is_there(tree, path) for word in words for path in _paths(word, named)):
                yield dict(_ATTRIBUTE.findall(attributes)).get("name", "?")


def _named(confs: list[str]) -> dict[str, list[str]]:
    """Return the files that a board's configuration names, by variable."""
    named: dict[str, list[str]] = {}
    for variable, path in (found for text in confs for found in _ASSIGNED.findall(text)):
        named.setdefault(variable, []).append(path)
    return named


def _layout_findings(
    tree: Path, build: Build, confs: list[str], severity: Severity
) -> Iterator[Finding]:
    """Check that the layout of the board is there, unless arguments name another one."""
    args = build.settings.bsp.args
    named = [path for option, path in named_files(args) if option == "-c"]
    for name in _layouts_of_board(confs) if not named else ():
        if not any(tree.glob(f"bootloader/*/cfg/{name}")):
            conf = f"{build.settings.bsp.board}.conf or what it includes, as EMMC_CFG,"
            yield _lacking([f"bootloader/*/cfg/{name}"], conf, severity)


def _layouts_of_board(confs: list[str]) -> list[str]:
    return [name for text in confs for name in _LAYOUT.findall(text)][-1:]


def _lacking(paths: list[str], where: str, severity: Severity = "error") -> Finding:
    return Finding(
        message=f"the BSP lacks {' or '.join(paths)}, or it is empty: {where} names it",
        hint="extract the BSP again: flash.sh leaves a missing firmware file out silently",
        severity=severity,
    )


def _paths(word: str, named: dict[str, list[str]]) -> list[str]:
    """Return where a file of a layout may be; several, if boards of one configuration differ."""
    if word in _VARIABLES:
        return _alternatives(named.get(_VARIABLES[word], []))
    return [f"bootloader/{word}"] if word in _BY_NAME else []


def _alternatives(paths: list[str]) -> list[str]:
    """Return the files that may be meant: boards, and fuse levels, of one configuration differ."""
    return list(dict.fromkeys(each for path in paths for each in _by_fuse_level(path)))


def _by_fuse_level(path: str) -> tuple[str, ...]:
    """process_fuse_level() of the board's configuration replaces one word by the other."""
    xavier = path.replace("_c10_cr", "_c10_prod_cr")
    return (path, path.replace("_dev", "_prod"), path.replace("_prod", "_dev"), xavier)


def _is_there(tree: Path, path: str) -> bool:
    try:
        found = (tree / path).stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _layouts(tree: Path, build: Build, confs: list[str]) -> Iterator[Path]:
    """Yield the layouts of this build: the board's, and those that the settings name."""
    settings = build.settings.bsp
    given = [path for option, path in named_files(settings.args) if option == "-c"]
    if settings.partition_xml:
        given.append(settings.partition_xml)
    found = [tree / path for path in given]
    for name in _layouts_of_board(confs):
        found += sorted(tree.glob(f"bootloader/*/cfg/{name}"))
    for path in dict.fromkeys(found):
        if path.is_file():
            yield path


def _confs(tree: Path, board: str) -> Iterator[str]:
    """Yield a board's configuration, each file after those that it includes."""
    to_read = [f"{board}.conf"]
    texts: list[str] = []
    while to_read and len(texts) < _MOST_CONFS:
        text = _text(tree / to_read.pop(0))
        texts.append(text)
        to_read += _SOURCED.findall(text)
    yield from reversed(texts)


def _partitions(layout: Path) -> list[tuple[str, str]]:
    """Return (attributes, content) of each partition of a layout."""
    text = _text_of_layout(layout)
    return _PARTITION.findall(text[: _end_of(text, "</partition>")])


def _files(text: str) -> list[str]:
    return [word.strip() for word in _FILENAME.findall(text)]


def _text_of_layout(layout: Path) -> str:
    """Return a layout without its comments."""
    text = _text(layout)
    end = _end_of(text, "-->")
    return _COMMENT.sub("", text[:end]) + text[end:]


def _end_of(text: str, mark: str) -> int:
    """Return where the last ``mark`` ends: a search for one after it takes quadratic time."""
    return text.rfind(mark) + len(mark) if mark in text else 0


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except OSError:
        return ""
