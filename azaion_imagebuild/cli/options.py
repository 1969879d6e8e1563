"""What several commands take, each written once: groups of flags, and what their values are."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..model import Receipt


def general(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes."""
    group = parser.add_argument_group("general options")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="settings; default: imagebuild.toml of this folder, if it is there",
    )
    group.add_argument(
        "--state-dir",
        metavar="DIR",
        help="folder of logs, ledger and sandbox; default: ~/.local/state/azaion-imagebuild",
    )
    group.add_argument("--json", action="store_true", help="print one line of JSON on stdout")
    group.add_argument("--debug", action="store_true", help="show all that the scripts print")
    group.add_argument(
        "--log-format",
        choices=["text", "json"],
        help="what stderr and the log files hold: text, or a JSON object a line; default: text",
    )


def serial(parser: argparse.ArgumentParser) -> None:
    """Add the device's serial."""
    parser.add_argument("--serial", help="the device's serial, e.g. AZJN-0042")


def site(parser: argparse.ArgumentParser) -> None:
    """Add the site's admin API, rootfs and plug-ins."""
    site = parser.add_argument_group("the site")
    site.add_argument("--api-url", metavar="URL", help="base URL of the admin API")
    site.add_argument(
        "--rootfs-dir",
        metavar="DIR",
        help="root filesystem to stage into; default: rootfs/ of the BSP",
    )
    disable(site)


def bsp(parser: argparse.ArgumentParser) -> None:
    """Add what an image is built of, and how it is flashed."""
    bsp = parser.add_argument_group("the BSP and the device")
    bsp.add_argument("--bsp", metavar="DIR", help="the Linux_for_Tegra folder")
    bsp.add_argument("--board", help="the name of its .conf; default: jetson-orin-nano-devkit")
    bsp.add_argument("--rootdev", help="root device, as flash.sh takes it; default: internal")
    bsp.add_argument("--size", help="size of the APP partition, e.g. 14GiB")
    bsp.add_argument(
        "--method",
        choices=["flash", "initrd"],
        help="NVIDIA's script: flash.sh, or the initrd flash (NVMe, USB storage); default: flash",
    )
    bsp.add_argument("--usb-instance", metavar="BUS-PORT", help="the device to flash, e.g. 1-3")
    bsp.add_argument(
        "--inject",
        choices=["rootfs", "stamp"],
        help="build each device's image, or build a base once and stamp it; default: rootfs",
    )
    bsp.add_argument(
        "--rebuild",
        action="store_const",
        const=True,
        help="with --inject stamp: build the base anew",
    )
    bsp.add_argument("--flash", metavar="0|1", help="0: build and prove, but do not flash")
    bsp.add_argument(
        "--keep-image",
        action="store_const",
        const=True,
        help="keep the image (0600) after flashing it; otherwise it is removed",
    )


def fuse(parser: argparse.ArgumentParser, about: str) -> None:
    """Add ``--fuse``, of which each command says what it means there."""
    parser.add_argument("--fuse", metavar="0|1", nargs="?", const="1", help=about)


def database(parser: argparse.ArgumentParser) -> None:
    """Add where the ledger is."""
    ledger = parser.add_argument_group("the ledger")
    ledger.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:///FILE or postgresql://HOST/NAME; default: a file in --state-dir",
    )


def operator(parser: argparse.ArgumentParser) -> None:
    """Add who builds, and their word that a device may be built once more."""
    parser.add_argument(
        "--operator", metavar="NAME", help="who builds, for the ledger; default: the user"
    )
    parser.add_argument(
        "--yes",
        action="store_const",
        const=True,
        help="build a serial that was flashed before ([ledger] reprovision = confirm)",
    )


def owner(parser: argparse.ArgumentParser) -> None:
    """Add who owns device.conf in the rootfs."""
    conf = parser.add_argument_group("device.conf")
    conf.add_argument(
        "--owner",
        help="account in the rootfs, or a number, that runs the Loader; default: azaion",
    )
    conf.add_argument("--group", help="its group; default: the owner's own")


def disable(parser: argparse._ActionsContainer) -> None:
    """Add ``--disable``."""
    parser.add_argument(
        "--disable", action="append", metavar="NAME", help="leave this plug-in out; repeatable"
    )


def verdict(resolve: argparse.ArgumentParser) -> None:
    """Add what an operator says of an attempt."""
    resolve.add_argument("serial", metavar="SERIAL", help="the device's serial")
    resolve.add_argument(
        "verdict",
        choices=["done", "failed", "retired", "fused", "unfused"],
        help="done: it has its identity; failed: build it again; retired: out of use; fused,"
        " unfused: what its fuses are",
    )
    resolve.add_argument("--reason", required=True, help="why, for whoever asks later")
    resolve.add_argument("--sandbox", action="store_true", help="a device of the sandbox")


def path(text: str) -> Path:
    """Return the path that a value names."""
    if not text:  # Path("") would be the folder that one is in
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


def anchor(text: str) -> Receipt:
    """Return the row of a ledger that was written down as ROW:HASH."""
    row, _, seal = text.partition(":")
    if not row.isdigit() or len(seal) != 64:
        raise argparse.ArgumentTypeError(f"{text!a} is not ROW:HASH")
    return Receipt(row=int(row), hash=seal)
