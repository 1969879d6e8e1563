"""JSON over HTTP with this project's rules: bounded, retried, never redirected.

The only use of requests, which is imported late: it costs more than the rest of a command.
"""

from __future__ import annotations

import codecs
import contextlib
import ipaddress
import json
import os
import ssl
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import Struct, field

from ..errors import UsageError
from ..secret import Secret, redact
from .signals import check_interrupt

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
    """An answer: its status, where it points to, and its body up to 64 KiB."""

    status: int
    location: str | None
    body: bytes

    def __repr__(self) -> str:
        """Return all but the body, which may hold a secret."""
        return f"Reply(status={self.status}, location={self.location!r})"

    def excerpt(self) -> str:
        """Return the body for an error message: cut, on one line, secrets blanked out."""
        # Without NULs, an answer in UTF-16 does not show a secret letter by letter.
        text = redact(self.body.replace(b"\0", b"").decode("utf-8", "replace"))
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if not text:
            return "(empty answer)"
        return text if len(text) <= _LONGEST_EXCERPT else f"{text[:_LONGEST_EXCERPT]}…"

    def json(self) -> Any:
        """Return the body as JSON; None: it is none, was cut, or is nested too deeply."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def is_web_page(self) -> bool:
        """Tell whether a page came, as of a login or a guest network: no API says so."""
        return self.body.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<"


class Unreachable(Exception):
    """No answer came; ``kind`` is one of ``name refused route timeout silent tls other``.

    ``timeout``: no connection; ``silent``: a connection, but no answer.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


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
        """Send one request and return the answer, whatever its status.

        A connection error and the statuses 429, 502, 503 and 504 are tried again with backoff and
        jitter; a redirect is returned, never followed (it would carry the body away).

        Raises:
            Unreachable: no answer came.
        """
        import requests
        import urllib3

        self._session = self._session or _session(self.base_url, self._transport)
        retry = _retry(self._transport.retries)
        while True:
            try:
                reply, response = self._send_once(method, path, body)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise _unreachable(error) from None
            if reply.status not in _RETRIED or retry.total == 0:
                return reply
            retry = retry.increment(method, path, response=response)
            retry.sleep(response)

    def _send_once(self, method: str, path: str, body: Any) -> tuple[Reply, BaseHTTPResponse]:
        """Send and read one answer, up to 64 KiB and for one read timeout; then hang up."""
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
            )
            return reply, response.raw


def _unpacked(content: bytes, encoding: str) -> bytes:
    """Return up to 64 KiB of a body; some servers and proxies compress it unasked."""
    if encoding.lower() in ("gzip", "x-gzip", "deflate"):
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, _LONGEST_BODY)
    return content[:_LONGEST_BODY]


def checked_url(url: str, what: str) -> str:
    """Return ``url`` if it is an http or https URL of a server, without credentials.

    Raises:
        UsageError: it is not; ``what`` names the setting.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and not (parts.query or parts.fragment) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or any(char.isspace() or not char.isprintable() for char in url):
        raise UsageError(
            f"{what} {url.rpartition('@')[2].partition('?')[0]!a} is not an http or https URL",
            hint="give it like https://admin.internal.example.com, with a port up to"
            " 65535, without ? or #",
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{what} holds a user name or password",
            hint="put the token into a file and name it by [admin_api] token_file; a collector's"
            " (of traces) belongs into OTEL_EXPORTER_OTLP_HEADERS",
        )
    return url


def checked_certificates(path: Path, what: str) -> Path:
    """Return ``path`` if it holds certificates (PEM) to trust.

    Raises:
        UsageError: it does not, or cannot be read; ``what`` names the setting.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"cannot use {path}: {reason}", hint=f"check {what}: a PEM file of certificates"
        ) from None
    return path


def where(url: str) -> str:
    """Return scheme and host of a URL: the rest of what a server sends may hold a secret."""
    try:
        parts = urlsplit(url)
        shown = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        return "nowhere"
    return ascii(redact(shown))[1:-1][:_LONGEST_EXCERPT] if parts.hostname else "the same server"


def is_loopback(url: str) -> bool:
    """Tell whether ``url`` leads to this very host."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(url: str) -> tuple[str, int]:
    """Return (host, port) of ``url``, which :func:`checked_url` has accepted."""
    parts = urlsplit(url)
    return str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)


def uses_proxy(url: str) -> bool:
    """Tell whether the environment names a proxy for ``url``."""
    return not is_loopback(url) and bool(_proxies(url))


def _proxies(url: str) -> dict[str, str]:
    from requests.utils import get_environ_proxies

    return dict(get_environ_proxies(url))


def _session(base_url: str, transport: Transport) -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    # Of broken connections only: urllib3 itself would read an answer that has a Retry-After to its
    # end, and multiply the tries of send().
    broken = _retry(transport.retries).new(respect_retry_after_header=False)
    adapter = HTTPAdapter(max_retries=broken)
    if transport.certificate_name:
        adapter.init_poolmanager(1, 1, server_hostname=transport.certificate_name)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    # .netrc would add credentials of its own; proxies and the CA file are chosen here instead.
    session.trust_env = False
    if not is_loopback(base_url):
        session.proxies = _proxies(base_url)
    session.verify = str(transport.ca_file) if transport.ca_file else _host_certificates()
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


def _retry(times: int) -> Retry:
    from urllib3.util.retry import Retry

    class Interruptible(Retry):
        def increment(self, *args: Any, **kwargs: Any) -> Self:
            check_interrupt()  # a server that never answers must not keep a fleet for all tries
            return super().increment(*args, **kwargs)

    return Interruptible(
        total=times,
        allowed_methods=None,  # a lost reply to a POST is healed by the 409 branch
        backoff_factor=0.25,
        backoff_jitter=0.25,
        backoff_max=_LONGEST_WAIT,
        retry_after_max=_LONGEST_WAIT,
        respect_retry_after_header=True,
        redirect=0,
        raise_on_status=False,
        raise_on_redirect=False,
    )


def _host_certificates() -> str | bool:
    """The host's own certificates, as curl takes them; True is the certifi package's."""
    found = ssl.get_default_verify_paths()
    for path in (found.cafile, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/cert.pem"):
        if path and Path(path).is_file() and os.access(path, os.R_OK):
            return path
    return True


def _unreachable(error: BaseException) -> Unreachable:
    """Say in a few words why no answer came, without the request's body or headers."""
    import errno
    import socket

    import requests

    chain = _causes(error)
    text = " ".join(str(part) for part in chain)
    numbers = {part.errno for part in chain if isinstance(part, OSError)}
    if isinstance(error, requests.exceptions.SSLError) or "SSL" in text:
        return Unreachable("tls", f"TLS failed: {_ssl_reason(text)}")
    if any(isinstance(p, socket.gaierror) for p in chain) or "NameResolution" in text:
        return Unreachable("name", "its name is not known to DNS")
    if errno.ECONNREFUSED in numbers or "refused" in text:
        return Unreachable("refused", "it refused the connection")
    if isinstance(error, requests.Timeout) or "timed out" in text:
        kind = "timeout" if isinstance(error, requests.ConnectTimeout) else "silent"
        return Unreachable(kind, "it did not answer in time")
    if numbers & {errno.EHOSTUNREACH, errno.ENETUNREACH} or "unreachable" in text:
        return Unreachable("route", "there is no route to it")
    return Unreachable("other", f"the connection broke ({type(chain[-1]).__name__})")


def _causes(error: BaseException) -> list[BaseException]:
    """Unfold what requests and urllib3 wrap: ``args``, ``reason``, cause and context."""
    found: list[BaseException] = []
    queue: list[Any] = [error]
    while queue and len(found) < 20:
        part = queue.pop(0)
        if not isinstance(part, BaseException) or part in found:
            continue
        found.append(part)
        queue += [*part.args, getattr(part, "reason", None), part.__cause__, part.__context__]
    return found


_BAD_CERTIFICATE = (
    "self-signed certificate",
    "self signed certificate",
    "hostname mismatch",
    "ip address mismatch",
    "certificate has expired",
    "certificate is not yet valid",
    "unable to get local issuer certificate",
)


def _ssl_reason(text: str) -> str:
    text = text.lower()
    if "certificate verify failed" in text:
        details = [f": {known}" for known in _BAD_CERTIFICATE if known in text]
        return f"certificate verify failed{''.join(details[:1])}"
    if "wrong version number" in text:
        return "wrong version number"
    return "the server's certificate or protocol was not accepted"
