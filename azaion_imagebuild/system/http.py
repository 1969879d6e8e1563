"""JSON over HTTP with this project's rules: bounded, retried, never redirected.

Only this module uses requests, and imports it late: it takes longer than the rest of a command.
"""

from __future__ import annotations

import codecs
import contextlib
import http.client
import json
import socket
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import Struct, field

from ..secret import Secret, shown
from . import tls
from .proxy import Proxy, proxies_of, proxy_of
from .signals import check_interrupt
from .unreachable import TLS_KINDS, Unreachable, is_hopeless, unreachable
from .url import address

if TYPE_CHECKING:
    import requests
    from typing_extensions import Self
    from urllib3.response import BaseHTTPResponse
    from urllib3.util.retry import Retry

_LONGEST_BODY = 64 * 1024
_LONGEST_EXCERPT = 200
_LONGEST_WAIT = 30  # seconds; a Retry-After of a day must not stop a factory line silently
_RETRIED = (429, 502, 503, 504)


class Reply(Struct, frozen=True, kw_only=True):
    """A response: its status, its redirect, and its body up to 64 KiB."""

    status: int
    location: str | None
    body: bytes
    proxy: Proxy | None = None
    """The proxy that may have answered instead of the server."""

    def __repr__(self) -> str:
        """Return the status alone: the rest may hold a secret."""
        return f"Reply(status={self.status})"

    def excerpt(self) -> str:
        """Return the body for an error message: shortened, on one line, redacted."""
        # Without NULs, an answer in UTF-16 does not show a secret letter by letter.
        text = shown(self.body.replace(b"\0", b"").decode("utf-8", "replace"))
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if not text:
            return "(empty answer)"
        return text if len(text) <= _LONGEST_EXCERPT else f"{text[:_LONGEST_EXCERPT]}…"

    def json(self) -> Any:
        """Return the body as JSON; None: it is not JSON, was cut, or is nested too deeply."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def is_web_page(self) -> bool:
        """Tell whether it is an HTML page (a login, a guest network): no API sends one."""
        return self.body.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<"


class Transport(Struct, frozen=True, kw_only=True):
    """How to speak to one server."""

    headers: Mapping[str, str] = field(default_factory=dict)
    token: Secret | None = None
    token_header: str = "Authorization"  # noqa: S105 - a name
    token_scheme: str = "Bearer"  # noqa: S105 - a word
    client_cert: Path | None = None
    client_key: Path | None = None
    ca_file: Path | None = None
    certificate_name: str | None = None
    """The name that the server's certificate must carry; None: the host of its URL."""
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    retries: int = 0


class JsonClient:
    """Sends JSON to the paths of one base URL; a context manager that closes its connections."""

    def __init__(self, base_url: str, transport: Transport) -> None:
        self.base_url = base_url.removesuffix("/")
        self._transport = transport
        self._session: requests.Session | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._session is not None:
            self._session.close()

    def send(self, method: str, path: str, body: Any = None) -> Reply:
        """Send a request and return the response, whatever its status.

        Connection errors and the statuses 429, 502, 503 and 504 are retried with backoff and
        jitter. A redirect is returned, never followed: that would send the body elsewhere.

        Raises:
            Unreachable: no response arrived.
        """
        import requests
        import urllib3

        try:
            self._session = self._session or _session(self.base_url, self._transport)
            retry = _retry(self._transport.retries)
            while True:
                reply, response = self._send_once(method, path, body)
                if reply.status not in _RETRIED or retry.total == 0:
                    return reply
                retry = retry.increment(method, path, response=response)
                retry.sleep(response)
        except (
            *(requests.RequestException, urllib3.exceptions.HTTPError),
            *(http.client.HTTPException, OSError, ValueError, OverflowError),
        ) as error:  # a ValueError is a host that IDNA refuses, a header or chunk that is not HTTP
            raise self._unreachable(error) from None

    def shake_hands(self) -> None:
        """Connect, with the TLS handshake for https; send no request.

        A proxy is not asked: only a request shows whether it lets requests through.

        Raises:
            Unreachable: there is no connection, or a side rejected the other's certificate.
        """
        if proxy_of(self.base_url):
            return
        try:
            self._shake_hands()
        except (OSError, ValueError) as error:
            raise unreachable(error) from None

    def _shake_hands(self) -> None:
        transport = self._transport
        host, port = address(self.base_url)
        if urlsplit(self.base_url).scheme == "http":
            socket.create_connection((host, port), transport.connect_timeout).close()
            return
        tls.shake_hands(
            (host, port),
            transport.connect_timeout,
            ca_file=_ca_file(transport),
            name=transport.certificate_name or host,
            client_cert=transport.client_cert,
            client_key=transport.client_key,
        )

    def _unreachable(self, error: BaseException) -> Unreachable:
        """Return why; a broken connection may have hidden what TLS says about certificates."""
        found = unreachable(error, proxy_of(self.base_url))
        if found.kind == "other" and self.base_url.startswith("https:"):
            try:
                self.shake_hands()
            except Unreachable as other:
                return other if other.kind in TLS_KINDS else found
        return found

    def _send_once(self, method: str, path: str, body: Any) -> tuple[Reply, BaseHTTPResponse]:
        """Send a request and read the response: up to 64 KiB, within one read timeout."""
        assert self._session is not None  # noqa: S101 - send() has made it
        transport = self._transport
        with self._session.request(
            method,
            self.base_url + path,
            json=body,
            timeout=(transport.connect_timeout, transport.read_timeout),
            allow_redirects=False,
            stream=True,
        ) as response:
            deadline = time.monotonic() + transport.read_timeout
            content = b""
            while len(content) < _LONGEST_BODY and (part := response.raw.read1(_LONGEST_BODY)):
                content += part
                if time.monotonic() > deadline:
                    raise TimeoutError("timed out")
            reply = Reply(
                status=response.status_code,
                location=response.headers.get("Location"),
                body=_unpacked(content, response.headers.get("Content-Encoding", "")),
                proxy=self._proxy_that_answers(),
            )
            return reply, response.raw

    def _proxy_that_answers(self) -> Proxy | None:
        """Of https it passes on what it cannot read."""
        return proxy_of(self.base_url) if self.base_url.startswith("http:") else None


def _unpacked(content: bytes, encoding: str) -> bytes:
    """Return up to 64 KiB of a body, which some servers and proxies compress unasked."""
    if encoding.lower() in ("gzip", "x-gzip", "deflate"):
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, _LONGEST_BODY)
    return content[:_LONGEST_BODY]


def _session(base_url: str, transport: Transport) -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            """Follow no redirect: requests reads its address even if told not to."""

    session = Session()
    # Only for broken connections: urllib3 would read a response with a Retry-After to its
    # end, and multiply the tries of send().
    broken = _retry(transport.retries).new(respect_retry_after_header=False)
    adapter = HTTPAdapter(max_retries=broken)
    if transport.certificate_name:
        adapter.init_poolmanager(1, 1, server_hostname=transport.certificate_name)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    # .netrc would add credentials; proxies and the CA file are chosen here instead.
    session.trust_env = False
    session.proxies = proxies_of(base_url)
    session.verify = _ca_file(transport)
    if transport.client_cert:
        pair = (str(transport.client_cert), str(transport.client_key or transport.client_cert))
        session.cert = pair
    session.headers.update(transport.headers)
    session.headers["Accept"] = "application/json"
    session.headers["Accept-Encoding"] = "identity"
    if transport.token:
        words = (transport.token_scheme, transport.token.reveal())
        session.headers[transport.token_header] = " ".join(word for word in words if word)
    return session


def _ca_file(transport: Transport) -> str:
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    return str(transport.ca_file or tls.host_certificates() or DEFAULT_CA_BUNDLE_PATH)


def _retry(times: int) -> Retry:
    from urllib3.exceptions import InvalidHeader
    from urllib3.util.retry import Retry

    class Interruptible(Retry):
        def increment(self, *args: Any, **kwargs: Any) -> Self:
            check_interrupt()  # a server that never answers must not block a fleet for all retries
            error = kwargs.get("error")
            if error is not None and is_hopeless(error):
                raise error
            return super().increment(*args, **kwargs)

        def parse_retry_after(self, retry_after: str) -> float:
            try:
                return super().parse_retry_after(retry_after)
            except (InvalidHeader, ValueError, OverflowError):
                return 0.0  # the usual backoff

    return Interruptible(
        total=times,
        allowed_methods=None,  # the 409 branch repairs a lost reply to a POST
        backoff_factor=0.25,
        backoff_jitter=0.25,
        backoff_max=_LONGEST_WAIT,
        retry_after_max=_LONGEST_WAIT,
        respect_retry_after_header=True,
        redirect=0,
        raise_on_status=False,
        raise_on_redirect=False,
    )
