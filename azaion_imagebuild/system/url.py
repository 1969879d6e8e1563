"""URLs of servers: checking them, and what of them may be shown."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from ..errors import UsageError
from ..secret import shown

_LONGEST_SHOWN = 200
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_LONGEST_NAME = 253


def checked_url(url: str, what: str) -> str:
    """Return ``url`` if it is an http or https URL of a server, without credentials.

    Raises:
        UsageError: it is not; ``what`` names the setting.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and not (parts.query or parts.fragment) and (parts.port or 1) > 0
        usable = usable and _is_host(str(parts.hostname), bracketed="[" in parts.netloc)
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
            " (of traces) goes into OTEL_EXPORTER_OTLP_HEADERS",
        )
    return url


def _is_host(host: str, *, bracketed: bool) -> bool:
    """Tell whether a host is an address, or a name that DNS can be asked for.

    Raises:
        ValueError: a name with non-ASCII letters is not valid in DNS.
    """
    if bracketed or ":" in host:
        return ipaddress.IPv6Address(host) is not None
    name = host.encode("idna").decode("ascii").removesuffix(".")  # UnicodeError is a ValueError
    return len(name) <= _LONGEST_NAME and all(map(_LABEL.fullmatch, name.split(".")))


def where(url: str) -> str:
    """Return scheme and host of a URL; the rest, if a server sent it, may hold a secret."""
    try:
        parts = urlsplit(url)
        host = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        return "an invalid URL"
    return ascii(shown(host))[1:-1][:_LONGEST_SHOWN] if parts.hostname else "the same server"


def is_loopback(url: str) -> bool:
    """Tell whether ``url`` leads to this host."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address(url: str) -> tuple[str, int]:
    """Return (host, port) of ``url``, which :func:`checked_url` has accepted."""
    parts = urlsplit(url)
    return str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
