"""The admin API client against real servers on loopback."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from msgspec import structs
from thorough import one_of
from world import EMAIL, SERIAL, Script

from azaion_imagebuild.admin_api.client import AdminApi
from azaion_imagebuild.errors import ProvisioningError, UsageError
from azaion_imagebuild.model import DeviceIdentity
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import AdminApiSettings

PASSWORD = "00112233445566778899aabbccddeeff"


def enroll(url: str, password: str = PASSWORD, **settings: Any) -> DeviceIdentity:
    chosen = structs.replace(AdminApiSettings(), url=url, retries=0, **settings)
    with AdminApi(chosen) as api:
        return api.enroll(SERIAL, EMAIL, Secret(password))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Remember how long a retry would have waited, instead of waiting."""
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    return waits


def test_a_new_device_gets_an_account_that_its_password_opens(
    api_url: str, accounts: Accounts
) -> None:
    identity = enroll(api_url)
    assert (identity.email, identity.enrolled) == (EMAIL, "created")
    assert [account.email for account in accounts.list()] == [EMAIL]
    assert accounts.login(EMAIL, PASSWORD)


def test_a_known_device_gets_the_new_password_and_no_second_account(
    api_url: str, accounts: Accounts
) -> None:
    enroll(api_url, "f" * 32)
    assert enroll(api_url).enrolled == "updated"
    assert len(accounts.list()) == 1
    assert accounts.login(EMAIL, PASSWORD)
    assert not accounts.login(EMAIL, "f" * 32)


def test_the_requests_are_those_of_the_runbook(scripted: Script) -> None:
    scripted.answer(409)
    scripted.answer(204, b"")
    assert enroll(scripted.url).enrolled == "updated"
    create, update = scripted.requests
    assert (create.method, create.path) == ("POST", "/users")
    assert create.json == {"email": EMAIL, "password": PASSWORD, "role": "CompanionPC"}
    assert (update.method, update.path) == ("PATCH", "/users/password")
    assert update.json == {"email": EMAIL, "password": PASSWORD}


@pytest.mark.parametrize("status", [200, 201])
def test_a_created_account_is_200_or_201(scripted: Script, status: int) -> None:
    scripted.answer(status)
    assert enroll(scripted.url).enrolled == "created"


@pytest.mark.parametrize("status", [202, 204, 400, 401, 403, 404, 422, 500])
def test_any_other_answer_to_the_post_is_an_error_with_its_check(
    scripted: Script, status: int
) -> None:
    scripted.answer(status, b"")
    with pytest.raises(ProvisioningError, match=f"POST /users answered HTTP {status}") as caught:
        enroll(scripted.url)
    assert ("CompanionPC" in caught.value.hint) == (status not in (401, 403))
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("status", [200, 204])
def test_an_updated_password_is_200_or_204(scripted: Script, status: int) -> None:
    scripted.answer(409)
    scripted.answer(status, b"")
    assert enroll(scripted.url).enrolled == "updated"


@pytest.mark.parametrize("status", [201, 404, 405, 500])
def test_any_other_answer_to_the_patch_is_an_error_with_its_check(
    scripted: Script, status: int
) -> None:
    scripted.answer(409)
    scripted.answer(status)
    with pytest.raises(ProvisioningError, match=f"exists \\(409\\), but PATCH.*{status}") as caught:
        enroll(scripted.url)
    assert "PATCH /users/password" in caught.value.hint


def test_one_trailing_slash_of_the_url_is_dropped(scripted: Script) -> None:
    scripted.answer(201)
    enroll(scripted.url + "/base/")
    assert scripted.requests[0].path == "/base/users"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_api_that_is_busy_is_tried_again(scripted: Script, status: int) -> None:
    scripted.answer(status)
    scripted.answer(201)
    settings = AdminApiSettings(url=scripted.url, retries=2)
    with AdminApi(settings) as api:
        assert api.enroll(SERIAL, EMAIL, Secret(PASSWORD)).enrolled == "created"


def test_retry_after_is_heeded_but_not_for_a_day(scripted: Script, no_waiting: list[float]) -> None:
    scripted.answer(429, Retry_After="7")
    scripted.answer(503, Retry_After="86400")
    scripted.answer(201)
    with AdminApi(AdminApiSettings(url=scripted.url, retries=3)) as api:
        api.enroll(SERIAL, EMAIL, Secret(PASSWORD))
    assert no_waiting == [7, 30]


@pytest.mark.parametrize(
    "words",
    ["1.5", "soon", "", "-1", "Mon, 99 Foo 2026", "9" * 5000, "1e9",
     "Mon, 01 Jan 99999 00:00:00 GMT", "Mon, 01 Jan 1970 00:00:00 GMT", "7, 7",
     "\xb2", "0", "Tue, 1 Jan 2030 00:00:00 +99999999"],
)  # fmt: skip
def test_a_retry_after_that_is_none_means_the_usual_backoff(
    scripted: Script, no_waiting: list[float], words: str
) -> None:
    scripted.answer(503, Retry_After=words)
    scripted.answer(503, Retry_After=words)
    scripted.answer(201)
    with AdminApi(AdminApiSettings(url=scripted.url, retries=3)) as api:
        assert api.enroll(SERIAL, EMAIL, Secret(PASSWORD)).enrolled == "created"
    assert len(no_waiting) <= 2
    assert all(0 < each <= 30 for each in no_waiting)


def test_tries_are_bounded(scripted: Script) -> None:
    scripted.answer(503, "down for maintenance")
    with (
        AdminApi(AdminApiSettings(url=scripted.url, retries=2)) as api,
        pytest.raises(ProvisioningError, match=r"503.*maintenance"),
    ):
        api.enroll(SERIAL, EMAIL, Secret(PASSWORD))
    assert len(scripted.requests) == 3


def test_a_reply_lost_after_the_post_is_healed_by_the_patch(scripted: Script) -> None:
    scripted.answer(201, None)  # carried out, but the connection broke
    scripted.answer(409)
    scripted.answer(200)
    with AdminApi(AdminApiSettings(url=scripted.url, retries=2)) as api:
        assert api.enroll(SERIAL, EMAIL, Secret(PASSWORD)).enrolled == "updated"
    assert [request.method for request in scripted.requests] == ["POST", "POST", "PATCH"]


@pytest.mark.parametrize("lost", [True, False])
def test_a_patch_that_may_have_been_carried_out_is_to_be_repeated_soon(
    scripted: Script, lost: bool
) -> None:
    scripted.answer(409)
    scripted.answer(500, None if lost else b"{}")
    with pytest.raises(ProvisioningError) as caught:
        enroll(scripted.url)
    assert "may have the new password all the same" in caught.value.hint


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(scripted: Script, status: int) -> None:
    scripted.answer(status, Location=f"{scripted.url}/elsewhere")
    with pytest.raises(ProvisioningError, match="redirect to") as caught:
        enroll(scripted.url)
    assert [request.path for request in scripted.requests] == ["/users"]
    assert "API_URL" in caught.value.hint


@pytest.mark.parametrize(
    "location",
    ["http://\xff", "http://a..b/", "http://[::1", "http://h:99999", "//", "http://" + "a" * 64,
     "\xff\xfe", "http://user:pass@h/", "http://%zz", "", "x" * 5000, "http://\u00e4\u00f6.de"],
)  # fmt: skip
def test_a_redirect_to_nowhere_is_an_error_like_any(scripted: Script, location: str) -> None:
    scripted.answer(302, Location=location)
    with pytest.raises(ProvisioningError, match=r"HTTP 302: a redirect to") as caught:
        enroll(scripted.url)
    assert caught.value.message.isprintable()
    assert "pass" not in caught.value.message
    assert len(caught.value.message) < 400


def _groups(text: str, size: int, mark: str) -> str:
    return mark.join(text[at : at + size] for at in range(0, len(text), size))


PIECES = {
    "a line break in it": PASSWORD[:16] + "\n" + PASSWORD[16:],
    "escaped line breaks": _groups(PASSWORD, 8, "\\n"),
    "short lines": _groups(PASSWORD, 6, "\\r\\n"),
    "HTML lines": _groups(PASSWORD, 4, "<br />"),
    "cut to 20 digits": PASSWORD[:20],
    "its end": PASSWORD[-9:],
    "reversed": PASSWORD[::-1],
    "in groups": _groups(PASSWORD, 4, "-"),
    "letter by letter": _groups(PASSWORD, 1, " "),
    "upper case and cut": PASSWORD[:12].upper(),
    "percent signs, cut": "".join(f"%{ord(each):02x}" for each in PASSWORD[:20]),
    "entities, cut": "".join(f"&#{ord(each)};" for each in PASSWORD[:20]),
    "unicode escapes, cut": "".join(f"\\u{ord(each):04x}" for each in PASSWORD[:20]),
    "base64": base64.b64encode(PASSWORD.encode()).decode(),
    "base32 within": base64.b32encode(f"user:{PASSWORD}!".encode()).decode(),
    "bytes": str(list(PASSWORD.encode())),
    "bytes in hexadecimal": " ".join(f"0x{each:02X}" for each in PASSWORD.encode()),
    "code points": "".join(f"\\u{{{ord(each):x}}}" for each in PASSWORD),
    "wide letters": "".join(chr(ord(each) + 0xFEE0) for each in PASSWORD),
    "base64 twice": base64.b64encode(base64.b64encode(PASSWORD.encode())).decode(),
    "octal": "".join(f"\\{each:o}" for each in PASSWORD.encode()),
    "base64 within": base64.b64encode(f"user:{PASSWORD}!".encode()).decode(),
    "hexadecimal": PASSWORD.encode().hex(),
    "UTF-16": PASSWORD[:20].encode("utf-16").decode("latin-1"),
}


@pytest.mark.parametrize("way", one_of(PIECES))
@pytest.mark.parametrize("status", one_of([409, 500]))
def test_a_password_that_the_api_echoes_in_pieces_is_not_shown(
    scripted: Script, caplog: pytest.LogCaptureFixture, way: str, status: int
) -> None:
    caplog.set_level("DEBUG")
    answer = f'{{"error": "bad value {PIECES[way]} given"}}'
    scripted.answer(status, answer.encode("latin-1" if way == "UTF-16" else "utf-8"))
    scripted.answer(500, b"")
    with pytest.raises(ProvisioningError) as caught:
        enroll(scripted.url)
    shown = caught.value.message + caplog.text
    assert "bad value" not in shown
    assert "repeats a part of a secret" in shown


def test_an_innocent_answer_is_shown_as_it_is(
    scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("azaion_imagebuild.secret._alive", WeakSet())  # none of other tests
    scripted.answer(500, "request 7f3a19bc-5566 failed in worker 2233: password too short")
    with pytest.raises(ProvisioningError, match="request 7f3a19bc-5566 failed") as caught:
        enroll(scripted.url, "fedcba98765432100f1e2d3c4b5a6978")
    assert "not shown" not in caught.value.message


@pytest.mark.parametrize("status", [400, 422])
def test_an_account_that_exists_may_be_told_by_another_status(
    scripted: Script, status: int
) -> None:
    scripted.answer(status, '{"message": "user is there"}')
    with pytest.raises(ProvisioningError, match="user is there") as caught:
        enroll(scripted.url)
    assert f"exists_statuses = [409, {status}]" in caught.value.hint


def test_where_the_update_fails_too_the_first_answer_is_told(scripted: Script) -> None:
    scripted.answer(422, '{"message": "role is not known"}')
    scripted.answer(404, '{"message": "no such user"}')
    with pytest.raises(ProvisioningError, match=r"422: .*role is not known.*404.*no such user"):
        enroll(scripted.url, exists_statuses=[409, 422])


def test_a_password_that_the_api_echoes_is_blanked_out_and_the_body_cut(scripted: Script) -> None:
    scripted.answer(500, f'{{"sent": "{PASSWORD}", "pad": "{"x" * 5000}"}}\x1b[31m')
    with pytest.raises(ProvisioningError) as caught:
        enroll(scripted.url)
    assert PASSWORD not in caught.value.message
    assert "***" in caught.value.message
    assert len(caught.value.message) < 400
    assert caught.value.message.isprintable()


def test_an_endless_body_is_not_read_to_its_end(accounts: Accounts) -> None:
    with endless_server() as url, pytest.raises(ProvisioningError, match="HTTP 500"):
        enroll(url)


def endless_server() -> Any:
    import contextlib

    @contextlib.contextmanager
    def serving() -> Iterator[str]:
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 99999999999\r\n\r\n")
                while True:
                    connection.sendall(b"x" * 65536)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()
            listener.close()

    return serving()


def test_an_api_that_is_not_there_names_what_to_check() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ProvisioningError, match="refused the connection") as caught:
        enroll(f"http://127.0.0.1:{port}")
    assert all(word in caught.value.hint for word in ("DNS", "VPN", "firewall", "trailing slash"))


def test_an_unknown_name_says_so() -> None:
    with pytest.raises(ProvisioningError, match="not known to DNS"):
        enroll("http://admin.invalid")


def test_a_server_that_never_answers_ends_at_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ProvisioningError, match="did not answer in time"):
            enroll(url, read_timeout=0.2)


def test_a_server_that_speaks_no_tls_is_told_apart(scripted: Script) -> None:
    scripted.answer(200)
    with pytest.raises(ProvisioningError, match="TLS failed") as caught:
        enroll(scripted.url.replace("http:", "https:"))
    assert "http://" in caught.value.hint


def test_the_token_goes_in_its_header_from_a_file_or_a_variable(
    scripted: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.answer(201)
    token = tmp_path / "token"
    token.write_text("token-from-file\n")
    enroll(scripted.url, token_file=token)
    monkeypatch.setenv("SITE_TOKEN", "token-from-variable")
    enroll(scripted.url, token_env="SITE_TOKEN", token_header="X-Api-Key", token_scheme="")
    first, second = scripted.requests
    assert first.headers["Authorization"] == "Bearer token-from-file"
    assert second.headers["X-Api-Key"] == "token-from-variable"


def test_a_byte_order_mark_is_not_part_of_the_token(scripted: Script, tmp_path: Path) -> None:
    scripted.answer(201)
    token = tmp_path / "token"
    token.write_bytes(b"\xef\xbb\xbftoken-from-windows\r\n")
    enroll(scripted.url, token_file=token)
    assert scripted.requests[0].headers["Authorization"] == "Bearer token-from-windows"


@pytest.mark.parametrize(
    "content", ["", "\ufefftwo words", "two\ufeff", "two words", "line\nX-Evil: 1", "über"]
)
def test_a_token_that_is_no_token_is_refused_unseen(tmp_path: Path, content: str) -> None:
    token = tmp_path / "token"
    token.write_text(content)
    with pytest.raises(UsageError, match="no usable token") as caught:
        enroll("http://127.0.0.1:1", token_file=token)
    assert not content or content not in caught.value.message


def test_a_netrc_of_the_user_adds_no_credentials(
    scripted: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.answer(201)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    enroll(scripted.url)
    assert "Authorization" not in scripted.requests[0].headers


def test_another_contract_is_spoken_when_configured(scripted: Script) -> None:
    scripted.answer(409)
    scripted.answer(200)
    enroll(
        scripted.url,
        create_path="/api/devices",
        update_path="/api/devices/secret",
        update_method="PUT",
        email_field="mail",
        password_field="secret",
        role_field="kind",
        role="Jetson",
        headers={"X-Site": "plant 3"},
    )
    create, update = scripted.requests
    assert create.json == {"mail": EMAIL, "secret": PASSWORD, "kind": "Jetson"}
    assert (update.method, update.path) == ("PUT", "/api/devices/secret")
    assert update.headers["X-Site"] == "plant 3"


@pytest.mark.parametrize(
    "url",
    [
        "admin.example.com",
        "ftp://x",
        "http://",
        "http://h:99999",
        "http://[::1",
        "https://h/?a=b",
        "http://h h",
        "http://h\n.evil",
        "//host",
        "",
        "http://a..b",
        "http://.example.com",
        f"http://{'a' * 64}.example.com",
        f"http://{'a.' * 127}com",
        f"http://{'ä' * 60}.example.com",
        "http://-a.example.com",
        "http://a%20b.example.com",
        "http://exa\u2260mple$.com",
        "http://[fe80::zz]",
        "http://[127.0.0.1]",
    ],
)
def test_a_url_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="is not an http or https URL"):
        enroll(url)


def test_a_url_with_a_password_in_it_is_refused_unseen() -> None:
    with pytest.raises(UsageError, match="user name or password") as caught:
        enroll("https://admin:hunter22@admin.example.com")
    assert "hunter22" not in caught.value.message


def test_a_header_with_a_line_break_is_refused() -> None:
    with pytest.raises(UsageError, match="headers"):
        enroll("http://127.0.0.1:1", headers={"X-Site": "a\r\nX-Evil: 1"})


def test_a_slow_body_does_not_outlast_the_read_timeout() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n{")
            threading.Event().wait(0.6)  # time.sleep is replaced here

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with pytest.raises(ProvisioningError, match="did not answer in time"):
            enroll(f"http://127.0.0.1:{listener.getsockname()[1]}", read_timeout=0.2)
    finally:
        thread.join()
        listener.close()
