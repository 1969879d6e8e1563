"""The admin API: one account per device, created or given a new password (runbook)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from msgspec import structs

from ..errors import ProvisioningError, UsageError
from ..model import DeviceIdentity, Finding, Pending
from ..secret import Secret
from ..settings import AdminApiSettings
from ..system.http import JsonClient, Reply
from ..system.unreachable import Kind, Unreachable
from ..system.url import checked_url, where
from .account_id import NoId
from .contract import Call, Contract
from .transport import transport

if TYPE_CHECKING:
    from typing_extensions import Self

PLUGIN = "admin_api"
"""The plug-in that activates what :meth:`AdminApi.create` left pending."""
REACH_HINT = "check DNS, VPN, firewall and the API_URL (one trailing slash is stripped)"
CREATE_HINT = (
    "see the admin API's logs; confirm the role {role} and its e-mail uniqueness rules, and that"
    " {url} is its address"
)
UPDATE_HINT = (
    "implement or enable {call} at the admin API, or set [admin_api] update_method and"
    " update_path, or upsert, to what it has"
)
PERHAPS_HINT = (
    "the account may have the new password all the same, and the device not: run the same command"
    " again as soon as you can"
)
ROTATE_HINT = (
    "see the admin API's logs: is the account there? azaion-imagebuild image makes it; if {call} is"
    " not what sets a password, set [admin_api] update_method and update_path, or upsert"
)
ID_HINT = (
    "set [admin_api] id_field and existing_id_field to where its answers hold the account's id, or"
    " lookup_path to where an account is found"
)
_HINTS: dict[Kind, str] = {
    "tls": "trust the API's CA by [admin_api] ca_file, or correct the host name in API_URL",
    "no tls": "correct host and port in API_URL, or use http:// if the API speaks no TLS",
}
_CLIENT_HINT = (
    "check [admin_api] client_cert and client_key: the API must trust the CA that signed {cert},"
    " which must not have expired or been revoked"
)
_NO_CLIENT_HINT = (
    "set [admin_api] client_cert and client_key to this station's certificate and key, which the"
    " API knows"
)
EXISTS_HINT = (
    "; if it says that the account exists: set [admin_api] exists_statuses = [409, {status}]"
)
_CANNOT_REACH = "cannot reach the admin API at "
TOKEN_HINT = "check the token ([admin_api] token_file or token_env), mTLS pair and its rights"  # noqa: S105


class AdminApi:
    """Enrolls devices by the contract: creates the account, or sets its password.

    A context manager that closes its connections.
    """

    def __init__(self, settings: AdminApiSettings) -> None:
        if settings.url is None:
            raise UsageError("no admin API given", hint="give --api-url (API_URL=)")
        self._contract = Contract.of(settings)
        self._client = JsonClient(checked_url(settings.url, "API_URL"), transport(settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(*error)

    def enroll(self, serial: str, email: str, password: Secret) -> DeviceIdentity:
        """Make sure that the account ``email`` exists, with this password.

        Safe to repeat: if the reply is lost after the account was created, the next try finds an
        existing account, and the update sets its password.

        Raises:
            ProvisioningError: the API could not be reached, or its answer is not the contract's.
        """
        return self.activate(self.create(serial, email, password))

    def create(self, serial: str, email: str, password: Secret) -> DeviceIdentity:
        """Create the account; an existing one keeps its password until :meth:`activate`.

        The identity of an existing account is ``pending``, unless the contract has one request for
        both (``upsert``), which has then set the password.

        Raises:
            ProvisioningError: the API could not be reached, or its answer is not the contract's.
        """
        contract, settings = self._contract, self._contract.settings
        call = contract.create(email, password)
        reply = self._send(call)
        if reply.status in settings.exists_statuses:
            so_far = f"the account exists ({_answered(reply)}), but "
            account_id = self._existing_id(reply, email, so_far)
            return _pending(serial, email, password, account_id, _answered(reply))
        url = self._client.base_url + settings.create_path
        hint = CREATE_HINT.format(role=settings.role, url=url)
        if reply.status in (400, 422):
            hint += EXISTS_HINT.format(status=reply.status)
        refuse(reply, contract.accepted_statuses, call.name, hint)
        if contract.updates_after_creation:
            account_id = self._created_id(reply, email, call)
            if reply.status not in settings.created_statuses:
                return _pending(serial, email, password, account_id, _answered(reply))
            self._update(
                email, password, account_id, "the account was created without a password: "
            )
        enrolled: Literal["created", "updated"] = (
            "created" if reply.status in settings.created_statuses else "updated"
        )
        return DeviceIdentity(serial=serial, email=email, password=password, enrolled=enrolled)

    def activate(self, identity: DeviceIdentity, hint: str = UPDATE_HINT) -> DeviceIdentity:
        """Give an existing account the password of a pending identity. Safe to repeat.

        Args:
            identity: returned as it is, if it is not pending.
            hint: what to do if the API refuses.

        Raises:
            ProvisioningError: the API could not be reached, or its answer is not the contract's.
        """
        if identity.pending is None:
            return identity
        pending = identity.pending
        so_far = f"the account exists ({pending.answer}), but " if pending.answer else ""
        self._update(identity.email, identity.password, pending.account_id, so_far, hint)
        return structs.replace(identity, pending=None)

    def renew(self, serial: str, email: str, password: Secret) -> DeviceIdentity:
        """Return an existing account's identity for :meth:`activate`, with a new password.

        The account keeps its password until then.

        An account's id is looked up if it is needed. The identity is not pending if the API has
        only one request (``upsert``), which has then set the password.

        Raises:
            ProvisioningError: the API could not be reached, or its answer is not the contract's.
        """
        contract = self._contract
        if contract.settings.upsert or (contract.needs_id and contract.lookup(email) is None):
            return self.create(serial, email, password)
        return _pending(serial, email, password, self._existing_id(None, email, ""))

    def _update(
        self, email: str, password: Secret, account_id: str, so_far: str, hint: str = UPDATE_HINT
    ) -> None:
        call = self._contract.update(email, password, account_id)
        try:
            reply = self._send(call)
        except ProvisioningError as error:
            raise ProvisioningError(error.message, hint=f"{error.hint}; {PERHAPS_HINT}") from None
        hint = hint.format(call=call.name)
        if reply.status >= 500:
            hint = f"{hint}; {PERHAPS_HINT}"
        refuse(reply, self._contract.settings.updated_statuses, so_far + call.name, hint)

    def _created_id(self, reply: Reply, email: str, call: Call) -> str:
        if not self._contract.needs_id:
            return ""
        try:
            return self._contract.created_id(reply.json(), email)
        except NoId as error:
            raise ProvisioningError(f"{call.name} gave no id: {error}", hint=ID_HINT) from None

    def _existing_id(self, reply: Reply | None, email: str, so_far: str) -> str:
        """Return the id of an existing account: looked up, or from the answer itself."""
        if not self._contract.needs_id:
            return ""
        call = self._contract.lookup(email)
        if call is not None:
            reply = self._send(call)
            refuse(reply, (200,), so_far + call.name, ID_HINT)
        try:
            return self._contract.existing_id(reply.json() if reply else None, email)
        except NoId as error:
            asked = call.name if call else "that answer"
            raise ProvisioningError(f"{so_far}{asked} gave no id: {error}", hint=ID_HINT) from None

    def _send(self, call: Call) -> Reply:
        try:
            return self._client.send(call.method, call.path, call.body)
        except Unreachable as error:
            finding = not_reached(self._contract.settings, error)
            raise ProvisioningError(finding.message, hint=finding.hint) from None

    def reach(self) -> None:
        """Connect, with the TLS handshake; send nothing.

        Raises:
            Unreachable: the API cannot be reached, or a side rejects the other's certificate.
        """
        self._client.shake_hands()


def not_reached(settings: AdminApiSettings, error: Unreachable) -> Finding:
    """Return what to tell the operator about an API that cannot be reached."""
    hint = _HINTS.get(error.kind, REACH_HINT)
    if error.kind == "client certificate":
        cert = settings.client_cert
        hint = _CLIENT_HINT.format(cert=cert) if cert else _NO_CLIENT_HINT
    message = f"{_CANNOT_REACH}{str(settings.url).removesuffix('/')}: {error}"
    return Finding(message=message, hint=error.hint(hint))


def is_not_reached(finding: Finding) -> bool:
    """Tell whether a finding is one of :func:`not_reached`."""
    return finding.message.startswith(_CANNOT_REACH)


def _pending(
    serial: str, email: str, password: Secret, account_id: str, answer: str = ""
) -> DeviceIdentity:
    return DeviceIdentity(
        serial=serial,
        email=email,
        password=password,
        enrolled="updated",
        pending=Pending(plugin=PLUGIN, account_id=account_id, answer=answer),
    )


def refuse(reply: Reply, wanted: Collection[int], request: str, hint: str) -> None:
    """Raise unless the status is one of ``wanted``; ``hint`` is the default hint.

    Raises:
        ProvisioningError: it is another one, or the answer is a web page.
    """
    if reply.status in wanted and not reply.is_web_page:
        return
    if 300 <= reply.status < 400:
        hint = "a request with a password is never redirected; set API_URL to the final address"
    elif reply.is_web_page:
        hint = "a web page answered, perhaps a login or a proxy: set API_URL to the API itself"
    elif reply.status in (401, 403):
        hint = TOKEN_HINT
    elif reply.status == 429:
        hint = "the admin API is busy: run the same command again later, or raise its limits"
    if reply.proxy is not None:
        hint = reply.proxy.hint if reply.status == 407 else f"{hint}; {reply.proxy.hint}"
    raise ProvisioningError(f"{request} answered HTTP {reply.status}: {_shown(reply)}", hint=hint)


def _answered(reply: Reply) -> str:
    """Return a status with the answer's text: not every API says "exists" by 409 alone."""
    said = reply.excerpt()
    return f"{reply.status}: {said}" if reply.body.strip(b" {}[]\r\n") else str(reply.status)


def _shown(reply: Reply) -> str:
    if 300 <= reply.status < 400:
        return f"a redirect to {where(reply.location or '')}"
    return reply.excerpt()
