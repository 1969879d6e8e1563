"""The admin API: one account per device, created or given a new password (runbook)."""

from __future__ import annotations

import codecs
import os
from typing import TYPE_CHECKING, Literal

from .errors import ProvisioningError, UsageError
from .http_client import JsonClient, Reply, Transport, Unreachable, checked_url, where
from .model import DeviceIdentity
from .process import hide_variable
from .secret import Secret
from .settings import AdminApiSettings

if TYPE_CHECKING:
    from typing_extensions import Self

REACH_HINT = "check DNS, VPN, firewall and the API_URL (one trailing slash is stripped)"
CREATE_HINT = (
    "see the admin API's logs; confirm the role {role} and its e-mail uniqueness rules, and that"
    " {url} is its address"
)
UPDATE_HINT = (
    "implement or enable {method} {path} at the admin API, or set [admin_api] update_path and"
    " update_method to its upsert"
)
TLS_HINT = (
    "trust the API's CA by [admin_api] ca_file, correct API_URL's host name, or use http:// if the"
    " API speaks no TLS"
)
TOKEN_HINT = "check the token ([admin_api] token_file or token_env), mTLS pair and its rights"  # noqa: S105
_CREATED = (200, 201)
_EXISTS = 409
_UPDATED = (200, 204)
_LONGEST_TOKEN = 16 * 1024


class AdminApi:
    """Enrolls devices: POST the account; if it exists, give it the new password.

    A context manager that closes its connections.
    """

    def __init__(self, settings: AdminApiSettings) -> None:
        if settings.url is None:
            raise UsageError("no admin API given", hint="give --api-url (API_URL=)")
        for path in (settings.create_path, settings.update_path):
            if not path.startswith("/"):
                raise UsageError(
                    f"[admin_api] path {path!a} does not begin with a slash", hint=f"write /{path}"
                )
        self._settings = settings
        self._client = JsonClient(checked_url(settings.url, "API_URL"), transport(settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(*error)

    def enroll(self, serial: str, email: str, password: Secret) -> DeviceIdentity:
        """Make ``password`` the one that opens the account ``email``.

        Safe to repeat: a reply lost after the POST was carried out looks like an account that
        exists on the next try, and the update then sets the password.

        Raises:
            ProvisioningError: the API could not be reached, or its answer is not the contract's.
        """
        settings = self._settings
        account = {settings.email_field: email, settings.password_field: password.reveal()}
        reply = self._send(
            "POST", settings.create_path, {**account, settings.role_field: settings.role}
        )
        enrolled: Literal["created", "updated"] = "created"
        if reply.status == _EXISTS:
            method, path = settings.update_method, settings.update_path
            reply = self._send(method, path, account)
            hint = UPDATE_HINT.format(method=method, path=path)
            _refuse(reply, _UPDATED, f"the account exists (409), but {method} {path}", hint)
            enrolled = "updated"
        else:
            url = self._client.base_url + settings.create_path
            hint = CREATE_HINT.format(role=settings.role, url=url)
            _refuse(reply, _CREATED, f"POST {settings.create_path}", hint)
        return DeviceIdentity(serial=serial, email=email, password=password, enrolled=enrolled)

    def _send(self, method: str, path: str, body: dict[str, str]) -> Reply:
        try:
            return self._client.send(method, path, body)
        except Unreachable as error:
            raise ProvisioningError(
                f"cannot reach the admin API at {self._client.base_url}: {error}",
                hint=TLS_HINT if error.kind == "tls" else REACH_HINT,
            ) from None


def _refuse(reply: Reply, wanted: tuple[int, ...], request: str, hint: str) -> None:
    """Raise unless the status is one of ``wanted``; ``hint`` serves where nothing else is known."""
    if reply.status in wanted and not _is_a_web_page(reply):
        return
    if 300 <= reply.status < 400:
        hint = "a request with a password is never redirected; set API_URL to the final address"
    elif _is_a_web_page(reply):
        hint = "a web page answered, perhaps a login or a proxy: set API_URL to the API itself"
    elif reply.status in (401, 403):
        hint = TOKEN_HINT
    elif reply.status == 429:
        hint = "the admin API is busy: run the same command again later, or raise its limits"
    raise ProvisioningError(f"{request} answered HTTP {reply.status}: {_shown(reply)}", hint=hint)


def _is_a_web_page(reply: Reply) -> bool:
    return reply.body.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<"


def _shown(reply: Reply) -> str:
    if 300 <= reply.status < 400:
        return f"a redirect to {where(reply.location or '')}"
    return reply.excerpt()


def transport(settings: AdminApiSettings) -> Transport:
    """Return how the settings say to speak to the admin API.

    Raises:
        UsageError: the token, a header or a certificate file is not usable.
    """
    for path in (settings.ca_file, settings.client_cert, settings.client_key):
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            raise UsageError(
                f"cannot read {path}", hint="check [admin_api] ca_file, client_cert, client_key"
            )
    for name, value in settings.headers.items():
        if not (name.isascii() and name.replace("-", "").isalnum() and _is_header_text(value)):
            raise UsageError(
                f"[admin_api] headers: {name!a} is not a header",
                hint="a header's name is letters, digits and hyphens; its value is on one line",
            )
    words = (settings.token_header, settings.update_method, settings.token_scheme or "Bearer")
    for word in words:
        if not (word.isascii() and word.replace("-", "").isalnum()):
            raise UsageError(
                f"[admin_api] {word!a} is no header, method or scheme",
                hint="token_header, token_scheme and update_method are letters, digits and hyphens",
            )
    return Transport(
        headers=settings.headers,
        token=_token(settings),
        token_header=settings.token_header,
        token_scheme=settings.token_scheme,
        client_cert=settings.client_cert,
        client_key=settings.client_key,
        ca_file=settings.ca_file,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        retries=settings.retries,
    )


def _token(settings: AdminApiSettings) -> Secret | None:
    if settings.token_env is not None:
        hide_variable(settings.token_env)
    if settings.token_file is not None:
        source = str(settings.token_file)
        try:
            with settings.token_file.open("rb") as stream:
                text = stream.read(_LONGEST_TOKEN).decode("ascii", "replace").strip()
        except OSError as error:
            raise UsageError(
                f"cannot read the token file {source}: {error.strerror}",
                hint="check [admin_api] token_file and its permissions",
            ) from None
    elif settings.token_env is not None:
        source = f"${settings.token_env}"
        text = os.environ.get(settings.token_env, "").strip()
    else:
        return None
    if not text or not _is_header_text(text) or " " in text:
        raise UsageError(
            f"{source} holds no usable token",
            hint="a token is one line of printable ASCII characters without spaces",
        )
    return Secret(text)


def _is_header_text(text: str) -> bool:
    return text.isascii() and text.isprintable()
