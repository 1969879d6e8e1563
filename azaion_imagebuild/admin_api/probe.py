"""Checks a live admin API against its contract, with requests that change nothing.

An API that follows the contract must refuse them: docs/how-to/admin-api.md lists them and says why.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator
from typing import Any

from msgspec import structs

from ..errors import ProvisioningError, UsageError
from ..identity.serial import EMAIL_DOMAIN, EMAIL_PREFIX, new_password
from ..model import Finding
from ..settings import AdminApiSettings
from ..system.http import JsonClient, Reply
from ..system.unreachable import Unreachable
from ..system.url import checked_url
from .account_id import NoId
from .client import ID_HINT, UPDATE_HINT, not_reached, refuse
from .contract import Call, Contract
from .transport import transport

CREATE_HINT = "set [admin_api] create_method and create_path to what the API at {url} has"
LOG_HINT = "see the admin API's logs"
BODY_HINT = "check [admin_api] update_fields and the …_field settings, and the API's rules"
_NO_ACCOUNT: list[Any] = []
"""A body without an account for any API: it is JSON, but not an object."""
_NOT_THERE = (404, 405, 410, 501)
_REFUSED = tuple(status for status in range(400, 500) if status not in (401, 403, 407, 429))
_logger = logging.getLogger(__name__)


def probe(settings: AdminApiSettings) -> list[Finding]:
    """Return where a live admin API differs from its contract (``doctor --api``)."""
    settings = structs.replace(settings, retries=0)
    found: list[Finding] = []
    try:
        contract = Contract.of(settings)
        url = checked_url(settings.url or "", "API_URL")
        with JsonClient(url, transport(settings)) as client:
            for finding in _Probe(client, contract).findings():
                found.append(finding)  # one by one: findings before an error count
    except UsageError as error:
        found.append(Finding(message=error.message, hint=error.hint))
    except Unreachable as error:
        found.append(not_reached(settings, error))
    return found


def missing_update(settings: AdminApiSettings) -> Finding | None:
    """Return the signs that a live admin API cannot update accounts; change none.

    An error is certain. A warning: it answers as it does for a path that does not exist.
    """
    contract = Contract.of(settings)
    settings = structs.replace(settings, retries=0)
    try:
        with JsonClient(checked_url(settings.url or "", "API_URL"), transport(settings)) as client:
            return _Probe(client, contract).missing_update()
    except Unreachable:
        return None  # it answered just now, and will be asked again


class _Probe:
    """Sends the requests, for an account that no device can have."""

    def __init__(self, client: JsonClient, contract: Contract) -> None:
        self._client = client
        self._contract = contract
        # No serial gives this e-mail address: a serial's last segment has no hyphen.
        self._word = f"doctor-{secrets.token_hex(4)}"
        self._password = new_password()
        self._email = f"{EMAIL_PREFIX}{self._word}@{EMAIL_DOMAIN}"

    def findings(self) -> Iterator[Finding]:
        """Send the requests, and yield what is wrong."""
        yield from self._creation()
        if self._contract.settings.upsert and not self._contract.updates_after_creation:
            return  # there is no request that sets a password and cannot create an account
        if self._contract.needs_id:
            yield from self._lookup()
        yield from self._update()

    def _creation(self) -> Iterator[Finding]:
        """Send a creation that the API must refuse for its body, if it accepts the token."""
        call = self._contract.create(self._email, self._password)
        reply = self._sent(call, _NO_ACCOUNT, "with no account in it")
        if reply.status in _NOT_THERE:
            yield _finding(reply, call.name, CREATE_HINT.format(url=self._client.base_url))
        elif reply.status == 500:
            hint = f"{LOG_HINT}: it failed on a body that is not a JSON object"
            yield structs.replace(_finding(reply, call.name, hint), severity="warning")
        elif reply.status < 300 and not reply.is_web_page:
            yield self._suspicious(reply, f"{call.name} with no account in it")
        else:
            yield from _judged(reply, f"{call.name} with no account in it", LOG_HINT)

    def _lookup(self) -> Iterator[Finding]:
        call = self._contract.lookup(self._email)
        if call is None:
            return
        reply = self._sent(call, None, f"for {self._email}")
        if reply.status == 404:
            if self._answers_as_if_absent(call, reply):
                yield _finding(reply, call.name, ID_HINT)
        elif reply.status == 200 and not reply.is_web_page:
            yield from self._found(call, reply)
        else:
            yield from _judged(reply, call.name, ID_HINT, wanted=())

    def _found(self, call: Call, reply: Reply) -> Iterator[Finding]:
        answer = reply.json()
        if answer is None:
            message = f"{call.name} did not answer with JSON of up to 64 KiB: {reply.excerpt()}"
            yield Finding(message=message, hint="set [admin_api] lookup_path so that it filters")
            return
        try:
            self._contract.existing_id(answer, self._email)
        except NoId:
            return  # correct: there is no such account
        yield self._suspicious(reply, call.name)

    def _update(self) -> Iterator[Finding]:
        """Send an update for no account: only an API that creates accounts by it could succeed."""
        call = self._contract.update(self._email, self._password, self._word)
        reply = self._sent(call, call.body, f"for {self._email}")
        hint = UPDATE_HINT.format(call=call.name)
        if reply.status in (405, 501):
            yield _finding(reply, call.name, hint)
        elif reply.status in (404, 410):
            if self._answers_as_if_absent(call, reply):
                message = f"{call.name} answers HTTP {reply.status}, as a path that is not there"
                yield Finding(message=message, hint=hint)
        elif reply.status < 300 and not reply.is_web_page:
            yield self._suspicious(reply, call.name)
        elif reply.status in (400, 422) and not self._contract.needs_id:
            message = f"{call.name} did not like the body: HTTP {reply.status}: {reply.excerpt()}"
            yield Finding(message=message, hint=BODY_HINT, severity="warning")
        else:
            yield from _judged(reply, call.name, LOG_HINT)

    def missing_update(self) -> Finding | None:
        """Send an update for an account that does not exist."""
        call = self._contract.update(self._email, self._password, self._word)
        reply = self._sent(call, call.body, f"for {self._email}")
        found = _finding(reply, call.name, UPDATE_HINT.format(call=call.name))
        if reply.status in (405, 501):
            return found
        if reply.status in (404, 410) and self._answers_as_if_absent(call, reply):
            return structs.replace(found, severity="warning")
        return None

    def _answers_as_if_absent(self, call: Call, reply: Reply) -> bool:
        """Tell whether a path that cannot exist gets the same answer."""
        folder = self._contract.settings.create_path.partition("{")[0].rstrip("/")
        path = f"{folder.rpartition('/')[0]}/{self._word}"
        body = None if call.body is None else _NO_ACCOUNT
        absent = self._client.send(call.method, path, body)
        _logger.info("admin API: %s %s: HTTP %d", call.method, path, absent.status)
        return (absent.status, self._shape(absent, path)) == (
            reply.status,
            self._shape(reply, call.path),
        )

    def _shape(self, reply: Reply, path: str) -> str:
        """Return an answer without what differs each time: paths, times, numbers."""
        text = reply.body.decode("utf-8", "replace")
        for changing in (path, self._email, self._word):
            text = text.replace(changing, "")
        return re.sub(r"[0-9a-fA-F-]*[0-9][0-9a-fA-F-]*", "", text)

    def _sent(self, call: Call, body: Any, what: str) -> Reply:
        reply = self._client.send(call.method, call.path, body)
        _logger.info("admin API: %s %s: HTTP %d", call.name, what, reply.status)
        return reply

    def _suspicious(self, reply: Reply, request: str) -> Finding:
        return Finding(
            message=f"{request} answered HTTP {reply.status}, as if there were such an account:"
            f" {reply.excerpt()}",
            hint=f"look for an account {self._email} or without a name, and remove it; an API"
            " that accepts this cannot tell when a device's password was not set",
        )


def _judged(
    reply: Reply, request: str, hint: str, wanted: tuple[int, ...] = _REFUSED
) -> Iterator[Finding]:
    try:
        refuse(reply, wanted, request, hint)
    except ProvisioningError as error:
        yield Finding(message=error.message, hint=error.hint)


def _finding(reply: Reply, request: str, hint: str) -> Finding:
    return Finding(message=f"{request} answered HTTP {reply.status}: {reply.excerpt()}", hint=hint)
