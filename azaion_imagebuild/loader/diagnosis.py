"""Why a device cannot log in: each cause with its message and hint."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from ..errors import VerificationError
from ..system.http import Reply
from ..system.unreachable import TLS_KINDS, Unreachable
from ..system.url import where

Cause = Literal[
    "no route",
    "refused",
    "tls",
    "broken",
    "no Loader",
    "unhealthy",
    "login refused",
    "resource API down",
]
"""A value of the record's field ``smoke``, on which other programs rely."""

HEALTH = "GET /health"
LOGIN = "POST /login"
_LOG = "check the Loader's log on the device"
_DOWN = re.compile(
    rb"unreachable|cannot be reached|could not (?:connect|resolve|be reached)|max retries exceeded"
    rb"|connection (?:refused|reset|error|aborted|timed out)|timed out|timeout|no route to host"
    rb"|failed to establish|name resolution|name or service not known|bad gateway"
    rb"|service unavailable",
    re.IGNORECASE,
)
"""Answers of a Loader that could not forward a login: it returns 401 for every error."""


class SmokeFailed(VerificationError):
    """The device could not log in."""

    def __init__(self, cause: Cause, message: str, *, hint: str, may_pass: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.cause = cause
        self.facts = {"smoke": cause}
        self.may_pass = may_pass
        """A device that is still booting can look like this."""


def of_connection(url: str, asked: str, error: Unreachable) -> SmokeFailed:
    """Return why the Loader at ``url`` did not answer ``asked``."""
    it = f"the Loader at {url}: {error}"
    if error.kind in TLS_KINDS:
        hint = error.hint(_tls_hint(str(error)))
        return SmokeFailed("tls", f"cannot trust {it}", hint=hint)
    if error.kind == "silent" and asked == LOGIN:
        return _api_down(f"it was sent a login, and did not answer {asked} in time")
    cause: Cause
    if error.kind == "refused":
        cause, message = "refused", f"no Loader listens at {url}: {error}"
        hint = "check that the Loader runs on the device (its service, its log), and the port"
    elif error.kind in ("silent", "invalid", "other"):
        cause, message = "broken", f"no answer to {asked} of {it}"
        hint = f"{_LOG}, and whether it speaks http or https"
    else:
        cause, message = "no route", f"cannot reach {it}"
        hint = (
            "check that the device has power, has booted and is on this network, and loader_url;"
            " names in .local need mDNS on this host"
        )
    return SmokeFailed(cause, message, hint=error.hint(hint), may_pass=True)


def _tls_hint(reason: str) -> str:
    if "mismatch" in reason:
        return "set [smoke] certificate_name to the name in the device's certificate"
    if "wrong version number" in reason:
        return "it does not speak TLS: write http:// in loader_url"
    if "expired" in reason or "not yet valid" in reason:
        return "give the device a new certificate, and check both clocks"
    return "set [smoke] ca_file (--ca-file) to the device's certificate or the CA that signed it"


def of_health(reply: Reply, words: Collection[str]) -> SmokeFailed | None:
    """Return what is wrong by the answer to GET /health; None: the Loader is healthy."""
    if problem := _of_address(reply, HEALTH):
        return problem
    if reply.status < 300 and not _says_no(reply, words):
        return None
    message = f"the Loader is not healthy: {_answered(HEALTH, reply)}"
    return SmokeFailed("unhealthy", message, hint=_LOG, may_pass=True)


def of_login(reply: Reply, words: Collection[str]) -> SmokeFailed | None:
    """Return what is wrong by the answer to POST /login; None: the device is logged in."""
    if problem := _of_address(reply, LOGIN):
        return problem
    if reply.status < 300 and not _says_no(reply, words):
        return None
    answered = _answered(LOGIN, reply)
    if reply.status in (502, 503, 504):
        return _api_down(answered, may_pass=True)
    if _DOWN.search(reply.body):
        return _api_down(answered)  # a 401 is never retried, whatever it says
    message = f"the device cannot log in: {answered}"
    if reply.status >= 500 or reply.status == 429:
        return SmokeFailed("broken", message, hint=_LOG)
    if reply.status == 403:
        hint = "check the account at the admin API: its role, and whether it is locked"
        return SmokeFailed("login refused", message, hint=hint)
    hint = (
        "check device.conf on the device: path, permissions, and that its password is the account's"
    )
    return SmokeFailed("login refused", message, hint=hint)


def _api_down(what: str, *, may_pass: bool = False) -> SmokeFailed:
    return SmokeFailed(
        "resource API down",
        f"the Loader does not reach its resource API: {what}",
        hint="check the resource API, its URL in the Loader's configuration, and the device's DNS,"
        " gateway and firewall; the credentials were not judged",
        may_pass=may_pass,
    )


def _of_address(reply: Reply, asked: str) -> SmokeFailed | None:
    """Tell whether the answer is not from a Loader."""
    said = _answered(asked, reply)
    if 300 <= reply.status < 400:
        said = f"{asked} answered with a redirect to {where(reply.location or '')}"
    elif reply.status != 404 and not (reply.is_web_page and reply.status < 300):
        return None
    return SmokeFailed(
        "no Loader",
        f"not a Loader: {said}",
        hint="set loader_url to the Loader itself; /health and /login are added to it",
        may_pass=reply.status == 404,
    )


def _answered(asked: str, reply: Reply) -> str:
    return f"{asked} answered HTTP {reply.status}: {reply.excerpt()}"


def _says_no(reply: Reply, words: Collection[str]) -> bool:
    """Tell whether the body of a 2xx answer says that it failed."""
    answer = reply.json()
    if not isinstance(answer, dict):
        return False
    status = answer.get("status")
    if isinstance(status, str):
        return status.lower() not in words
    return any(answer.get(name) is False for name in ("status", "healthy", "ok", "success"))
