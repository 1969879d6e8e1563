"""What is known about NVIDIA's releases: layouts, boards' defaults, evidence of success.

The releases are R35 (JetPack 5), R36 (JetPack 6) and R38 (JetPack 7). "Ran" in a source means that
the script was run and watched, "read" that its text says so. Everything is checked at run time,
whatever the release.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from ..errors import OperatorError
from ..model import RELEASE_FILE, Build, Finding
from ..rootfs.tree import Rootfs
from ..system.files import read_text

Step = Literal["package", "flash"]


class Evidence(Struct, frozen=True, kw_only=True):
    """What a script produces only if it succeeded; its exit code must agree."""

    line: str | None = None
    """Words in a line of its output."""
    whole: bool = False
    """The words are the whole line."""
    file: str | None = None
    """A file of the BSP that is written at the end."""
    source: str

    def is_said_by(self, line: str) -> bool:
        """Tell whether a line has the words."""
        return line == self.line if self.whole else self.line is not None and self.line in line

    def watched(self, tree: Path) -> Watched:
        """Return the evidence, watched from before the script runs."""
        return Watched(evidence=self, tree=tree, before=_identity(tree, self.file))


class Watched(Struct, frozen=True, kw_only=True):
    """The evidence of one run: a file that an earlier run left does not count."""

    evidence: Evidence
    tree: Path
    before: tuple[int, ...] | None

    def missing(self, lines: Sequence[str]) -> str | None:
        """Return what is missing after the run; None: the script succeeded."""
        wanted, file = self.evidence.line, self.evidence.file
        if wanted and not any(map(self.evidence.is_said_by, lines)):
            return f"never said “{wanted}”"
        if file and _identity(self.tree, file) in (None, self.before):
            return f"did not write {file}, which comes last"
        return None


def _identity(tree: Path, name: str | None) -> tuple[int, ...] | None:
    try:
        found = (tree / (name or "")).stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


_NO_FLASH = "*** no-flash flag enabled. Exiting now... ***"
_SIGNED = "bootloader/signed/flash.idx"
_EVIDENCE: Mapping[str, Evidence | None] = {
    "flash.sh --no-flash": Evidence(line=_NO_FLASH, source="R35 ran; R36, R38 read"),
    "flash.sh --no-flash --sign": Evidence(
        file=_SIGNED,
        source="R35 ran: flash.sh ignores tegraflash's exit code and prints no success line;"
        " tegraflash_sign empties signed/ first and writes flash.idx last",
    ),
    "flash.sh --no-flash -u": Evidence(
        line=_NO_FLASH,
        file=_SIGNED,
        source="R35 read, odmsign.func: the line is printed when signing failed, too",
    ),
    "flash.sh --no-flash -v": Evidence(
        line=_NO_FLASH,
        file="bootloader/enc_signed/flash.idx",
        source="R35 read, odmsign.func: the line is printed when signing failed, too",
    ),
    "flash.sh -r": Evidence(
        line="has been flashed successfully. ***", source="R35 ran; R36, R38 read"
    ),
    "flash.sh -r -v": None,  # R35 ran: odmsign_ext ends with exit 0 and no line, whatever happened
    "initrd --no-flash": Evidence(line="Success", whole=True, source="R35 ran; R36 read"),
    "initrd --flash-only --network": Evidence(
        line="Flash is successful", source="R35 ran, nv_flash_from_network.sh: the target says it"
    ),
    "initrd --flash-only": Evidence(line="Success", whole=True, source="R35, R36 read"),
}
"""Evidence by the mode of a script; None: a success cannot be told from a failure."""


class Release(Struct, frozen=True, kw_only=True):
    """What is known about a release."""

    number: int
    qspi_layout: str
    """Partition layout of an Orin module's QSPI flash."""
    nvme_layout: str
    """Partition layout of an NVMe with the rootfs."""
    boards_have_defaults: bool = False
    """A board's .conf names its external device and layout."""
    always_over_network: bool = False
    """The initrd flash goes over ``usb0`` even without ``--network``."""
    one_device_only: bool = False
    """The wrapper of the initrd flash ignores ``--usb-instance``, and refuses further devices."""
    evidence: Mapping[str, Evidence | None]


RELEASES = {
    35: Release(
        number=35,  # ran
        qspi_layout="bootloader/t186ref/cfg/flash_t234_qspi.xml",
        nvme_layout="tools/kernel_flash/flash_l4t_external.xml",
        evidence=_EVIDENCE,
    ),
    36: Release(
        number=36,  # read
        qspi_layout="bootloader/generic/cfg/flash_t234_qspi.xml",
        nvme_layout="tools/kernel_flash/flash_l4t_t234_nvme.xml",
        evidence=_EVIDENCE,
    ),
    38: Release(
        number=38,  # read: INTERNAL_PT_LAYOUT, EXTERNAL_PT_LAYOUT and EXTERNAL_DEVICE of the .conf
        qspi_layout="bootloader/generic/cfg/flash_t234_qspi.xml",
        nvme_layout="tools/kernel_flash/flash_l4t_nvme.xml",
        boards_have_defaults=True,
        always_over_network=True,
        one_device_only=True,
        evidence=_EVIDENCE,
    ),
}


def release_name(rootfs: Path) -> str | None:
    """Return the L4T release of a rootfs, e.g. ``R35.3.1``; None: not known.

    The first line of etc/nv_tegra_release is ``# R35 (release), REVISION: 3.1, …``.
    """
    with Rootfs(rootfs) as opened:
        entry = opened.read_file(RELEASE_FILE, limit=4096)
    pattern = rb"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)"
    match = re.search(pattern, entry.data) if entry else None
    return f"R{match[1].decode()}.{match[2].decode()}" if match else None


def release_of(build: Build) -> Release:
    """Return what is known about a build's release; for an unknown one, about the newest."""
    name = None
    with contextlib.suppress(OperatorError):
        name = release_name(build.rootfs_dir)
    return _known(name) or RELEASES[max(RELEASES)]


def _known(name: str | None) -> Release | None:
    return RELEASES.get(int(name[1:].partition(".")[0])) if name else None


def network_of(build: Build) -> str:
    """Return the network that an initrd flash goes over; empty: USB storage."""
    default = "usb0" if release_of(build).always_over_network else ""
    return build.settings.bsp.network or default


def evidence_of(build: Build, step: Step) -> Evidence | None:
    """Return the evidence that a step succeeded; None if no evidence is known.

    The site's own words are those of a device that was flashed: a build does not print them.
    """
    words, known = build.settings.bsp.success, release_of(build).evidence[_mode(build, step)]
    if words is not None and (step == "flash" or known is None):
        return Evidence(line=words, source="[bsp] success")
    return known


def _mode(build: Build, step: Step) -> str:
    settings = build.settings.bsp
    if settings.method == "initrd":
        if step == "package":
            return "initrd --no-flash"
        return f"initrd --flash-only{' --network' if network_of(build) else ''}"
    encrypts = _has_option(settings.args, "-v")
    if step == "flash":
        return "flash.sh -r -v" if encrypts else "flash.sh -r"
    if encrypts:
        return "flash.sh --no-flash -v"
    if _has_option(settings.args, "-u"):
        return "flash.sh --no-flash -u"
    return f"flash.sh --no-flash{' --sign' if '--sign' in settings.args else ''}"


def _has_option(args: Sequence[str], option: str) -> bool:
    """Tell whether arguments hold a short option with a value: ``-v KEY`` or ``-vKEY``."""
    return any(word.startswith(option) for word in args)


def no_evidence(build: Build, step: Step) -> Finding:
    """Return the finding that the success of a step cannot be recognized."""
    return Finding(
        message=f"{_mode(build, step)} prints no success line and ends with 0 even if it failed:"
        " its success cannot be recognized",
        hint='set [bsp] success = "…" to words that your script prints only when it has flashed the'
        " device",
    )


def findings(build: Build, tree: Path) -> list[Finding]:
    """Return what is special about this release or its boards; change nothing."""
    settings, found = build.settings.bsp, []
    with contextlib.suppress(OperatorError):
        name = release_name(build.rootfs_dir)
        if name and _known(name) is None:
            known = ", ".join(f"R{number}" for number in RELEASES)
            found.append(
                Finding(
                    severity="warning",
                    message=f"this tool was not made for L4T {name} (only {known}): its scripts may"
                    " behave differently",
                    hint="check the first device by hand before you flash more",
                )
            )
    steps: tuple[Step, ...] = ("package", "flash") if build.flash else ("package",)
    found += [no_evidence(build, step) for step in steps if evidence_of(build, step) is None]
    if settings.method == "initrd" and flashes_unified(tree, settings.board):
        found.append(
            Finding(
                message=f"{settings.board} uses unified flash: the images in"
                " unified_flash/out/bsp_images cannot be proven yet",
                hint='set [bsp] method = "flash", or use a board of the Orin or Xavier family',
            )
        )
    return found


def external_device(build: Build, tree: Path) -> str | None:
    """Return the external device that carries the rootfs: the setting, or the board's default."""
    settings = build.settings.bsp
    return settings.external_device or _default(build, tree, "EXTERNAL_DEVICE")


def external_layout(build: Build, tree: Path) -> str | None:
    """Return the layout of the external device: the setting, or the board's default."""
    settings = build.settings.bsp
    return settings.partition_xml or _default(build, tree, "EXTERNAL_PT_LAYOUT")


def _default(build: Build, tree: Path, name: str) -> str | None:
    if not release_of(build).boards_have_defaults:
        return None
    return board_variable(tree, build.settings.bsp.board, name)


def flashes_unified(tree: Path, board: str) -> bool:
    """Tell whether a board is flashed without the inner script of the initrd flash (R38, read)."""
    return (board_variable(tree, board, "_UNIFIED_FLASH") or "0")[0] in "123456789ty"


def board_variable(tree: Path, board: str, name: str) -> str | None:
    """Return a variable that a board's .conf sets unconditionally, or None."""
    text = _conf(tree, f"{board}.conf", set())
    values = re.findall(rf"^{re.escape(name)}=[\"']?([^\"';\s]*)", text, re.MULTILINE)
    return values[-1] or None if values else None


def _conf(tree: Path, name: str, seen: set[str]) -> str:
    """Return the text of a .conf, after those that it sources."""
    if name in seen or "/" in name:
        return ""
    seen.add(name)
    try:
        text = read_text(tree / name)
    except OSError:
        return ""
    sourced = re.findall(r"^\s*(?:source|\.)\s+\"?\$\{LDK_DIR\}/([^\"\s;]+)", text, re.MULTILINE)
    return "\n".join([*(_conf(tree, each, seen) for each in sourced), text])
