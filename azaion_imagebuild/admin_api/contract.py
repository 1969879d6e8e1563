"""The contract of an admin API: its requests, and the meaning of its answers.

This sends no request. The settings' defaults are the runbook's contract.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from msgspec import Struct, structs

from ..errors import UsageError
from ..secret import Secret
from ..settings import AdminApiSettings
from .account_id import NoId, find_id

FIELDS = ("email", "password", "role")
_PATHS = {"create_path": "{email}", "lookup_path": "{email}", "update_path": "{email} {id}"}
"""Key of a path → the placeholders that it may hold."""
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PATH = re.compile(r"/[!-~]*", re.ASCII)
HOW_IT_IS_REACHED = (
    *("url", "token_file", "token_env", "token_header", "token_scheme", "client_cert"),
    *("client_key", "ca_file", "headers", "connect_timeout", "read_timeout", "retries"),
)
"""Keys of [admin_api] that are not part of the contract."""


class Call(Struct, frozen=True, kw_only=True):
    """A request of the contract, ready to be sent."""

    name: str
    """Method and path as configured, for messages: without the values."""
    method: str
    path: str
    body: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Return everything except the body, which holds a password."""
        return f"Call({self.method} {self.path})"


class Contract(Struct, frozen=True, kw_only=True):
    """The requests that a site's admin API understands; made by :meth:`of`."""

    settings: AdminApiSettings

    @classmethod
    def of(cls, settings: AdminApiSettings) -> Contract:
        """Return the contract that the settings describe.

        Raises:
            UsageError: they contradict each other.
        """
        for problem, hint in _problems(settings):
            raise UsageError(f"[admin_api] {problem}", hint=hint)
        return cls(settings=settings)

    @property
    def accepted_statuses(self) -> tuple[int, ...]:
        """Return what :meth:`create` is answered with when the account is as it should be."""
        chosen = self.settings
        updated = chosen.updated_statuses if chosen.upsert else []
        return (*chosen.created_statuses, *updated)

    @property
    def updates_after_creation(self) -> bool:
        """Tell whether creating an account leaves its password unset."""
        return "password" not in self.settings.create_fields

    @property
    def needs_id(self) -> bool:
        """Tell whether the update names the account by its id."""
        return "{id}" in self.settings.update_path

    def create(self, email: str, password: Secret) -> Call:
        """Return the request that creates the account."""
        chosen = self.settings
        body = self._body(chosen.create_fields, email, password)
        return _call(chosen.create_method, chosen.create_path, body, email=email)

    def update(self, email: str, password: Secret, account_id: str) -> Call:
        """Return the request that sets the password; the id is ignored if not needed."""
        chosen = self.settings
        body = self._body(chosen.update_fields, email, password)
        return _call(chosen.update_method, chosen.update_path, body, email=email, id=account_id)

    def lookup(self, email: str) -> Call | None:
        """Return the request that finds an existing account; None: the API has none."""
        path = self.settings.lookup_path
        return _call("GET", path, None, email=email) if path else None

    def created_id(self, answer: Any, email: str) -> str:
        """Return the id in the answer (JSON) to :meth:`create`.

        Raises:
            NoId: it is missing, or another account's.
        """
        chosen = self.settings
        return find_id(answer, chosen.id_field, email.lower(), chosen.email_field)[0]

    def existing_id(self, answer: Any, email: str) -> str:
        """Return the id in the answer to :meth:`lookup`, or in the one that says that it exists.

        The answer of a lookup must show the e-mail address: with the id of another account, that
        account would be locked out.

        Raises:
            NoId: it is missing, or not clearly this account's.
        """
        chosen = self.settings
        path = chosen.existing_id_field or chosen.id_field
        account_id, shown = find_id(answer, path, email.lower(), chosen.email_field)
        if chosen.lookup_path and not shown:
            raise NoId(f"its answer does not show {chosen.email_field} = {email}")
        return account_id

    def _body(self, names: list[str], email: str, password: Secret) -> dict[str, Any]:
        values = {"email": email, "password": password.reveal(), "role": self.settings.role}
        return _nested((getattr(self.settings, f"{name}_field"), values[name]) for name in names)


def of_the_runbook(settings: AdminApiSettings) -> AdminApiSettings:
    """Return the settings with the runbook's contract, but the site's connection."""
    kept = {name: getattr(settings, name) for name in HOW_IT_IS_REACHED}
    return structs.replace(AdminApiSettings(), **kept)


def _call(method: str, path: str, body: dict[str, Any] | None, **values: str) -> Call:
    filled = _PLACEHOLDER.sub(lambda match: quote(values[match[1]], safe=""), path)
    return Call(name=f"{method} {path}", method=method, path=filled, body=body)


def _nested(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the body; a field ``credentials.password`` becomes an object in an object.

    Raises:
        ValueError: two fields collide; the text names one.
    """
    body: dict[str, Any] = {}
    for path, value in fields:
        *folders, name = path.split(".")
        place: Any = body
        for folder in folders:
            place = place.setdefault(folder, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or name in place:
            raise ValueError(path)
        place[name] = value
    return body


def _problems(settings: AdminApiSettings) -> Iterator[tuple[str, str]]:
    """Yield (what is wrong, what to do) for invalid settings."""
    for key, known in _PATHS.items():
        yield from _problems_of_path(key, getattr(settings, key), known)
    for call in ("create", "update"):
        names = getattr(settings, f"{call}_fields")
        path = getattr(settings, f"{call}_path")
        if not set(names) <= set(FIELDS) or len(set(names)) != len(names):
            yield f"{call}_fields {names} is unknown", f"known are: {', '.join(FIELDS)}, once each"
        elif "email" not in names and not _PLACEHOLDER.search(path):
            yield f"{call}_path and {call}_fields name no account", "add email or {email} to them"
        else:
            yield from _problems_of_body(settings, call, names)
    if "password" not in settings.update_fields:
        yield "update_fields has no password", "add it: that request sets the password"
    yield from _problems_of_statuses(settings)


def _problems_of_path(key: str, path: str | None, known: str) -> Iterator[tuple[str, str]]:
    if path is None:
        return
    if not path.startswith("/"):
        yield f"path {path!a} does not begin with a slash", f"write /{path}"
    plain = _PLACEHOLDER.sub(lambda match: "" if match[0] in known else match[0], path)
    if not _PATH.fullmatch(path) or set("{}#") & set(plain):
        yield (
            f"{key} {path!a} is not a valid path",
            f"write it in ASCII without spaces; known are: {known}",
        )


def _problems_of_body(
    settings: AdminApiSettings, call: str, names: list[str]
) -> Iterator[tuple[str, str]]:
    try:
        _nested((getattr(settings, f"{name}_field"), "") for name in names)
    except ValueError as error:
        yield f"{error} is twice in the body of {call}_path", "check the settings …_field"


def _problems_of_statuses(settings: AdminApiSettings) -> Iterator[tuple[str, str]]:
    created, updated = set(settings.created_statuses), set(settings.updated_statuses)
    if not created or not updated:
        yield "created_statuses or updated_statuses is empty", "list what the API answers"
    taken = created | updated if settings.upsert else created
    if both := taken & set(settings.exists_statuses):
        yield f"status {min(both)} means two things", "take it out of exists_statuses or the other"
    if settings.upsert and (both := created & updated):
        yield f"with upsert, status {min(both)} means two things", "e.g. created_statuses = [201]"
