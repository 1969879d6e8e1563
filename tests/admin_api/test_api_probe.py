"""``doctor --api``: a live admin API against its contract; no account is made or changed."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import admin_apis
import pytest
from admin_apis import Answer, Api
from thorough import one_of
from world import EMAIL, Run, Script

from azaion_imagebuild.admin_api.probe import probe
from azaion_imagebuild.identity.serial import parse_serial
from azaion_imagebuild.model import Finding
from azaion_imagebuild.sandbox import Accounts, Sandbox
from azaion_imagebuild.settings import AdminApiSettings
from azaion_imagebuild.shipped import shipped


def found(url: str, **settings: Any) -> list[Finding]:
    return probe(AdminApiSettings(url=url, **settings))


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    assert finding.message.isprintable()
    return finding


def runbook(*, users: int = 422, password: int = 404, elsewhere: int = 404) -> Any:
    """An API of the runbook that answers like this, and nothing better to any request."""

    def answer(api: Api, method: str, path: str, body: Any) -> Answer:
        if (method, path) == ("POST", "/users"):
            return users, {"error": "what is this?"}
        if (method, path) == ("PATCH", "/users/password"):
            return password, {"error": "no such user"}
        return elsewhere, {"error": f"no such path {path}", "time": "2026-01-02T03:04:05"}

    return answer


# APIs that keep their contract.


def test_an_api_of_the_runbook_is_found_well_and_has_no_account_more(
    api_url: str, accounts: Accounts
) -> None:
    accounts.create(EMAIL, "its own password", "CompanionPC")
    assert found(api_url) == []
    assert [account.email for account in accounts.list()] == [EMAIL]
    assert accounts.login(EMAIL, "its own password")


@pytest.mark.parametrize(
    ("name", "answer", "requests"),
    [
        ("admin-api-upsert.toml", admin_apis.upsert, ["PUT"]),
        ("admin-api-by-id.toml", admin_apis.by_id, ["POST", "GET", "PUT", "PUT"]),
    ],
)
def test_the_examples_are_found_well_and_change_nothing(
    run: Run, name: str, answer: Any, requests: list[str]
) -> None:
    with admin_apis.serving(answer) as api:
        api.add(EMAIL, "its own password")
        config = shipped("templates") / name
        ran = run("doctor", "--api", "--config", config, "--api-url", api.url, "--json")
    assert ran.code == 0, ran.err
    assert [each["severity"] for each in ran.json["findings"]] == ["warning"]  # no BSP
    assert set(api.accounts) == {EMAIL}
    assert api.accounts[EMAIL]["password"] == "its own password"
    assert [each.split()[0] for each in api.requests] == requests
    assert ran.err.count("admin API: ") == len(requests)  # what was asked is told


def test_no_request_could_make_an_account_and_no_device_has_the_address(scripted: Script) -> None:
    scripted.answer(422)
    scripted.answer(404, '{"error": "no such user"}')
    scripted.answer(404, '{"error": "no such path"}')
    assert found(scripted.url) == []
    create, update, elsewhere = scripted.requests
    assert create.json == []
    assert elsewhere.json == []
    assert set(update.json) == {"email", "password"}
    word = update.json["email"].partition("azaion-jetson-")[2].partition("@")[0]
    assert word.startswith("doctor-")
    assert elsewhere.path == f"/{word}"
    serial = parse_serial(f"AZJN-{word}")  # its last segment alone names the account
    assert serial.rpartition("-")[2] != word


def test_an_upsert_is_never_sent_a_password(scripted: Script) -> None:
    scripted.answer(400)
    upsert = {"upsert": True, "create_path": "/devices/{email}", "created_statuses": [201]}
    assert found(scripted.url, **upsert) == []
    (request,) = scripted.requests
    assert request.json == []


def test_the_doctor_asks_the_api_only_when_told(run: Run, tmp_path: Path) -> None:
    assert "admin API: " not in run("doctor").err
    ran = run("doctor", "--api")  # of the sandbox
    assert ran.code == 0, ran.err
    assert "admin API: POST /users with no account in it: HTTP 400" in ran.err
    assert Sandbox(tmp_path / "state/azaion-imagebuild/sandbox").accounts.list() == []


# APIs that do not.


@pytest.mark.parametrize(
    ("statuses", "words", "hint"),
    one_of(
        [
            ({"users": 404}, "POST /users answered HTTP 404", "create_path"),
            ({"users": 405}, "POST /users answered HTTP 405", "create_method"),
            ({"users": 401}, "with no account in it answered HTTP 401", "token"),
            ({"users": 201}, "as if there were such an account", "remove it"),
            ({"users": 307}, "a redirect to", "API_URL"),
            ({"users": 503}, "HTTP 503", "logs"),
            ({"users": 429}, "HTTP 429", "busy"),
            ({"users": 500}, "HTTP 500", "not a JSON object"),
            ({"password": 405}, "PATCH /users/password answered HTTP 405", "implement or enable"),
            ({"password": 501}, "PATCH /users/password answered HTTP 501", "implement or enable"),
            ({"password": 403}, "PATCH /users/password answered HTTP 403", "token"),
            ({"password": 200}, "as if there were such an account", "azaion-jetson-doctor-"),
            ({"password": 204}, "as if there were such an account", "remove it"),
            ({"password": 422}, "did not like the body: HTTP 422", "_field"),
            ({"password": 500}, "PATCH /users/password answered HTTP 500", "logs"),
        ]
    ),
)
def test_an_api_that_differs_is_told_where(statuses: dict[str, int], words: str, hint: str) -> None:
    with admin_apis.serving(runbook(**statuses)) as api:
        finding = only(found(api.url))
    assert words in finding.message
    assert hint in finding.hint
    doubtful = statuses in ({"users": 500}, {"password": 422})
    assert finding.severity == ("warning" if doubtful else "error")


def test_a_404_of_the_path_is_told_from_a_404_of_the_account() -> None:
    def answer(api: Api, method: str, path: str, body: Any) -> Answer:
        if (method, path) == ("POST", "/users"):
            return 400, {}
        return 404, {"error": f"Cannot {method} {path}", "id": f"req-{len(api.requests):08x}"}

    with admin_apis.serving(answer) as api:
        finding = only(found(api.url))
    assert finding.message == "PATCH /users/password answers HTTP 404, as a path that is not there"
    assert "implement or enable PATCH /users/password" in finding.hint


def test_a_path_below_another_is_compared_with_its_neighbours(scripted: Script) -> None:
    for status in (400, 404, 404):
        scripted.answer(status)
    paths = {"create_path": "/api/v1/users", "update_path": "/api/v1/users/password"}
    assert only(found(scripted.url + "/base", **paths))
    assert scripted.requests[2].path.startswith("/base/api/v1/doctor-")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, "{}", "answered HTTP 404"),  # as the path that is not there
        (500, "{}", "answered HTTP 500"),
        (200, "[" + " " * 70_000, "up to 64 KiB"),
        (200, "<html>", "<html>"),
    ],
)
def test_a_lookup_that_cannot_be_used_is_told(
    scripted: Script, status: int, body: str, words: str
) -> None:
    scripted.answer(400)
    scripted.answer(status, body)
    scripted.answer(404)
    scripted.answer(400)
    by_id = {"update_path": "/users/{id}", "lookup_path": "/users?email={email}"}
    findings = found(scripted.url, **by_id)
    assert words in findings[0].message
    assert "GET /users?email={email}" in findings[0].message


def test_a_lookup_that_finds_what_cannot_be_there_is_suspicious() -> None:
    def answer(api: Api, method: str, path: str, body: Any) -> Answer:
        email = path.partition("=")[2].replace("%40", "@")
        return (200, [{"id": 7, "email": email}]) if method == "GET" else (400, {})

    by_id = {"update_path": "/users/{id}", "lookup_path": "/users?email={email}"}
    with admin_apis.serving(answer) as api:
        finding = only(found(api.url, **by_id))
    assert "as if there were such an account" in finding.message


@pytest.mark.parametrize("status", [200, 404])
def test_a_web_page_is_no_api(scripted: Script, status: int) -> None:
    scripted.answer(status, "<html>Welcome</html>")
    findings = found(scripted.url)
    assert "<html>Welcome</html>" in findings[0].message


def test_a_server_that_is_not_there_is_told_once(run: Run, bsp: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    ran = run("doctor", "--api", "--api-url", f"http://127.0.0.1:{port}", "--json")
    assert ran.code == 3
    assert [line for line in ran.errors if "cannot reach the admin API" in line] == ran.errors
    assert len(ran.errors) == 1
    with_bsp = run("doctor", "--api", "--api-url", f"http://127.0.0.1:{port}", "--bsp", bsp)
    assert sum("cannot reach the admin API" in line for line in with_bsp.errors) == 1


def test_a_connection_that_breaks_keeps_what_was_found_before(scripted: Script) -> None:
    scripted.answer(404)
    scripted.answer(200, None)
    creation, broken = found(scripted.url)
    assert "POST /users answered HTTP 404" in creation.message
    assert "the connection broke" in broken.message


def test_a_server_without_tls_is_told(scripted: Script) -> None:
    scripted.answer(200)
    finding = only(found(scripted.url.replace("http:", "https:")))
    assert "TLS failed" in finding.message
    assert "http://" in finding.hint


def test_wrong_settings_are_told_before_anything_is_asked(scripted: Script) -> None:
    finding = only(found(scripted.url, update_fields=[]))
    assert "[admin_api]" in finding.message
    finding = only(found(scripted.url, token_env="NOT_SET_AT_ALL"))
    assert "no usable token" in finding.message
    assert scripted.requests == []


def test_the_token_and_the_thrown_away_password_are_shown_nowhere(
    run: Run, scripted: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("token-that-nobody-may-see")
    monkeypatch.setenv("AZAION_IMAGEBUILD_ADMIN_API_TOKEN_FILE", str(token))
    scripted.answer(400)
    scripted.answer(500, "you sent token-that-nobody-may-see")
    ran = run("doctor", "--api", "--api-url", scripted.url, "--json")
    assert ran.code == 3
    assert "you sent ***" in ran.err
    password = scripted.requests[1].json["password"]
    seen = ran.err + json.dumps(ran.json)
    assert "token-that-nobody" not in seen
    assert password not in seen
    assert scripted.requests[0].headers["Authorization"] == "Bearer token-that-nobody-may-see"
