"""An admin API that can be told to fail: a real HTTP server over the sandbox's accounts."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol
from urllib.parse import parse_qs

from msgspec import Struct, structs

from ..sandbox.admin_api import Accounts, routes
from ..sandbox.server import JsonHandler, Server

if TYPE_CHECKING:
    from typing_extensions import Self

Answer = tuple[int, Any]
"""An HTTP status, and the value that is sent as JSON."""

_SHORTEST_PASSWORD = 6  # a shorter text may be anywhere by chance
_DRIP = 0.05  # seconds between two bytes of an answer that drips


class AccountBook(Protocol):
    """What the kit asks about the accounts of a plug-in's devices."""

    def login(self, email: str, password: str) -> bool:
        """Tell whether the password opens the account."""
        ...

    def list(self) -> Sequence[object]:
        """Return every account."""
        ...


class Request(Struct, frozen=True, kw_only=True):
    """A received request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None: it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Fault(Struct, frozen=True, kw_only=True):
    """A way in which an answer can be wrong."""

    name: str
    status: int | None = None
    """None: the right status."""
    body: bytes = b'{"error": "told to fail"}'
    content_type: str = "application/json"
    carries_out: bool = False
    """The request is carried out nevertheless."""
    echoes: bool = False
    """The body is the request's own, with the password in it."""
    manner: Literal["answers", "hangs up", "stays silent", "drips", "breaks off"] = "answers"
    delay: float = 0.0
    """Seconds before the answer."""

    def __str__(self) -> str:
        return self.name


def refuses(status: int) -> Fault:
    """Return the fault of an API that answers with a status of 4xx or 5xx."""
    return Fault(name=f"HTTP {status}", status=status)


def redirects(status: int) -> Fault:
    """Return the fault of an API that points elsewhere, where everything is answered with 200."""
    return Fault(name=f"redirect {status}", status=status, body=b"")


LOST_REPLY = Fault(name="lost reply", carries_out=True, manner="hangs up")
"""The request is carried out, but not answered."""
BROKEN = Fault(name="broken connection", manner="hangs up")
NO_JSON = Fault(name="invalid JSON", body=b'{"email": "azaion-', carries_out=True)
CUT_OFF = Fault(name="cut off answer", carries_out=True, manner="breaks off")
WEB_PAGE = Fault(
    name="web page",
    status=200,
    body=b"<!doctype html><title>Guest network</title><h1>Please log in</h1>",
    content_type="text/html",
)
"""A login page of a proxy or a guest network, with status 200."""
SLOW = Fault(name="slow answer", carries_out=True, delay=0.4)
SILENT = Fault(name="no answer", manner="stays silent")
SILENT_AFTERWARDS = Fault(name="no answer afterwards", carries_out=True, manner="stays silent")
DRIPPING = Fault(name="dripping answer", status=200, manner="drips")
"""A byte now and then: a time limit for each read alone would never end it."""
ECHO = Fault(name="echo of the request", status=500, echoes=True)


class FallibleAdminApi:
    """Serves the runbook's contract, or another one, while its context lasts; fails when told to.

    It remembers its requests, and checks during each that its password is in no process's command
    line or environment.
    """

    def __init__(
        self,
        accounts: Accounts,
        answer: Callable[[Request], Answer] | None = None,
        *,
        password_field: str = "password",  # noqa: S107 - a name
    ) -> None:
        """``answer`` speaks another contract than the runbook's.

        ``password_field`` is the name of the field, in JSON at any depth or in a form, that holds
        the password.
        """
        self.requests: list[Request] = []
        """Every request, in order."""
        self.elsewhere: list[Request] = []
        """Requests that arrived at the target of a redirect."""
        self.passwords: list[str] = []
        """Every password that it received, whatever it answered."""
        self.seen_in_processes: list[str] = []
        """Places where every user of the host could see a password."""
        self._contract = answer
        self._password_field = password_field
        self._plan = _Plan()
        self._running = ExitStack()
        self._released = threading.Event()
        self._lock = threading.Lock()
        # http.server wants classes.
        failing = type("Failing", (_Fallible,), {"served": self})
        self._server = Server(routes(accounts), handler=failing)
        self.url = self._server.url
        """Its base URL."""

    def __enter__(self) -> Self:
        self._running.enter_context(self._server)
        return self

    def __exit__(self, *error: object) -> None:
        self.goes_away()

    def fails(
        self,
        fault: Fault,
        *,
        after: int = 0,
        times: int | None = None,
        with_password: bool = False,
    ) -> None:
        """Answer ``after`` more requests correctly, then ``times`` wrongly.

        Without ``times`` it fails until :meth:`recovers` is called. ``with_password``: only
        requests that carry a password count, and fail.
        """
        with self._lock:
            self._plan = _Plan(fault=fault, after=after, times=times, with_password=with_password)

    def recovers(self) -> None:
        """Answer correctly from now on; close connections that wait for an answer."""
        with self._lock:
            self._plan = _Plan()
            self._released.set()
            self._released = threading.Event()

    def goes_away(self) -> None:
        """Close the port: from now on every connection is refused."""
        self._released.set()
        self._running.close()

    @cached_property
    def _elsewhere(self) -> str:
        """The URL of a server that a redirect points to."""
        handler = type("Elsewhere", (_Elsewhere,), {"found": self.elsewhere})
        return self._running.enter_context(Server({}, handler=handler)).url

    def _noted(self, request: Request) -> tuple[Fault | None, threading.Event]:
        """Remember a request; return its fault, and an event that ends the waiting."""
        with self._lock:
            self.requests.append(request)
            passwords = list(_passwords(request, self._password_field))
            for password in passwords:
                self.passwords.append(password)
                self.seen_in_processes += _processes_with(password)
            return self._plan.next(has_password=bool(passwords)), self._released


@dataclass(slots=True)
class _Plan:
    """The next requests to answer wrongly."""

    fault: Fault | None = None
    after: int = 0
    times: int | None = None
    with_password: bool = False

    def next(self, *, has_password: bool) -> Fault | None:
        if self.fault is None or self.times == 0 or (self.with_password and not has_password):
            return None
        if self.after:
            self.after -= 1
            return None
        if self.times is not None:
            self.times -= 1
        return self.fault


class _Fallible(JsonHandler):
    """Answers correctly, or with the chosen fault."""

    served: ClassVar[FallibleAdminApi]

    def respond(self, data: bytes) -> None:
        request = _request(self, data)
        fault, released = self.served._noted(request)
        if fault is None:
            self.send(*self._right(request))
            return
        status, body = self._right(request) if fault.carries_out else (500, {})
        if fault.delay:
            released.wait(fault.delay)
            self.send(status, body)
            return
        wrong = structs.replace(fault, status=fault.status or status)
        with contextlib.suppress(OSError):
            self._fail(wrong, request, released)

    def _right(self, request: Request) -> Answer:
        contract = self.served._contract
        return contract(request) if contract else self.answer(request.body)

    def _fail(self, fault: Fault, request: Request, released: threading.Event) -> None:
        status = fault.status or 500
        self.close_connection = True
        if fault.manner == "answers":
            headers = {"Content-Type": fault.content_type}
            if 300 <= status < 400:
                headers["Location"] = self.served._elsewhere + request.path
            self.send(status, request.body if fault.echoes else fault.body, headers)
        elif fault.manner == "stays silent":
            released.wait()
        elif fault.manner in ("drips", "breaks off"):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "100000")
            self.end_headers()
            while fault.manner == "drips" and not released.wait(_DRIP):
                self.wfile.write(b" ")
                self.wfile.flush()


class _Elsewhere(JsonHandler):
    """Answers everything with 200, for clients that follow a redirect."""

    found: ClassVar[list[Request]]

    def respond(self, data: bytes) -> None:
        self.found.append(_request(self, data))
        self.send(200, {})


def _request(handler: JsonHandler, data: bytes) -> Request:
    return Request(
        method=handler.command, path=handler.path, headers=dict(handler.headers), body=data
    )


def _passwords(request: Request, name: str) -> Iterator[str]:
    """Yield the values of the fields with this name, in JSON or in a form."""
    queue = [request.json]
    while queue:
        part = queue.pop()
        if isinstance(part, list):
            queue += part
        elif isinstance(part, dict):
            queue += part.values()
            if isinstance(part.get(name), str):
                yield part[name]
    if request.json is None:
        yield from parse_qs(request.body.decode("utf-8", "replace")).get(name, [])


def _processes_with(password: str) -> list[str]:
    """Return the processes with the password in their command line or environment."""
    if len(password) < _SHORTEST_PASSWORD:
        return []
    needle, found = password.encode(), []
    if any(password in value for value in os.environ.values()):
        found.append("the environment of this process")
    for process in Path("/proc").glob("[0-9]*"):
        for part in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if needle in (process / part).read_bytes():
                    found.append(f"/proc/{process.name}/{part}")
    return found
