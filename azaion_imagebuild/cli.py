"""The command line: parse, call, print, exit. Nobody else prints or exits."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TextIO

from . import __version__, completion, manual
from .configuration import load
from .console import Console
from .errors import ExitCode, InterruptedBuild, LedgerError, OperatorError, UsageError
from .identity import parse_serial
from .model import BuildRecord, Receipt
from .process import ENV_PREFIX
from .secret import redacted
from .settings import Settings
from .visible import visible

if TYPE_CHECKING:
    from .fleet.fleet import Order
    from .ledger import Ledger

_PASSWORD = re.compile(r"://[^/@]*:[^@]+@|[?&](ssl)?password=")
"""In a database's URL."""

_FLAGS: dict[str, tuple[str, str]] = {
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
}
"""Flag → the setting that it overrides."""


def run(argv: Sequence[str]) -> int:
    """Do what the command line says and return the exit code."""
    _guard_the_process()
    console = Console(sys.stderr)
    try:
        args = _parser(argv).parse_args(_with_verb(argv))
        console.debug = args.debug
        code = _called(args, console)
    except OperatorError as error:
        console.failed(error)
        if "--json" in argv:
            _print_json({"outcome": "failed", **_failure(error)}, console)
        return int(error.exit_code)
    except KeyboardInterrupt:
        ended = InterruptedBuild("interrupted", hint="run the same command again: it ends well")
        console.failed(ended)
        if "--json" in argv:
            _print_json({"outcome": "interrupted", **_failure(ended)}, console)
        return int(ExitCode.INTERRUPTED)
    except Exception:
        logging.getLogger(__name__).exception("a bug of azaion-imagebuild")
        if "--json" in argv:
            bug = {"outcome": "failed", "error": "a bug", "exit_code": int(ExitCode.BUG)}
            _print_json(bug, console)
        return int(ExitCode.BUG)
    return code


def _called(args: argparse.Namespace, console: Console) -> int:
    """Do the command; a plug-in that exits does not end the process with a code of its own."""
    try:
        code: int = args.command(args, console)
    except SystemExit as error:
        raise RuntimeError(f"a plug-in called sys.exit({error.code!r})") from error
    return code


def _failure(error: OperatorError) -> dict[str, Any]:
    told = {"error": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
    return {**error.facts, **told}


def _guard_the_process() -> None:
    """No core dump with a password in it; a termination unwinds like an interrupt."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _image(args: argparse.Namespace, console: Console) -> int:
    from .builds import build_image

    with _stdout_is_ours():
        record = build_image(args.serial or "", _settings(args), console)
    return _finish(record, args, console)


def _provision(args: argparse.Namespace, console: Console) -> int:
    from .builds import provision

    with _stdout_is_ours():
        record = provision(args.serial or "", _settings(args), console)
    return _finish(record, args, console)


def _base(args: argparse.Namespace, console: Console) -> int:
    from .builds import build_base

    with _stdout_is_ours():
        record = build_base(_settings(args), console, args.out)
    return _finish(record, args, console)


def _stamp(args: argparse.Namespace, console: Console) -> int:
    from . import stamps

    settings, serial = _settings(args), args.serial or ""
    if args.clear and (serial or args.out or args.device_conf):
        raise UsageError("--clear takes the image only", hint="leave the other flags out")
    if not args.clear and args.device_conf is None:
        with _stdout_is_ours():
            built = stamps.stamp(args.image, serial, settings, console, out=args.out)
        return _finish(built, args, console)
    if args.clear:
        record = stamps.clear(args.image, settings)
    else:
        given, out = args.device_conf, args.out
        record = stamps.stamp_given(args.image, serial, settings, given, out=out)
    console.stamped(record)
    if args.json:
        _print_json(record.as_json(), console)
    return int(ExitCode.DONE)


def _fleet(args: argparse.Namespace, console: Console) -> int:
    from .fleet.fleet import plan_fleet, run_fleet

    settings = _settings(args)
    order = _order(args, settings)
    if args.plan:
        plan = plan_fleet(order, settings)
        if args.json:
            _print_json(plan.as_json(), console)
        console.planned(plan)
        return plan.exit_code
    with _stdout_is_ours():
        fleet = run_fleet(order, settings, console, console.fleet(scans=order.scans))
    console.fleet_ended(fleet)
    if args.json:
        _print_json(fleet, console)
    return int(fleet["exit_code"])


def _order(args: argparse.Namespace, settings: Settings) -> Order:
    from .fleet.fleet import Order
    from .serials import STDIN

    if args.jobs < 1:
        raise UsageError("--jobs is less than 1", hint="leave it out for 8")
    out = _folder_of_images(args, settings)
    if out is None and args.image is not None:
        raise UsageError(
            "--image is stamped into copies, not flashed",
            hint="add --out DIR (or FLASH=0); to flash, leave --image out: the BSP's base is used",
        )
    return Order(
        source=args.serials,
        scans=args.serials == STDIN and _is_terminal(sys.stdin) and not args.plan,
        jobs=args.jobs,
        out=out,
        base=args.image.absolute() if args.image else None,
        lanes=tuple(args.lane),
        again=args.again,
        max_failures=1 if args.fail_fast else args.max_failures,
        report=args.report.absolute() if args.report else None,
    )


def _folder_of_images(args: argparse.Namespace, settings: Settings) -> Path | None:
    """Return where the images go; None: devices are flashed."""
    from .fleet.fleet import default_out

    if args.out is None and settings.build.flash:
        return None
    out: Path = args.out or default_out(settings)
    return out.absolute()


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _submit(args: argparse.Namespace, console: Console) -> int:
    from .stations.submission import Order, submit

    order = Order(source=args.serials, station=args.only, sandbox=args.sandbox, again=args.again)
    submission = submit(order, _settings(args))
    console.submitted(submission)
    if args.json:
        _print_json(submission.as_json(), console)
    return int(submission.exit_code)


def _station_run(args: argparse.Namespace, console: Console) -> int:
    from .stations.station import Duty, run_station

    settings = _settings(args)
    if args.lanes < 1:
        raise UsageError("--lanes is less than 1", hint="leave it out for 4")
    duty = Duty(
        lanes=args.lanes,
        out=_folder_of_images(args, settings),
        base=args.image.absolute() if args.image else None,
        ports=tuple(args.lane),
    )
    with _stdout_is_ours():
        told = run_station(duty, settings, console, console.station())
    counts = ", ".join(f"{told[name]} {name.replace('_', ' ')}"
                       for name in ("done", "failed", "unknown", "given_back"))  # fmt: skip
    console.say(f"station {told['station']} has {told['outcome']}: {counts}")
    if args.json:
        _print_json(told, console)
    return int(told["exit_code"])


def _station_status(args: argparse.Namespace, console: Console) -> int:
    from .stations.board import lines_of, look

    with _shared_ledger(args) as ledger:
        board = look(ledger)
    if args.json:
        _print_json(board, console)
        return 0
    for line in lines_of(board):
        _print(line, console)
    return 0


def _station_resolve(args: argparse.Namespace, console: Console) -> int:
    from .stations.resolving import resolve

    serial = parse_serial(args.serial, _settings(args).serial.pattern)
    with _shared_ledger(args) as ledger:
        receipt = resolve(ledger, serial, args.verdict, args.reason, sandbox=args.sandbox)
    return _resolved(serial, receipt, args, console)


def _station_reassign(args: argparse.Namespace, console: Console) -> int:
    from .stations.takeover import reassign

    if (args.name is None) != args.dead:
        raise UsageError("name one station, or say --dead", hint="station status lists them")
    with _shared_ledger(args) as ledger:
        taken, moved = reassign(ledger, args.name)
    for each in taken:
        console.say(f"{each.serial} of {each.station} is {each.outcome}: {each.reason}")
    console.say(f"DONE: {len(taken)} taken away, {len(moved)} that waited are in the common queue")
    if args.json:
        found = {"taken": [dataclasses.asdict(each) for each in taken], "moved": moved}
        _print_json({"outcome": "done", **found}, console)
    return 0


def _shared_ledger(args: argparse.Namespace) -> Ledger:
    from .stations.tables import shared_ledger

    return shared_ledger(_settings(args))


def _doctor(args: argparse.Namespace, console: Console) -> int:
    from .builds import examine

    with _stdout_is_ours():
        findings = examine(_settings(args), api=args.api)
    errors = [finding for finding in findings if finding.severity == "error"]
    if args.json:
        _print_json(
            {
                "outcome": "failed" if errors else "done",
                "findings": [dataclasses.asdict(finding) for finding in findings],
                "exit_code": int(ExitCode.PREFLIGHT if errors else ExitCode.DONE),
            },
            console,
        )
    console.examined(findings)
    return int(ExitCode.PREFLIGHT if errors else ExitCode.DONE)


def _stdout_is_ours() -> contextlib.AbstractContextManager[Any]:
    """Send what a plug-in prints to stderr: stdout is one line of JSON or nothing."""
    return contextlib.redirect_stdout(sys.stderr)


def _finish(record: BuildRecord, args: argparse.Namespace, console: Console) -> int:
    console.summary(record)
    if args.json:
        _print_json(record.as_json(), console)
    return record.exit_code


def _verify(args: argparse.Namespace, console: Console) -> int:
    from .verification import verify

    settings = _settings(args)
    serial = parse_serial(args.serial or "", settings.serial.pattern)
    report = verify(args.target, serial, settings.device_conf)
    if args.json:
        _print_json(report.as_json(), console)
    console.verified(report)
    return int(ExitCode.VERIFICATION if report.findings else ExitCode.DONE)


def _smoke(args: argparse.Namespace, console: Console) -> int:
    from . import credentials
    from .smoke import smoke

    settings = _settings(args)
    if args.device_conf is not None:
        found = credentials.of_device_conf(args.device_conf)
    elif args.image is not None:
        found = credentials.of_image(args.image)
    else:
        found = credentials.of_rootfs(Path(args.rootfs_dir))
    console.started("smoke")
    try:
        report = smoke(found, args.serial, settings)
    finally:
        console.stopped()
    console.tested(report)
    if args.json:
        _print_json(report.as_json(), console)
    return report.exit_code


def _rotate(args: argparse.Namespace, console: Console) -> int:
    from . import rotation
    from .targets import ConfFile, ImageFile, RootfsFolder, Target

    settings = _settings(args)
    places: list[tuple[Callable[..., Target], Path | None]] = [
        (RootfsFolder, args.rootfs_dir), (ImageFile, args.image), (ConfFile, args.device_conf),
    ]  # fmt: skip
    targets = [kind(path=path.absolute()) for kind, path in places if path is not None]
    if args.all_older_than is not None:
        return _rotate_all(args, settings, targets, console)
    if args.plan or args.out is not None:
        raise UsageError("--plan and --out go with --all-older-than", hint="leave them out")
    with _stdout_is_ours():
        record = rotation.rotate(args.serial, targets, settings, console)
    return _finish(record, args, console)


def _rotate_all(
    args: argparse.Namespace, settings: Settings, targets: Sequence[object], console: Console
) -> int:
    from . import rotation

    age = rotation.parse_age(args.all_older_than)
    if targets or (args.out is None and not args.plan):
        raise UsageError(
            "the new files of --all-older-than go into a folder",
            hint="give --out DIR, and no --rootfs-dir, --image or --device-conf",
        )
    if args.plan:
        result = rotation.plan_all(age, settings)
        console.rotation_planned(result)
    else:
        with _stdout_is_ours():
            result = rotation.rotate_all(
                age, args.out.absolute(), settings, console.warned, console.rotated
            )
        console.rotation_ended(result)
    if args.json:
        _print_json(result, console)
    return int(result["exit_code"])


def _hooks(args: argparse.Namespace, console: Console) -> int:
    from .hookspecs import EVERY_STEP
    from .plugins import implementers, load_plugins

    with _stdout_is_ours():
        manager = load_plugins(_settings(args).hooks, required=())
    rows = [
        {"step": step, "plugin": plugin, "file": file}
        for step in EVERY_STEP
        for plugin, file in implementers(manager, step) or [("–", "–")]
    ]
    if args.json:
        _print_json(rows, console)
        return 0
    titles = {"step": "STEP", "plugin": "PLUG-IN", "file": "FILE"}
    widths = [max(len(row[name]) for row in [titles, *rows]) for name in ("step", "plugin")]
    for row in [titles, *rows]:
        _print(f"{row['step']:{widths[0]}}  {row['plugin']:{widths[1]}}  {row['file']}", console)
    return 0


def _ledger_list(args: argparse.Namespace, console: Console) -> int:
    from . import records

    settings = _settings(args)
    serial = parse_serial(args.serial, settings.serial.pattern) if args.serial else None
    with _ledger_to_read(settings) as ledger:
        if args.json:
            _print_json(list(records.attempts(ledger, serial)), console)
            return 0
        for entry in records.attempts(ledger, serial):
            _print(records.line_of(entry), console)
    return 0


def _ledger_show(args: argparse.Namespace, console: Console) -> int:
    from . import records

    settings = _settings(args)
    with _ledger_to_read(settings) as ledger:
        rows = records.history(ledger, parse_serial(args.serial, settings.serial.pattern))
    if args.json:
        _print_json(rows, console)
        return 0
    for row in rows:
        _print(f"row {row['row']}  {records.line_of(row)}", console)
    for name, value in rows[-1].items():
        if value not in (None, {}):
            _print(f"  {name:14} {value}", console)
    return 0


def _ledger_verify(args: argparse.Namespace, console: Console) -> int:
    from .ledger.checking import check

    with _ledger_to_read(_settings(args)) as ledger:
        problems = list(check(ledger, tuple(args.anchor)))
        head = ledger.head()
    if args.json:
        code = ExitCode.LEDGER if problems else ExitCode.DONE
        outcome = "failed" if problems else "done"
        found = {"outcome": outcome, "problems": problems, **head.as_json(), "exit_code": int(code)}
        _print_json(found, console)
    if problems:
        hint = "compare it with a backup (azaion-imagebuild ledger export); find out who wrote it"
        console.failed(LedgerError.of_problems((problem, hint) for problem in problems))
        return int(ExitCode.LEDGER)
    console.say(f"OK: {head.row} rows, all in their place; the last one is {head.row}:{head.hash}")
    return 0


def _ledger_export(args: argparse.Namespace, console: Console) -> int:
    from . import records

    form: Literal["csv", "json"] = "csv" if args.csv else "json"
    with _ledger_to_read(_settings(args)) as ledger:
        if args.out is None:
            with _quiet_pipe(console):
                records.export(ledger, sys.stdout, form)
            return 0
        try:
            with args.out.open("x", encoding="utf-8", newline="") as stream:
                count = records.export(ledger, stream, form)
        except OSError as error:
            raise UsageError(
                f"cannot write {args.out}: {error.strerror}", hint="name a new file by --out"
            ) from None
    console.say(f"DONE: {count} rows in {args.out}")
    return 0


def _ledger_resolve(args: argparse.Namespace, console: Console) -> int:
    from . import records

    settings = _settings(args)
    serial = parse_serial(args.serial, settings.serial.pattern)
    with _the_ledger(settings) as ledger:
        receipt = records.resolve(ledger, serial, args.verdict, args.reason, sandbox=args.sandbox)
    return _resolved(serial, receipt, args, console)


def _resolved(serial: str, receipt: Receipt, args: argparse.Namespace, console: Console) -> int:
    if args.json:
        record = {"serial": serial, "outcome": args.verdict, "ledger": receipt.as_json()}
        _print_json(record, console)
    console.say(f"DONE: {serial} is {args.verdict} (row {receipt.row})")
    return 0


def _ledger_to_read(settings: Settings) -> Ledger:
    from .builds import ledger_to_read

    return ledger_to_read(settings)


def _the_ledger(settings: Settings) -> Ledger:
    from .builds import the_ledger

    return the_ledger(settings)


def _sandbox(args: argparse.Namespace, console: Console) -> int:
    from .builds import the_sandbox
    from .records import retire_sandbox

    settings = _settings(args)
    sandbox = the_sandbox(settings)
    if args.action == "reset":
        sandbox.reset()
        with _the_ledger(settings) as ledger:
            retire_sandbox(ledger)
        console.say(f"removed {sandbox.dir}")
        if args.json:
            _print_json({"removed": str(sandbox.dir)}, console)
        return 0
    sandbox.create(lock_wait=10.0)
    if args.action == "accounts":
        accounts = [
            {"email": a.email, "role": a.role, "created": a.created, "updated": a.updated}
            for a in sandbox.accounts.list()
        ]
        if args.json:
            _print_json(accounts, console)
        for account in [] if args.json else accounts:
            line = "{email}  {role}  created {created}  updated {updated}".format(**account)
            _print(line, console)
    else:
        parts = {"bsp": sandbox.bsp, "device": sandbox.device}
        if args.json:
            _print_json({name: str(path) for name, path in parts.items()}, console)
        for name, path in {} if args.json else parts.items():
            _print(f"{name:8}{path}", console)
    return 0


def _completion(args: argparse.Namespace, console: Console) -> int:
    with _quiet_pipe(console):
        sys.stdout.write(f"{completion.script(_parser(), args.shell)}\n")
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    flags = {
        place: value
        for flag, place in _FLAGS.items()
        if (value := getattr(args, flag, None)) is not None
    }
    if _PASSWORD.search(getattr(args, "database", None) or ""):
        raise UsageError(
            "a password on the command line can be seen by every user of this host",
            hint="write it into ~/.pgpass, or the URL into the configuration ([ledger] database)",
        )
    config = args.config if args.config is not None else os.environ.get(ENV_PREFIX + "CONFIG")
    if config == "":
        raise UsageError("--config (CONFIG=) is empty", hint="name a file, or leave it out")
    return load(flags, os.environ, Path(config) if config else None)


def _print_json(value: object, console: Console) -> None:
    """Print one line; a reader that has gone away changes nothing of what was done."""
    _print(json.dumps(redacted(value)), console)


def _print(line: str, console: Console) -> None:
    with _quiet_pipe(console):
        if sys.stdout is not None:
            encoding = sys.stdout.encoding or "utf-8"
            line = visible(line).encode(encoding, "backslashreplace").decode(encoding)
            print(line, flush=True)


@contextlib.contextmanager
def _quiet_pipe(console: Console) -> Iterator[None]:
    """A reader that has gone away (``| head``) is no bug."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes again
        console.say(f"warning: cannot write to stdout: {error.strerror}")


class _Parser(argparse.ArgumentParser):
    """argparse, whose errors look like ours and whose exit code is ours."""

    called = ""
    """The command that was called; the main parser reports what a command's parser left over."""

    def error(self, message: str) -> Any:
        prog = f"{self.prog} {self.called}".strip()
        raise UsageError(message, hint=f"{prog} --help lists what can be given")


def _with_verb(argv: Sequence[str]) -> Sequence[str]:
    """Let ``station --name S1`` stand for ``station run --name S1``."""
    flag = argv[1] if argv[:1] == ["station"] and len(argv) > 1 else ""
    runs = flag.startswith("-") and flag not in ("-h", "--help")
    return ["station", "run", *argv[1:]] if runs else argv


def _parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="azaion-imagebuild",
        description=manual.ABOUT,
        epilog="azaion-imagebuild COMMAND --help says more of each. Settings come from flags, then"
        " AZAION_IMAGEBUILD_* variables, then imagebuild.toml. Exit codes: 0 done, 2 usage,"
        " 3 preflight, 4 provisioning, 5 staging, 6 image build, 7 flash, 8 verification, 9 ledger,"
        " 10 fleet incomplete, 70 a bug, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.called = next((word for word in argv if not word.startswith("-")), "")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    image = _command(commands, "image", _image, "build, prove and flash one device's image")
    _serial(image)
    _site(image)
    _bsp(image)
    _owner(image)
    _fuse(image, "run the site's [fuse] command first, once for a serial: it cannot be undone")
    _database(image)
    _operator(image)

    base = _command(commands, "base", _base, "build an image with a placeholder, to be stamped")
    base.add_argument("--out", metavar="FILE", type=Path, help="copy the image to this new file")
    _site(base)
    _bsp(base)
    _owner(base)

    stamp = _command(commands, "stamp", _stamp, "put a device's identity into a finished image")
    stamp.add_argument("image", metavar="IMAGE", type=Path, help="raw ext4, Android sparse or tar")
    _serial(stamp)
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
    _owner(stamp)
    _database(stamp)
    _operator(stamp)
    _disable(stamp)

    _fleet_parser(commands)
    _submit_parser(commands)
    _station_parser(commands)

    doctor = _command(commands, "doctor", _doctor, "look whether host, BSP and API are ready")
    doctor.add_argument(
        "--api",
        action="store_true",
        help="hold the admin API against its contract, by requests that it can only refuse",
    )
    _site(doctor)
    _bsp(doctor)
    _owner(doctor)

    provision = _command(
        commands,
        "provision",
        _provision,
        "create the account and write device.conf (runbook, step 4)",
    )
    _serial(provision)
    _site(provision)
    _owner(provision)

    verify = _command(commands, "verify", _verify, "check device.conf in a rootfs or an image")
    verify.add_argument(
        "target", metavar="TARGET", type=Path, help="rootfs, raw ext4, sparse or tar"
    )
    _serial(verify)
    _owner(verify)

    smoke = _command(commands, "smoke", _smoke, "log in at a device's Loader as the device does")
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
    _serial(smoke)
    smoke.add_argument(
        "--wait",
        metavar="SECONDS",
        default="0",
        help="time that the device may take to boot; default: 0, it is up",
    )
    smoke.add_argument(
        "--ca-file", metavar="FILE", help="certificate to trust, e.g. the device's own"
    )

    _rotate_parser(commands)

    hooks = _command(commands, "hooks", _hooks, "list the steps and the plug-ins that do them")
    _disable(hooks)

    _ledger(commands)

    sandbox = _command(
        commands, "sandbox", _sandbox, "show or remove what is built with when nothing is set"
    )
    sandbox.add_argument(
        "action",
        nargs="?",
        choices=["show", "accounts", "reset"],
        default="show",
        help="show: where its parts are; accounts: of its admin API; reset: remove it; default:"
        " show",
    )

    complete = commands.add_parser(
        "completion", help="print what a shell completes this command by", allow_abbrev=False
    )
    complete.set_defaults(command=_completion, debug=False)
    complete.add_argument("shell", choices=completion.SHELLS, help="the shell that will read it")
    manual.describe(parser)
    return parser


def _rotate_parser(commands: Any) -> None:
    rotate = _command(commands, "rotate", _rotate, "give a device's account a new password")
    which = rotate.add_mutually_exclusive_group(required=True)
    which.add_argument("--serial", help="the device's serial, e.g. AZJN-0042")
    which.add_argument(
        "--all-older-than",
        metavar="AGE",
        help="every device of the ledger whose credential is older: 90d, 12h, 4w",
    )
    rotate.add_argument(
        "--rootfs-dir", metavar="DIR", type=_path, help="write it into this root filesystem"
    )
    rotate.add_argument("--image", metavar="FILE", type=_path, help="and/or into this image")
    rotate.add_argument(
        "--device-conf", metavar="FILE", type=_path, help="and/or to this file (0600)"
    )
    rotate.add_argument(
        "--out", metavar="DIR", type=_path, help="with --all-older-than: folder of SERIAL.conf"
    )
    rotate.add_argument("--plan", action="store_true", help="only show which devices are old")
    rotate.add_argument("--api-url", metavar="URL", help="base URL of the admin API")
    _owner(rotate)
    _database(rotate)
    rotate.add_argument("--operator", metavar="NAME", help="who does it; default: the user")
    _disable(rotate)


def _fleet_parser(commands: Any) -> None:
    fleet = _command(commands, "fleet", _fleet, "make many devices: a list of serials, to its end")
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
    _site(fleet)
    _bsp(fleet)
    _fuse(fleet, "not for a fleet: fuses are burned one device at a time")
    _owner(fleet)
    _database(fleet)
    _operator(fleet)


def _submit_parser(commands: Any) -> None:
    submit = _command(commands, "submit", _submit, "queue many devices for the stations")
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
    _database(submit)


def _station_parser(commands: Any) -> None:
    about = "make devices from the common queue: run (the default), status, resolve, reassign"
    station = commands.add_parser("station", help=about, description=about, allow_abbrev=False)
    verbs = station.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(verbs, "run", _station_run, "make devices until Ctrl-C or SIGTERM")
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
    _site(run)
    _bsp(run)
    _owner(run)

    status = _command(verbs, "status", _station_status, "stations, lanes, queues, orphans")

    resolve = _command(verbs, "resolve", _station_resolve, "say what became of a device")
    _verdict(resolve)

    reassign = _command(verbs, "reassign", _station_reassign, "give a station's devices to others")
    reassign.add_argument("name", metavar="NAME", nargs="?", help="of the station")
    reassign.add_argument("--dead", action="store_true", help="of every one that is dead")
    for verb in (run, status, resolve, reassign):
        _database(verb)


def _ledger(commands: Any) -> None:
    about = "the record of every attempt: list, show, verify, export, resolve"
    ledger = commands.add_parser("ledger", help=about, description=about, allow_abbrev=False)
    verbs = ledger.add_subparsers(title="commands", metavar="COMMAND", required=True)

    every = _command(verbs, "list", _ledger_list, "one line for each attempt")
    every.add_argument("--serial", help="only the attempts of this device")

    show = _command(verbs, "show", _ledger_show, "all that is known of one device")
    show.add_argument("serial", metavar="SERIAL", help="the device's serial")

    verify = _command(verbs, "verify", _ledger_verify, "look whether a row was changed")
    verify.add_argument(
        "--anchor",
        action="append",
        default=[],
        metavar="ROW:HASH",
        type=_anchor,
        help="a row as a record, or an earlier verify, showed it; repeatable",
    )

    export = _command(verbs, "export", _ledger_export, "every row, as CSV or as a JSON array")
    export.add_argument("--csv", action="store_true", help="as CSV, not as JSON")
    export.add_argument("--out", metavar="FILE", type=Path, help="a new file; default: stdout")

    resolve = _command(
        verbs, "resolve", _ledger_resolve, "say how an attempt ended, or that a device is retired"
    )
    _verdict(resolve)
    for verb in (every, show, verify, export, resolve):
        _database(verb)


def _verdict(resolve: argparse.ArgumentParser) -> None:
    resolve.add_argument("serial", metavar="SERIAL", help="the device's serial")
    resolve.add_argument(
        "verdict",
        choices=["done", "failed", "retired", "fused", "unfused"],
        help="done: it has its identity; failed: build it again; retired: out of use; fused,"
        " unfused: what its fuses are",
    )
    resolve.add_argument("--reason", required=True, help="why, for whoever asks later")
    resolve.add_argument("--sandbox", action="store_true", help="a device of the sandbox")


def _path(text: str) -> Path:
    if not text:  # Path("") would be the folder that one is in
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


def _anchor(text: str) -> Receipt:

    row, _, seal = text.partition(":")
    if not row.isdigit() or len(seal) != 64:
        raise argparse.ArgumentTypeError(f"{text!a} is not ROW:HASH")
    return Receipt(row=int(row), hash=seal)


def _command(commands: Any, name: str, function: Callable[..., int], help: str) -> Any:
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(command=function)
    general = parser.add_argument_group("general options")
    general.add_argument(
        "--config",
        metavar="FILE",
        help="settings; default: imagebuild.toml of this folder, if it is there",
    )
    general.add_argument(
        "--state-dir",
        metavar="DIR",
        help="folder of logs, ledger and sandbox; default: ~/.local/state/azaion-imagebuild",
    )
    general.add_argument("--json", action="store_true", help="print one line of JSON on stdout")
    general.add_argument("--debug", action="store_true", help="show all that the scripts print")
    return parser


def _serial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--serial", help="the device's serial, e.g. AZJN-0042")


def _site(parser: argparse.ArgumentParser) -> None:
    site = parser.add_argument_group("the site")
    site.add_argument("--api-url", metavar="URL", help="base URL of the admin API")
    site.add_argument(
        "--rootfs-dir",
        metavar="DIR",
        help="root filesystem to stage into; default: rootfs/ of the BSP",
    )
    _disable(site)


def _bsp(parser: argparse.ArgumentParser) -> None:
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


def _fuse(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--fuse", metavar="0|1", nargs="?", const="1", help=about)


def _database(parser: argparse.ArgumentParser) -> None:
    ledger = parser.add_argument_group("the ledger")
    ledger.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:///FILE or postgresql://HOST/NAME; default: a file in --state-dir",
    )


def _operator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--operator", metavar="NAME", help="who builds, for the ledger; default: the user"
    )
    parser.add_argument(
        "--yes",
        action="store_const",
        const=True,
        help="build a serial that was flashed before ([ledger] reprovision = confirm)",
    )


def _owner(parser: argparse.ArgumentParser) -> None:
    conf = parser.add_argument_group("device.conf")
    conf.add_argument(
        "--owner",
        help="account in the rootfs, or a number, that runs the Loader; default: azaion",
    )
    conf.add_argument("--group", help="its group; default: the owner's own")


def _disable(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--disable", action="append", metavar="NAME", help="leave this plug-in out; repeatable"
    )
