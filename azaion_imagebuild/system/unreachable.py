"""Why a server did not answer, in a few words, without the request's body or headers."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import Any, Literal

from .proxy import Proxy

Kind = Literal[
    "name",
    "refused",
    "route",
    "timeout",
    "silent",
    "tls",
    "no tls",
    "client certificate",
    "proxy",
    "invalid",
    "other",
]
"""``timeout``: no connection; ``silent``: a connection, but no answer; ``no tls``: the server does
not speak it; ``invalid``: the answer or an address is not valid HTTP."""

TLS_KINDS = ("tls", "no tls", "client certificate")


class Unreachable(Exception):
    """The server did not answer."""

    def __init__(self, kind: Kind, reason: str, proxy: Proxy | None = None) -> None:
        asked = f", asked through {proxy}" if proxy else ""
        super().__init__(reason + asked)
        self.kind = kind
        self.proxy = proxy

    def hint(self, otherwise: str) -> str:
        """Return what to do: ``otherwise``, and what to check on the proxy."""
        if self.proxy is None:
            return otherwise
        return self.proxy.hint if self.kind == "proxy" else f"{otherwise}; {self.proxy.hint}"


def unreachable(error: BaseException, proxy: Proxy | None = None) -> Unreachable:
    """Return why the server did not answer through ``proxy``, if there is one."""
    return Unreachable(*_judged(error), proxy)


def is_hopeless(error: BaseException) -> bool:
    """Tell whether a retry must fail, too: certificates, and proxies that refuse."""
    kind, reason = _judged(error)
    return kind in TLS_KINDS or (kind == "proxy" and "HTTP 4" in reason)


def _judged(error: BaseException) -> tuple[Kind, str]:
    chain = _causes(error)
    text = " ".join(str(part) for part in chain)
    names = {type(part).__name__ for part in chain}
    if refusal := _TUNNEL.search(text):
        return "proxy", f"the proxy refused the connection: HTTP {refusal[1]}"
    if any(isinstance(part, ssl.SSLError) for part in chain) or "SSL" in text:
        return _of_tls(text.lower().replace("_", " "))
    numbers = {part.errno for part in chain if isinstance(part, OSError)}
    kind, reason = _of_connection(chain, names, numbers, text)
    if names & _PROXY_ERRORS:
        return "proxy", reason.replace("its name", "the proxy's name").replace("it ", "the proxy ")
    return kind, reason


_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
_PROXY_ERRORS = {"ProxyError", "InvalidProxyURL", "ProxySchemeUnknown", "ProxySchemeUnsupported"}


def _of_connection(
    chain: list[BaseException], names: set[str], numbers: set[int | None], text: str
) -> tuple[Kind, str]:
    if any(isinstance(p, socket.gaierror) for p in chain) or "NameResolution" in text:
        return "name", "its name is not known to DNS"
    if errno.ECONNREFUSED in numbers or "refused" in text:
        return "refused", "it refused the connection"
    if names & {"Timeout", "ReadTimeout", "ConnectTimeout"} or "timed out" in text:
        return ("timeout" if "ConnectTimeout" in names else "silent"), "it did not answer in time"
    if numbers & {errno.EHOSTUNREACH, errno.ENETUNREACH} or "unreachable" in text:
        return "route", "there is no route to it"
    if isinstance(chain[0], ValueError):
        return "invalid", f"its address or its answer is not valid HTTP ({type(chain[0]).__name__})"
    return "other", f"the connection broke ({type(chain[-1]).__name__})"


def _causes(error: BaseException) -> list[BaseException]:
    """Yield the errors that requests and urllib3 wrap: ``args``, ``reason``, cause, context."""
    found: list[BaseException] = []
    queue: list[Any] = [error]
    while queue and len(found) < 20:
        part = queue.pop(0)
        if not isinstance(part, BaseException) or part in found:
            continue
        found.append(part)
        queue += [*part.args, getattr(part, "reason", None), part.__cause__, part.__context__]
    return found


_WHY_NOT_VERIFIED = re.compile(r"certificate verify failed: ([a-z0-9 -]{1,60})")
"""OpenSSL's reason, e.g. ``hostname mismatch`` or ``ee key too small``."""
_ALERT = re.compile(
    r"alert (certificate required|unknown ca|bad certificate|certificate unknown"
    r"|certificate expired|certificate revoked|unsupported certificate|access denied"
    r"|handshake failure)"
)
"""A server's alerts about the client's certificate, or its absence (RFC 8446, 6.2)."""


def _of_tls(text: str) -> tuple[Kind, str]:
    if "certificate verify failed" in text:
        detail = _WHY_NOT_VERIFIED.search(text)
        why = f": {detail[1].strip()}" if detail else ""
        return "tls", f"TLS failed: certificate verify failed{why}"
    if "wrong version number" in text or "http request" in text:
        return "no tls", "TLS failed: wrong version number"
    if alert := _ALERT.search(text):
        wants = alert[1] in ("certificate required", "handshake failure")
        what = "it wants a client certificate" if wants else "it rejected the client certificate"
        return "client certificate", f"TLS failed: {what} ({alert[1]})"
    if "eof occurred" in text or "unexpected eof" in text:
        return "other", "the connection broke during TLS (EOF)"
    return "tls", "TLS failed: the server's certificate or protocol was not accepted"
