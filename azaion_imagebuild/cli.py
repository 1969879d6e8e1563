"""The command line: parse, call, print, exit. Nobody else prints or exits."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from . import __version__
from .configuration import load
from .console import Console
from .errors import ExitCode, OperatorError, UsageError
from .identity import email_for, parse_serial
from .model import Build, BuildRecord
from .process import ENV_PREFIX
from .settings import Settings

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
    "method": ("bsp", "method"),
    "usb_instance": ("bsp", "usb_instance"),
    "keep_image": ("image", "keep"),
    "disable": ("hooks", "disable"),
    "state_dir": ("build", "state_dir"),
}
"""Flag → the setting that it overrides."""


def run(argv: Sequence[str]) -> int:
    """Do what the command line says and return the exit code."""
    _guard_the_process()
    console = Console(sys.stderr)
    args = None
    try:
        args = _parser().parse_args(argv)
        console.debug = args.debug
        code: int = args.command(args, console)
    except OperatorError as error:
        console.failed(error)
        _print_failure(args, error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # the reader of stdout has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.DONE)
    except SystemExit:
        raise
    except Exception:
        logging.getLogger(__name__).exception("a bug of azaion-imagebuild")
        if getattr(args, "json", False):
            _print_json({"outcome": "failed", "error": "a bug", "exit_code": int(ExitCode.BUG)})
        return int(ExitCode.BUG)
    return code


def _guard_the_process() -> None:
    """No core dump with a password in it; a termination unwinds like an interrupt."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _image(args: argparse.Namespace, console: Console) -> int:
    from . import pipeline
    from .plugins import load_plugins

    settings = _settings(args)
    serial = parse_serial(args.serial or "", settings.serial.pattern)
    hook = load_plugins(settings.hooks).hook
    with _sandbox_or_real(settings) as (used, sandbox):
        if used.bsp.dir is None:
            raise UsageError("no BSP given", hint="give the Linux_for_Tegra folder by --bsp (BSP=)")
        rootfs_dir = used.bsp.rootfs_dir or used.bsp.dir / "rootfs"
        build = _build(serial, used, rootfs_dir, bsp_dir=used.bsp.dir, sandbox=sandbox)
        console.began(build)
        return _finish(pipeline.run(build, hook, console), args, console)


def _provision(args: argparse.Namespace, console: Console) -> int:
    from . import pipeline
    from .plugins import load_plugins

    settings = _settings(args)
    serial = parse_serial(args.serial or "", settings.serial.pattern)
    rootfs_dir = settings.bsp.rootfs_dir
    if rootfs_dir is None or settings.admin_api.url is None:
        raise UsageError(
            "provision needs an admin API and a rootfs",
            hint="give --api-url and --rootfs-dir; to try without any: azaion-imagebuild image",
        )
    required = ("prepare", "provision_identity", "pre_flash")
    hook = load_plugins(settings.hooks, required=required).hook
    build = _build(serial, settings, rootfs_dir)
    console.began(build)
    return _finish(pipeline.provision(build, hook, console), args, console)


def _finish(record: BuildRecord, args: argparse.Namespace, console: Console) -> int:
    console.summary(record)
    if args.json:
        _print_json(record.as_json())
    return record.exit_code


def _verify(args: argparse.Namespace, console: Console) -> int:
    from .verification import verify

    settings = _settings(args)
    serial = parse_serial(args.serial or "", settings.serial.pattern)
    report = verify(args.target, serial, settings.device_conf)
    if args.json:
        _print_json(report.as_json())
    console.verified(report)
    return int(ExitCode.VERIFICATION if report.findings else ExitCode.DONE)


def _hooks(args: argparse.Namespace, console: Console) -> int:
    from .hookspecs import EVERY_STEP
    from .plugins import implementers, load_plugins

    manager = load_plugins(_settings(args).hooks, required=())
    rows = [
        {"step": step, "plugin": plugin, "file": file}
        for step in EVERY_STEP
        for plugin, file in implementers(manager, step) or [("–", "–")]
    ]
    if args.json:
        _print_json(rows)
        return 0
    titles = {"step": "STEP", "plugin": "PLUG-IN", "file": "FILE"}
    widths = [max(len(row[name]) for row in [titles, *rows]) for name in ("step", "plugin")]
    for row in [titles, *rows]:
        print(f"{row['step']:{widths[0]}}  {row['plugin']:{widths[1]}}  {row['file']}")
    return 0


def _sandbox(args: argparse.Namespace, console: Console) -> int:
    sandbox = _the_sandbox(_settings(args))
    if args.action == "reset":
        sandbox.reset()
        console.say(f"removed {sandbox.dir}")
        return 0
    sandbox.create(lock_wait=10.0)
    if args.action == "accounts":
        accounts = [
            {"email": a.email, "role": a.role, "created": a.created, "updated": a.updated}
            for a in sandbox.accounts.list()
        ]
        if args.json:
            _print_json(accounts)
        for account in [] if args.json else accounts:
            print("{email}  {role}  created {created}  updated {updated}".format(**account))
    else:
        parts = {"bsp": sandbox.bsp, "device": sandbox.device}
        if args.json:
            _print_json({name: str(path) for name, path in parts.items()})
        for name, path in {} if args.json else parts.items():
            print(f"{name:8}{path}")
    return 0


@contextmanager
def _sandbox_or_real(settings: Settings) -> Iterator[tuple[Settings, bool]]:
    """Yield the settings to build with; the sandbox only when neither a BSP nor an API is set.

    Raises:
        UsageError: one is set without the other: a production build never falls into the sandbox.
    """
    given = {
        "BSP (--bsp)": settings.bsp.dir,
        "API_URL (--api-url)": settings.admin_api.url,
        "ROOTFS_DIR (--rootfs-dir)": settings.bsp.rootfs_dir,
    }
    if settings.bsp.dir is not None and settings.admin_api.url is not None:
        yield settings, False
    elif any(value is not None for value in given.values()):
        there = " and ".join(name for name, value in given.items() if value is not None)
        missing = " and ".join(name for name, value in list(given.items())[:2] if value is None)
        raise UsageError(
            f"{there} is set, but not {missing}",
            hint="a real build needs both; with none of them the build runs in the sandbox",
        )
    else:
        with _the_sandbox(settings).running(settings) as used:
            yield used, True


def _the_sandbox(settings: Settings) -> Any:
    from .sandbox import Sandbox

    return Sandbox(_state_dir(settings) / "sandbox")


def _build(
    serial: str,
    settings: Settings,
    rootfs_dir: Path,
    *,
    bsp_dir: Path | None = None,
    sandbox: bool = False,
) -> Build:
    attempt = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
    log_dir = _state_dir(settings) / "logs" / serial / attempt
    if bsp_dir is not None:  # only a build has a log
        try:
            log_dir.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise UsageError(
                f"cannot make the log folder {log_dir}: {error.strerror}",
                hint=f"set {ENV_PREFIX}STATE_DIR to a folder of your own",
            ) from None
    return Build(
        serial=serial,
        email=email_for(serial),
        attempt=attempt,
        settings=settings,
        rootfs_dir=rootfs_dir,
        bsp_dir=bsp_dir,
        log_dir=log_dir,
        sandbox=sandbox,
        flash=settings.build.flash,
    )


def _state_dir(settings: Settings) -> Path:
    if settings.build.state_dir is not None:
        return settings.build.state_dir
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return Path(home).expanduser() / "azaion-imagebuild"
    except RuntimeError:
        raise UsageError(
            "this user has no home folder", hint=f"set {ENV_PREFIX}STATE_DIR"
        ) from None


def _settings(args: argparse.Namespace) -> Settings:
    flags = {
        place: value
        for flag, place in _FLAGS.items()
        if (value := getattr(args, flag, None)) is not None
    }
    config = args.config or os.environ.get(ENV_PREFIX + "CONFIG") or None
    return load(flags, os.environ, Path(config) if config else None)


def _print_json(value: object) -> None:
    print(json.dumps(value), flush=True)


def _print_failure(args: argparse.Namespace | None, error: OperatorError) -> None:
    if getattr(args, "json", False):
        failure: dict[str, Any] = {
            "serial": getattr(args, "serial", None),
            "outcome": "failed",
            "error": error.message,
            "hint": error.hint,
            "exit_code": int(error.exit_code),
        }
        _print_json(failure)


class _Parser(argparse.ArgumentParser):
    """argparse, whose errors look like ours and whose exit code is ours."""

    def error(self, message: str) -> Any:
        raise UsageError(message, hint=f"{self.prog} --help lists what can be given")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="azaion-imagebuild",
        description="Give one Jetson its identity: account, device.conf, image, proof, flash.",
        epilog="Settings come from flags, then AZAION_IMAGEBUILD_* variables, then imagebuild.toml."
        " Exit codes: 0 done, 2 usage, 3 preflight, 4 provisioning, 5 staging, 6 image build,"
        " 7 flash, 8 verification, 70 a bug, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    image = _command(commands, "image", _image, "build, prove and flash one device's image")
    _serial(image)
    _site(image)
    image.add_argument("--bsp", metavar="DIR", help="the Linux_for_Tegra folder")
    image.add_argument("--board", help="board, as flash.sh takes it")
    image.add_argument("--rootdev", help="root device, as flash.sh takes it")
    image.add_argument("--size", help="size of the APP partition, e.g. 14GiB")
    image.add_argument(
        "--method", choices=["flash", "initrd"], help="NVIDIA's script; default: flash"
    )
    image.add_argument("--usb-instance", metavar="BUS-PORT", help="the device to flash, e.g. 1-3")
    image.add_argument(
        "--keep-image",
        action="store_const",
        const=True,
        help="keep the image (0600) after flashing it",
    )
    image.add_argument("--flash", metavar="0|1", help="0: build and prove, but do not flash")
    _owner(image)

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
    verify.add_argument("target", metavar="TARGET", type=Path, help="a rootfs folder or an image")
    _serial(verify)
    _owner(verify)

    hooks = _command(commands, "hooks", _hooks, "list the steps and the plug-ins that do them")
    _disable(hooks)

    sandbox = _command(commands, "sandbox", _sandbox, "show or reset the embedded parts")
    sandbox.add_argument(
        "action",
        nargs="?",
        choices=["show", "accounts", "reset"],
        default="show",
        help="default: show",
    )
    return parser


def _command(commands: Any, name: str, function: Callable[..., int], help: str) -> Any:
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(command=function)
    parser.add_argument("--config", metavar="FILE", help="default: imagebuild.toml, if it is there")
    parser.add_argument("--state-dir", metavar="DIR", help="folder of logs and of the sandbox")
    parser.add_argument("--json", action="store_true", help="print one line of JSON on stdout")
    parser.add_argument("--debug", action="store_true", help="show what the scripts print")
    return parser


def _serial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--serial", help="the device's serial, e.g. AZJN-0042")


def _site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api-url", metavar="URL", help="base URL of the admin API")
    parser.add_argument("--rootfs-dir", metavar="DIR", help="root filesystem to stage into")
    _disable(parser)


def _owner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--owner", help="account in the rootfs, or a number, that runs the Loader")
    parser.add_argument("--group", help="group of device.conf; default: the owner's own")


def _disable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--disable", action="append", metavar="NAME", help="leave a plug-in out")
