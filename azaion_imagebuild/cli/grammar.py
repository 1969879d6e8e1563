"""The command line's grammar: which commands there are, and what each of them takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UsageError
from . import completion, manual, options

_Commands = dict[str, tuple[str, "Callable[[argparse.ArgumentParser], None] | _Commands"]]

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
    "log_format": ("log", "format"),
}
"""Flag → the setting that it overrides."""


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser: of the command that is called, or of all when the first word is none.

    Parsed, ``command`` is the name of the command: a verb follows its noun after a space.
    """
    whole = _Parser(
        prog="azaion-imagebuild",
        description=manual.ABOUT,
        epilog="azaion-imagebuild COMMAND --help says more of each. Settings come from flags, then"
        " AZAION_IMAGEBUILD_* variables, then imagebuild.toml. Exit codes: 0 done, 2 usage,"
        " 3 preflight, 4 provisioning, 5 staging, 6 image build, 7 flash, 8 verification, 9 ledger,"
        " 10 fleet incomplete, 70 a bug, 130 interrupted.",
        allow_abbrev=False,
    )
    table = _commands()
    whole.called = " ".join(_called(argv, table))
    whole.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add(whole, table, argv)
    manual.describe(whole)
    return whole


def _called(argv: Sequence[str], table: _Commands) -> Iterator[str]:
    """Yield the words that name the command: ``ledger``, ``show``."""
    if argv and argv[0] in table:
        yield argv[0]
        takes = table[argv[0]][1]
        if isinstance(takes, dict):
            yield from _called(argv[1:], takes)


def _no_command(word: str, table: _Commands) -> UsageError:
    from difflib import get_close_matches  # late: no call that is right needs it

    near = get_close_matches(word, table, n=1, cutoff=0.7)
    meant = f"did you mean {near[0]}? " if near else ""
    return UsageError(
        f"there is no command {word!a}", hint=f"{meant}azaion-imagebuild --help lists the commands"
    )


def check_first(argv: Sequence[str]) -> None:
    """Look whether the line begins with a command.

    Raises:
        UsageError: it begins with an option of one, or with another word.
    """
    first = argv[0] if argv else "--help"
    if first.startswith("-") and first not in ("-h", "--help", "--version", "--"):
        raise UsageError(
            f"{first.partition('=')[0]} stands before the command",
            hint="options come after it: azaion-imagebuild COMMAND --option",
        )
    if not first.startswith("-") and first not in (table := _commands()):
        raise _no_command(first, table)


def with_verb(argv: Sequence[str]) -> Sequence[str]:
    """Let ``station --name S1`` stand for ``station run --name S1``."""
    flag = argv[1] if argv[:1] == ["station"] and len(argv) > 1 else ""
    runs = flag.startswith("-") and flag not in ("-h", "--help")
    return ["station", "run", *argv[1:]] if runs else argv


def _commands() -> _Commands:
    """Return every command with its line of help and what it takes, or its own commands."""
    return {
        "image": ("build, prove and flash one device's image", _image),
        "base": ("build an image with a placeholder, to be stamped", _base),
        "stamp": ("put a device's identity into a finished image", _stamp),
        "fleet": ("make many devices: a list of serials, to its end", _fleet),
        "submit": ("queue many devices for the stations", _submit),
        "station": (
            "make devices from the common queue: run, status, resolve, reassign",
            {
                "run": ("make devices until Ctrl-C or SIGTERM", _station_run),
                "status": ("stations, lanes, queues, orphans", _station_status),
                "resolve": ("say what became of a device", _station_resolve),
                "reassign": ("give a station's devices to others", _station_reassign),
            },
        ),
        "doctor": ("look whether host, BSP and API are ready", _doctor),
        "provision": ("create the account and write device.conf (runbook, step 4)", _provision),
        "verify": ("check device.conf in a rootfs or an image", _verify),
        "smoke": ("log in at a device's Loader as the device does", _smoke),
        "rotate": ("give a device's account a new password", _rotate),
        "hooks": ("list the steps and the plug-ins that do them", _hooks),
        "ledger": (
            "the record of every attempt: list, show, verify, export, resolve",
            {
                "list": ("one line for each attempt", _ledger_list),
                "show": ("all that is known of one device", _ledger_show),
                "verify": ("look whether a row was changed", _ledger_verify),
                "export": ("every row, as CSV or as a JSON array", _ledger_export),
                "resolve": (
                    "say how an attempt ended, or that a device is retired",
                    _ledger_resolve,
                ),
            },
        ),
        "sandbox": ("show or remove what is built with when nothing is set", _sandbox),
        "completion": ("print what a shell completes this command by", _completion),
    }


def _add(
    parser: argparse.ArgumentParser, table: _Commands, argv: Sequence[str], within: str = ""
) -> None:
    """Add the command that is called, since arguments cost time to add; all when it is none."""
    called = argv[0] if argv and argv[0] in table else None
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (about, takes) in table.items():
        if called not in (None, name):
            continue
        command = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        if isinstance(takes, dict):
            _add(command, takes, argv[1:] if called else (), f"{name} ")
        else:
            command.set_defaults(command=f"{within}{name}", debug=False)
            takes(command)


def _image(image: argparse.ArgumentParser) -> None:
    options.general(image)
    options.serial(image)
    options.site(image)
    options.bsp(image)
    options.owner(image)
    options.fuse(
        image, "run the site's [fuse] command first, once for a serial: it cannot be undone"
    )
    options.database(image)
    options.operator(image)


def _base(base: argparse.ArgumentParser) -> None:
    options.general(base)
    base.add_argument("--out", metavar="FILE", type=Path, help="copy the image to this new file")
    options.site(base)
    options.bsp(base)
    options.owner(base)


def _stamp(stamp: argparse.ArgumentParser) -> None:
    options.general(stamp)
    stamp.add_argument("image", metavar="IMAGE", type=Path, help="raw ext4, Android sparse or tar")
    options.serial(stamp)
    stamp.add_argument(
        "--device-conf",
        metavar="FILE",
        type=Path,
        help="stamp these credentials instead of provisioning new ones",
    )
    stamp.add_argument(
        "--out", metavar="FILE", type=Path, help="stamp a copy, this new file; IMAGE stays as it is"
    )
    stamp.add_argument("--clear", action="store_true", help="take the identity out again")
    stamp.add_argument("--api-url", metavar="URL", help="base URL of the admin API")
    options.owner(stamp)
    options.database(stamp)
    options.operator(stamp)
    options.disable(stamp)


def _fleet(fleet: argparse.ArgumentParser) -> None:
    options.general(fleet)
    fleet.add_argument(
        "serials",
        metavar="SERIALS",
        help="a text file, a CSV with a column serial, a range like AZJN-0001..AZJN-1000, or -"
        " (stdin)",
    )
    fleet.add_argument("--plan", action="store_true", help="only show what would be done")
    fleet.add_argument(
        "--jobs", metavar="N", type=int, default=8, help="devices at a time; default: 8"
    )
    fleet.add_argument(
        "--out", metavar="DIR", type=Path, help="write an image for each device; none is flashed"
    )
    fleet.add_argument(
        "--image", metavar="FILE", type=Path, help="a base that was built before; no BSP is needed"
    )
    fleet.add_argument(
        "--lane",
        metavar="BUS-PORT",
        action="append",
        default=[],
        help="flash at this USB instance, e.g. 1-3; repeatable; default: all in recovery mode",
    )
    fleet.add_argument("--again", action="store_true", help="do devices that are done once more")
    fleet.add_argument("--fail-fast", action="store_true", help="begin no device after a failure")
    fleet.add_argument(
        "--max-failures", metavar="N", type=int, help="begin no device after so many failures"
    )
    fleet.add_argument(
        "--report",
        metavar="DIR",
        type=Path,
        help="folder of report.html, .csv and .json; default: a new one in --state-dir",
    )
    options.site(fleet)
    options.bsp(fleet)
    options.fuse(fleet, "not for a fleet: fuses are burned one device at a time")
    options.owner(fleet)
    options.database(fleet)
    options.operator(fleet)


def _submit(submit: argparse.ArgumentParser) -> None:
    options.general(submit)
    submit.add_argument(
        "serials",
        metavar="SERIALS",
        help="a text file, a CSV with a column serial, a range like AZJN-0001..AZJN-1000, or -",
    )
    submit.add_argument(
        "--station", metavar="NAME", dest="only", help="the only one that may make them"
    )
    submit.add_argument(
        "--again", action="store_true", help="queue devices that are done, or unknown, too"
    )
    submit.add_argument("--sandbox", action="store_true", help="for stations in the sandbox")
    submit.add_argument(
        "--yes",
        action="store_const",
        const=True,
        help="queue serials that were flashed before ([ledger] reprovision = confirm)",
    )
    options.database(submit)


def _station_run(run: argparse.ArgumentParser) -> None:
    options.general(run)
    run.add_argument("--name", metavar="NAME", dest="station", help="of this station, e.g. S1")
    run.add_argument(
        "--lanes", metavar="N", type=int, default=4, help="images at a time; default: 4"
    )
    run.add_argument(
        "--lane",
        metavar="BUS-PORT",
        action="append",
        default=[],
        help="flash at this USB instance, e.g. 1-3; several times; default: all in recovery mode",
    )
    run.add_argument(
        "--out", metavar="DIR", type=Path, help="write an image for each device; none is flashed"
    )
    run.add_argument(
        "--image", metavar="FILE", type=Path, help="a base that was built before; no BSP is needed"
    )
    run.add_argument("--operator", metavar="NAME", help="who works here; default: the user")
    options.site(run)
    options.bsp(run)
    options.owner(run)
    options.database(run)


def _station_status(status: argparse.ArgumentParser) -> None:
    options.general(status)
    options.database(status)


def _station_resolve(resolve: argparse.ArgumentParser) -> None:
    options.general(resolve)
    options.verdict(resolve)
    options.database(resolve)


def _station_reassign(reassign: argparse.ArgumentParser) -> None:
    options.general(reassign)
    reassign.add_argument("name", metavar="NAME", nargs="?", help="of the station")
    reassign.add_argument("--dead", action="store_true", help="of every one that is dead")
    options.database(reassign)


def _doctor(doctor: argparse.ArgumentParser) -> None:
    options.general(doctor)
    doctor.add_argument(
        "--api",
        action="store_true",
        help="hold the admin API against its contract, by requests that it can only refuse",
    )
    options.site(doctor)
    options.bsp(doctor)
    options.owner(doctor)


def _provision(provision: argparse.ArgumentParser) -> None:
    options.general(provision)
    options.serial(provision)
    options.site(provision)
    options.owner(provision)


def _verify(verify: argparse.ArgumentParser) -> None:
    options.general(verify)
    verify.add_argument(
        "target", metavar="TARGET", type=Path, help="rootfs, raw ext4, sparse or tar"
    )
    options.serial(verify)
    options.owner(verify)


def _smoke(smoke: argparse.ArgumentParser) -> None:
    options.general(smoke)
    smoke.add_argument(
        "--loader-url", metavar="URL", help="base URL of the Loader; {serial} is filled in"
    )
    source = smoke.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--rootfs-dir", metavar="DIR", help="take the credentials out of this rootfs"
    )
    source.add_argument(
        "--image", metavar="FILE", type=Path, help="or this image: raw ext4, Android sparse, tar"
    )
    source.add_argument("--device-conf", metavar="FILE", type=Path, help="or this device.conf")
    options.serial(smoke)
    smoke.add_argument(
        "--wait",
        metavar="SECONDS",
        default="0",
        help="time that the device may take to boot; default: 0, it is up",
    )
    smoke.add_argument(
        "--ca-file", metavar="FILE", help="certificate to trust, e.g. the device's own"
    )


def _rotate(rotate: argparse.ArgumentParser) -> None:
    options.general(rotate)
    which = rotate.add_mutually_exclusive_group(required=True)
    which.add_argument("--serial", help="the device's serial, e.g. AZJN-0042")
    which.add_argument(
        "--all-older-than",
        metavar="AGE",
        help="every device of the ledger whose credential is older: 90d, 12h, 4w",
    )
    rotate.add_argument(
        "--rootfs-dir", metavar="DIR", type=options.path, help="write it into this root filesystem"
    )
    rotate.add_argument("--image", metavar="FILE", type=options.path, help="and/or into this image")
    rotate.add_argument(
        "--device-conf", metavar="FILE", type=options.path, help="and/or to this file (0600)"
    )
    rotate.add_argument(
        "--out",
        metavar="DIR",
        type=options.path,
        help="with --all-older-than: folder of SERIAL.conf",
    )
    rotate.add_argument("--plan", action="store_true", help="only show which devices are old")
    rotate.add_argument("--api-url", metavar="URL", help="base URL of the admin API")
    options.owner(rotate)
    options.database(rotate)
    rotate.add_argument("--operator", metavar="NAME", help="who does it; default: the user")
    options.disable(rotate)


def _hooks(hooks: argparse.ArgumentParser) -> None:
    options.general(hooks)
    options.disable(hooks)


def _ledger_list(every: argparse.ArgumentParser) -> None:
    options.general(every)
    every.add_argument("--serial", help="only the attempts of this device")
    options.database(every)


def _ledger_show(show: argparse.ArgumentParser) -> None:
    options.general(show)
    show.add_argument("serial", metavar="SERIAL", help="the device's serial")
    options.database(show)


def _ledger_verify(verify: argparse.ArgumentParser) -> None:
    options.general(verify)
    verify.add_argument(
        "--anchor",
        action="append",
        default=[],
        metavar="ROW:HASH",
        type=options.anchor,
        help="a row as a record, or an earlier verify, showed it; repeatable",
    )
    options.database(verify)


def _ledger_export(export: argparse.ArgumentParser) -> None:
    options.general(export)
    export.add_argument("--csv", action="store_true", help="as CSV, not as JSON")
    export.add_argument("--out", metavar="FILE", type=Path, help="a new file; default: stdout")
    options.database(export)


def _ledger_resolve(resolve: argparse.ArgumentParser) -> None:
    options.general(resolve)
    options.verdict(resolve)
    options.database(resolve)


def _sandbox(sandbox: argparse.ArgumentParser) -> None:
    options.general(sandbox)
    sandbox.add_argument(
        "action",
        nargs="?",
        choices=["show", "accounts", "reset"],
        default="show",
        help="show: where its parts are; accounts: of its admin API; reset: remove it; default:"
        " show",
    )


def _completion(complete: argparse.ArgumentParser) -> None:
    complete.add_argument("shell", choices=completion.SHELLS, help="the shell that will read it")


class _Parser(argparse.ArgumentParser):
    """argparse, whose errors look like ours and whose exit code is ours."""

    called = ""
    """The command that was called; the main parser reports what a command's parser left over."""

    def error(self, message: str) -> Any:
        prog = f"{self.prog} {self.called}".strip()
        raise UsageError(message, hint=f"{prog} --help lists what can be given")
