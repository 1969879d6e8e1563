"""The proxy that the environment sets for a URL: an error must name it, not the server."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from msgspec import Struct

from .url import is_loopback


class Proxy(Struct, frozen=True, kw_only=True):
    """A proxy between this host and a server."""

    url: str
    """The URL from the environment; it may hold a password."""
    variable: str
    host: str
    """The server behind it."""

    def __repr__(self) -> str:
        """Return its name without the password."""
        return str(self)

    def __str__(self) -> str:
        return f"the proxy {self._place()} (${self.variable})"

    @property
    def hint(self) -> str:
        """Return what to do if it is at fault."""
        if self.url.lower().startswith("socks"):
            return (
                f"{self} speaks SOCKS: set an http:// proxy there; to go around it:"
                f" export NO_PROXY={self.host}"
            )
        return (
            f"check {self}: is it right, does it want a login (http://USER:PASSWORD@HOST:PORT in"
            f" ${self.variable}), does it let {self.host} through? To go around it:"
            f" export NO_PROXY={self.host}"
        )

    def _place(self) -> str:
        try:
            parts = urlsplit(self.url if "://" in self.url else f"http://{self.url}")
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            return "with an invalid URL"
        if not parts.hostname or "@" in self.url.partition(parts.netloc)[2]:
            return "with an invalid URL"  # its host may be the beginning of a password
        return ascii(f"{parts.hostname}{port}")[1:-1]


def proxy_of(url: str) -> Proxy | None:
    """Return the proxy that the environment sets for ``url``; None if it sets no proxy."""
    chosen = proxies_of(url)
    scheme, host = urlsplit(url).scheme, str(urlsplit(url).hostname)
    for name in (scheme, "all"):
        if name in chosen:
            return Proxy(url=chosen[name], variable=_variable(name, chosen[name]), host=host)
    return None


def proxies_of(url: str) -> dict[str, str]:
    """Return scheme → proxy for ``url``, from the environment; NO_PROXY counts."""
    if is_loopback(url):
        return {}
    from requests.utils import get_environ_proxies

    return dict(get_environ_proxies(url))


def _variable(scheme: str, url: str) -> str:
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    return next((name for name in names if os.environ.get(name) == url), names[0])
