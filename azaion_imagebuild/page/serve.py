"""Serving the page until a signal: where it listens, and with which certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn
from msgspec import Struct

from ..errors import UsageError
from ..settings import Settings
from .app import app_of
from .doors import Doors

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE = 1  # seconds for an answer that is being sent at the end


class Place(Struct, frozen=True, kw_only=True):
    """Where the page is served."""

    host: str = "127.0.0.1"
    port: int = 8080
    cert: Path | None = None
    """Its certificate and, below it, the chain (PEM)."""
    key: Path | None = None
    names: tuple[str, ...] = ()
    """Further host names that browsers ask by."""
    insecure: bool = False
    """Other hosts are served without TLS, too."""

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this host can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def serve(place: Place, settings: Settings, say: Callable[[str], None]) -> None:
    """Serve the page until a signal.

    Args:
        place: where.
        settings: of the site: they say where the run's socket is.
        say: prints a line, such as a link, on the terminal.

    Raises:
        UsageError: it cannot be served there.
    """
    _check(place)
    with _listening(place) as listening:
        port = listening.getsockname()[1]
        scheme = "https" if place.cert else "http"
        shown = _shown(place)
        names = {place.host, *place.names, *(["localhost"] if place.is_loopback else [shown])}
        doors = Doors(
            scheme=scheme,
            port=port,
            names=frozenset(name.lower() for name in names),
            takes_addresses=not place.is_loopback,
            say_link=lambda path: say(f"open once: {scheme}://{_bracketed(shown)}:{port}{path}"),
        )
        doors.invite()
        config = uvicorn.Config(
            app_of(settings, doors),
            loop="asyncio",
            http="h11",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE,
            ssl_certfile=place.cert,
            ssl_keyfile=place.key,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(
                f"cannot use the certificate {place.cert}: {error.strerror or error}",
                hint="give a PEM certificate with --cert and its key with --key",
            ) from None
        asyncio.run(_Server(config).serve(sockets=[listening]))


class _Server(uvicorn.Server):
    """Ends at a signal as at any other end: uvicorn would raise it again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def end(number: int, frame: FrameType | None) -> None:
            self.should_exit = True

        handled = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
        before = {number: signal.signal(number, end) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _check(place: Place) -> None:
    if (place.cert is None) != (place.key is None):
        raise UsageError("--cert and --key go together", hint="give both, or neither")
    if not (place.is_loopback or place.cert or place.insecure):
        raise UsageError(
            f"other hosts can reach {place.host}, and would send the page's key in the clear",
            hint="give a certificate (--cert FILE --key FILE); on a network that you trust:"
            " --insecure",
        )


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[socket.socket]:
    try:
        listening = socket.create_server(
            (place.host, place.port),
            family=socket.AF_INET6 if ":" in place.host else socket.AF_INET,
            backlog=512,
        )
    except OSError as error:
        raise UsageError(
            f"cannot listen on {place.host}:{place.port}: {error.strerror or error}",
            hint="end what listens there, or choose another port: --listen 127.0.0.1:8081",
        ) from None
    with listening:
        yield listening


def _shown(place: Place) -> str:
    """Return the host of the link: the first name, or this host's if any address is served."""
    if place.names:
        return place.names[0]
    return os.uname().nodename if place.host in ("0.0.0.0", "::") else place.host  # noqa: S104


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
