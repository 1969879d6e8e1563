"""Little admin APIs with other contracts than the runbook's: real servers, strict about bodies."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from serving import served
from world import SERIAL

Answer = tuple[int, Any]


@dataclass
class Api:
    """The accounts of a served API, by e-mail address, and what it was asked."""

    url: str = ""
    accounts: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def add(self, email: str, password: str | None) -> dict[str, str]:
        number = len(self.accounts)
        # An id that must be quoted in a path.
        self.accounts[email] = {"id": f"usr:{number}+a=", "email": email}
        if password is not None:
            self.accounts[email]["password"] = password
        return self.accounts[email]


def upsert(api: Api, method: str, path: str, body: Any) -> Answer:
    """PUT /devices/{email}: templates/admin-api-upsert.toml."""
    folder, _, quoted = path.rpartition("/")
    if folder != "/devices":
        return 404, {"error": "no such path"}
    if method != "PUT":
        return 405, {}
    match body:
        case {"credentials": {"password": str(password)}, "role": "CompanionPC"} if len(body) == 2:
            email = unquote(quoted)
            new = email not in api.accounts
            api.add(email, password)
            return (201, {}) if new else (200, {})
    return 422, {"error": "credentials.password and role are needed"}


def by_id(api: Api, method: str, path: str, body: Any) -> Answer:
    """POST /users, GET /users?email=, PUT /users/{id}/password: templates/admin-api-by-id.toml."""
    parts = urlsplit(path)
    names = parts.path.split("/")[1:]
    if names == ["users"] and method == "GET":
        wanted = parse_qs(parts.query)["email"][0]
        found = [dict(each) for each in api.accounts.values() if wanted[:15] in each["email"]]
        for each in found:
            each.pop("password", None)
        return 200, {"items": found}  # everybody who looks alike: the client must choose
    if names == ["users"] and method == "POST":
        return _created(api, body)
    if len(names) == 3 and names[0] == "users" and names[2] == "password" and method == "PUT":
        account = next((a for a in api.accounts.values() if a["id"] == unquote(names[1])), None)
        if account is None:
            return 404, {"error": "no such user"}
        if not isinstance(body, dict) or set(body) != {"password"}:
            return 422, {"error": "password is needed, and nothing else"}
        account["password"] = body["password"]
        return 204, None
    return 404, {"error": "no such path"}


def _created(api: Api, body: Any) -> Answer:
    if not isinstance(body, dict) or set(body) - {"password"} != {"email", "role"}:
        return 422, {"error": "email and role are needed"}
    if body["email"] in api.accounts:
        account_id = api.accounts[body["email"]]["id"]
        return 409, {"error": "it exists", "existing": {"id": account_id}}
    return 201, {"id": api.add(body["email"], body.get("password"))["id"]}


def token(length: int = 900) -> str:
    """Return what looks like a JWT: three parts of base64url, of another length each time."""
    part = secrets.token_urlsafe(length)[: length // 3 + secrets.randbelow(8)]
    return f"eyJ{part}.{part}.{part}"


def issuing(form: Callable[[], str]) -> Callable[[Api, str, str, Any], Answer]:
    """POST /devices/SERIAL/credentials: docs/how-to/issued-credentials.md."""

    def answer(api: Api, method: str, path: str, body: Any) -> Answer:
        if (method, path) == ("POST", f"/devices/{SERIAL}/credentials"):
            status = 200 if body["email"] in api.accounts else 201
            return status, {"token": api.add(body["email"], form())["password"]}
        if (method, path) == ("POST", "/login"):
            known = api.accounts.get(body["email"], {}).get("password") == body["password"]
            return (200, {"status": "ok"}) if known else (401, {})
        return 404, {}

    return answer


@contextlib.contextmanager
def serving(answer: Callable[[Api, str, str, Any], Answer]) -> Iterator[Api]:
    """Serve an API on loopback."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            api.requests.append(f"{self.command} {self.path}")
            status, content = answer(api, self.command, self.path, json.loads(data or b"null"))
            payload = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PATCH = do_PUT = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.url = f"http://127.0.0.1:{server.server_address[1]}"
        with served(server):
            yield api
