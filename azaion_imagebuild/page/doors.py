"""Who may see the page: one-time links, sessions, and the hosts that it answers for."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_MOST_SESSIONS = 64
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every answer: no script but ours, no frame, nothing kept."""


@dataclass(slots=True, kw_only=True)
class Doors:
    """Lets in whoever opened a link that was printed on the terminal."""

    scheme: str
    port: int
    names: frozenset[str]
    """Host names that the page is asked by, in lower case."""
    takes_addresses: bool
    """Any IP address is a host of it: a foreign site can only bring a name of its own here."""
    say_link: Callable[[str], None]
    """Prints a one-time link's path."""
    _key: str = ""
    _sessions: dict[str, str] = field(default_factory=dict)
    """Session → its CSRF token."""

    @property
    def cookie(self) -> str:
        """Return the cookie's name; two pages on one host have different ones."""
        return f"azaion-page-{self.port}"

    def invite(self) -> None:
        """Print a new link; the one before is void."""
        self._key = secrets.token_urlsafe(32)
        self.say_link(f"/login?key={self._key}")

    def enter(self, key: str) -> str | None:
        """Return a new session for a link's key, which is used up; None: it is not valid."""
        if not self._key or not hmac.compare_digest(key.encode(), self._key.encode()):
            return None
        self._key = ""
        session = secrets.token_urlsafe(32)
        self._sessions[session] = secrets.token_urlsafe(32)
        if len(self._sessions) > _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self.invite()
        return session

    def token_of(self, session: str | None) -> str | None:
        """Return a session's CSRF token; None: there is no such session."""
        return self._sessions.get(session or "")

    def is_token(self, session: str | None, token: str) -> bool:
        """Tell whether a request comes from the page that this session was shown."""
        wanted = self.token_of(session)
        return wanted is not None and hmac.compare_digest(token.encode(), wanted.encode())

    def is_host(self, host: str) -> bool:
        """Tell whether a Host header names this page."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            return False
        default = 443 if self.scheme == "https" else 80
        if (port or default) != self.port or parts.netloc.rpartition("@")[2] != host:
            return False
        return name in self.names or (self.takes_addresses and _is_address(name))

    def is_origin(self, origin: str, host: str) -> bool:
        """Tell whether an Origin header is the page's own."""
        return origin.lower() == f"{self.scheme}://{host}".lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
