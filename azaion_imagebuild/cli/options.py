"""The options that several commands share, and the settings that they override."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.loading import load, named_config
from ..errors import UsageError

if TYPE_CHECKING:
    from ..model import Receipt
    from ..settings import Settings
    from .console import Console

FLAGS: dict[str, tuple[str, str]] = {
    "api_url": ("admin_api", "url"),
    "bsp": ("bsp", "dir"),
    "rootfs_dir": ("bsp", "rootfs_dir"),
    "board": ("bsp", "board"),
    "rootdev": ("bsp", "rootdev"),
    "size": ("bsp", "size"),
    "owner": ("device_conf", "owner"),
    "group": ("device_conf", "group"),
    "flash": ("build", "flash"),
    "fuse": ("build", "fuse"),
    "method": ("bsp", "method"),
    "usb_instance": ("bsp", "usb_instance"),
    "keep_image": ("image", "keep"),
    "inject": ("image", "inject"),
    "rebuild": ("image", "rebuild"),
    "disable": ("hooks", "disable"),
    "state_dir": ("build", "state_dir"),
    "database": ("ledger", "database"),
    "station": ("ledger", "station"),
    "operator": ("ledger", "operator"),
    "yes": ("ledger", "confirmed"),
    "loader_url": ("smoke", "loader_url"),
    "ca_file": ("smoke", "ca_file"),
    "wait": ("smoke", "wait"),
    "socket": ("station", "page_socket"),
    "log_format": ("log", "format"),
}
"""Flag → the setting that it overrides."""

_PASSWORD = re.compile(r"://[^/@]*:[^@]+@|[?&](ssl)?password=")
"""A password in a database's URL."""


def settings_of(args: argparse.Namespace, console: Console) -> Settings:
    """Return the settings from flags, environment and file; set the console's log format.

    Raises:
        UsageError: a flag cannot be accepted.
    """
    flags = {
        place: value
        for flag, place in FLAGS.items()
        if (value := getattr(args, flag, None)) is not None
    }
    if _PASSWORD.search(getattr(args, "database", None) or ""):
        raise UsageError(
            "a password on the command line can be seen by every user of this host",
            hint="write it into ~/.pgpass, or the URL into the configuration ([ledger] database)",
        )
    settings = load(flags, os.environ, named_config(args.config))
    console.speak(is_json=settings.log.format == "json", is_quiet=args.quiet)
    return settings


def general(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command."""
    group = parser.add_argument_group("general options")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="configuration file; default: imagebuild.toml in this folder, if there is one",
    )
    group.add_argument(
        "--state-dir",
        metavar="DIR",
        help="folder for logs, ledger and sandbox; default: ~/.local/state/azaion-imagebuild",
    )
    group.add_argument("--json", action="store_true", help="print one line of JSON on stdout")
    group.add_argument(
        "-v",
        "--verbose",
        "--debug",
        dest="debug",
        action="store_true",
        help="show everything that scripts print",
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", help="show only warnings and errors on stderr"
    )
    group.add_argument(
        "--log-format",
        choices=["text", "json"],
        help="format of stderr and the log files: text, or one JSON object per line; default: text",
    )


def serial(parser: argparse._ActionsContainer, *, alone: bool = False) -> None:
    """Add the device's serial; with ``alone`` it may be given without its flag."""
    if alone:
        parser.add_argument(
            "word", metavar="SERIAL", nargs="?", help="the device's serial, e.g. AZJN-0042"
        )
    about = "the same, as a flag" if alone else "the device's serial, e.g. AZJN-0042"
    parser.add_argument("--serial", help=about)


def serial_of(args: argparse.Namespace) -> str:
    """Return the serial that was given, with its flag or without; "" for none.

    Raises:
        UsageError: two different ones are given.
    """
    word: str | None = getattr(args, "word", None)
    if word is not None and args.serial not in (None, word):
        raise UsageError(
            f"two serials are given: {word!a} and {args.serial!a}",
            hint="give one; for several devices: azaion-imagebuild fleet SERIAL SERIAL",
        )
    return word or args.serial or ""


def dry_run(parser: argparse.ArgumentParser, *names: str, about: str) -> None:
    """Add ``-n``, ``--dry-run`` and other names of it."""
    parser.add_argument("-n", "--dry-run", *names, dest="plan", action="store_true", help=about)


def serials(parser: argparse.ArgumentParser) -> None:
    """Add a list of serials."""
    parser.add_argument(
        "serials",
        metavar="SERIALS",
        nargs="+",
        help="serials, ranges like AZJN-0001..AZJN-1000, text files, CSVs with a column serial, or"
        " - (stdin)",
    )


def api_url(parser: argparse._ActionsContainer) -> None:
    """Add the admin API."""
    parser.add_argument("--api-url", metavar="URL", help="base URL of the admin API")


def site(parser: argparse.ArgumentParser) -> None:
    """Add the site's admin API, rootfs and plug-ins."""
    site = parser.add_argument_group("the site")
    api_url(site)
    site.add_argument(
        "--rootfs-dir",
        metavar="DIR",
        help="root filesystem to write device.conf into; default: rootfs/ in the BSP",
    )
    disable(site)


def bsp(parser: argparse.ArgumentParser) -> None:
    """Add what an image is built from."""
    bsp = parser.add_argument_group("the BSP and the device")
    bsp.add_argument("--bsp", metavar="DIR", help="the Linux_for_Tegra folder")
    bsp.add_argument(
        "--board", help="board name, as in BOARD.conf; default: jetson-orin-nano-devkit"
    )
    bsp.add_argument("--rootdev", help="root device for flash.sh; default: internal")
    bsp.add_argument("--size", help="size of the APP partition, e.g. 14GiB")
    bsp.add_argument(
        "--method",
        choices=["flash", "initrd"],
        help="NVIDIA's script: flash.sh, or the initrd flash (NVMe, USB storage); default: flash",
    )


def usb_instance(parser: argparse.ArgumentParser) -> None:
    """Add which device to flash."""
    parser.add_argument("--usb-instance", metavar="BUS-PORT", help="the device to flash, e.g. 1-3")


def inject(parser: argparse.ArgumentParser) -> None:
    """Add how an identity gets into its image."""
    parser.add_argument(
        "--inject",
        choices=["rootfs", "stamp"],
        help="rootfs: build an image for each device; stamp: build a base once and stamp it;"
        " default: rootfs",
    )


def rebuild(parser: argparse.ArgumentParser, about: str) -> None:
    """Add ``--rebuild``, of a base that is up to date."""
    parser.add_argument("--rebuild", action="store_const", const=True, help=about)


def flash(
    parser: argparse.ArgumentParser, about: str = "0: build and prove, but do not flash"
) -> None:
    """Add whether to flash."""
    parser.add_argument("--flash", metavar="0|1", help=about)
    parser.add_argument(
        "--no-flash", dest="flash", action="store_const", const="0", help="the same as --flash 0"
    )


def keep_image(parser: argparse.ArgumentParser) -> None:
    """Add ``--keep-image``."""
    parser.add_argument(
        "--keep-image",
        action="store_const",
        const=True,
        help="keep the image (mode 0600) after flashing; by default it is removed",
    )


def lanes(parser: argparse.ArgumentParser, jobs: int) -> None:
    """Add where and how many devices are made at a time, or what replaces flashing."""
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=jobs,
        help=f"images made at a time; each lane flashes one device at a time; default: {jobs}",
    )
    parser.add_argument(  # what --jobs was called: scripts have it, and --lane is not meant
        "--lanes", dest="jobs", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--lane",
        metavar="BUS-PORT",
        action="append",
        default=[],
        help="flash at this USB instance, e.g. 1-3; repeatable; default: all devices in recovery"
        " mode",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="write an image for each device; do not flash"
    )
    parser.add_argument(
        "--image", metavar="FILE", type=Path, help="use this base image; no BSP is needed"
    )


def check_jobs(args: argparse.Namespace) -> None:
    """Check the number of ``--jobs``.

    Raises:
        UsageError: it is less than 1.
    """
    if args.jobs < 1:
        raise UsageError("--jobs is less than 1", hint="leave it out for the default")


def bell(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-bell``."""
    parser.add_argument("--no-bell", action="store_true", help="do not ring the terminal's bell")


def fuse(parser: argparse.ArgumentParser, about: str) -> None:
    """Add ``--fuse``, whose meaning depends on the command."""
    parser.add_argument("--fuse", metavar="0|1", nargs="?", const="1", help=about)


def database(parser: argparse.ArgumentParser) -> None:
    """Add the ledger's database."""
    ledger = parser.add_argument_group("the ledger")
    ledger.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:///FILE or postgresql://HOST/NAME; default: a file in --state-dir",
    )


def operator(parser: argparse.ArgumentParser) -> None:
    """Add the operator's name."""
    parser.add_argument(
        "--operator", metavar="NAME", help="operator to record in the ledger; default: your user"
    )


def confirmation(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the operator's consent to rebuild a device."""
    parser.add_argument(
        "--yes",
        action="store_const",
        const=True,
        help=f"{verb} serials that were flashed before ([ledger] reprovision = confirm)",
    )


def owner(parser: argparse.ArgumentParser) -> None:
    """Add the owner of device.conf in the rootfs."""
    conf = parser.add_argument_group("device.conf")
    conf.add_argument(
        "--owner",
        help="account in the rootfs that runs the Loader: a name or a number; default: azaion",
    )
    conf.add_argument("--group", help="group of device.conf; default: the owner's own")


def disable(parser: argparse._ActionsContainer) -> None:
    """Add ``--disable``."""
    parser.add_argument(
        "--disable", action="append", metavar="NAME", help="disable this plug-in; repeatable"
    )


def verdict(parser: argparse.ArgumentParser) -> None:
    """Add an operator's verdict on the attempts of one or several devices."""
    parser.add_argument("serials", metavar="SERIAL", nargs="+", help="the devices' serials")
    parser.add_argument(
        "verdict",
        choices=["done", "failed", "retired", "fused", "unfused"],
        help="done: it has its identity; failed: build it again; retired: out of use; fused,"
        " unfused: the state of its fuses",
    )
    parser.add_argument("--reason", required=True, help="why; recorded in the ledger")
    parser.add_argument("--sandbox", action="store_true", help="a device of the sandbox")


def path(text: str) -> Path:
    """Return the path in a value, which must not be empty."""
    if not text:  # Path("") would mean the current folder
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


def anchor(text: str) -> Receipt:
    """Return the ledger row that a value names as ROW:HASH."""
    from ..model import Receipt

    row, _, seal = text.partition(":")
    if not row.isdigit() or len(seal) != 64:
        raise argparse.ArgumentTypeError(f"{text!a} is not ROW:HASH")
    return Receipt(row=int(row), hash=seal)
