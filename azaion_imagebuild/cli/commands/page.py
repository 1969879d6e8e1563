"""page: show a running fleet or station in a browser, and scan labels into it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...errors import UsageError, install_hint
from .. import options, stdout
from ..options import settings_of
from ..parser import Command

if TYPE_CHECKING:
    from ..console import Console


def add_flags(page: argparse.ArgumentParser) -> None:
    options.general(page)
    page.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default="127.0.0.1:8080",
        help="address to serve the page at; default: 127.0.0.1:8080",
    )
    page.add_argument(
        "--cert", metavar="FILE", type=options.path, help="serve HTTPS with this certificate (PEM)"
    )
    page.add_argument("--key", metavar="FILE", type=options.path, help="the certificate's key")
    page.add_argument(
        "--host-name",
        metavar="NAME",
        action="append",
        default=[],
        help="another name that browsers use for this host; repeatable",
    )
    page.add_argument(
        "--insecure", action="store_true", help="also serve other hosts without HTTPS"
    )
    page.add_argument(
        "--socket", metavar="FILE", help="the run's socket; default: page/page.sock in --state-dir"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    settings = settings_of(args, console)
    host, port = _address(args.listen)
    try:
        from ...page.serve import Place, serve
    except ImportError as error:
        raise UsageError(
            f"the page needs {error.name}, which is not installed", hint=install_hint("page")
        ) from None
    place = Place(
        host=host,
        port=port,
        cert=args.cert,
        key=args.key,
        names=tuple(args.host_name),
        insecure=args.insecure,
    )
    serve(
        place, settings, console.say if args.json else lambda line: stdout.print_line(line, console)
    )
    if args.json:
        stdout.print_json({"outcome": "done", "exit_code": 0}, console)
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(
            f"invalid address {text!a}", hint="give HOST:PORT, e.g. --listen 127.0.0.1:8080"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


COMMAND = Command(
    name="page",
    summary="show a running fleet or station in a browser",
    usage="[--listen HOST:PORT] [options]",
    about="Serves one web page that shows a running fleet - or station run, and takes scanned"
    " labels for it. Run it as an ordinary user: it needs no token and no root. It prints a link"
    " that works once. Ctrl-C ends the page; the run goes on.",
    examples=(
        "page",
        "page --listen 0.0.0.0:8443 --cert page.pem --key page.key",
    ),
    add_flags=add_flags,
    run=run,
)
