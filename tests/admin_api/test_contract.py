"""Admin APIs with other contracts: what is asked, which id is believed, which settings fit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import admin_apis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thorough import one_of
from world import EMAIL, SERIAL, Run, Script

from azaion_imagebuild import images
from azaion_imagebuild.admin_api import contract
from azaion_imagebuild.admin_api.account_id import NoId, find_id
from azaion_imagebuild.admin_api.client import AdminApi
from azaion_imagebuild.admin_api.contract import Contract, of_the_runbook
from azaion_imagebuild.config.loading import keys, load
from azaion_imagebuild.errors import ProvisioningError, UsageError
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import AdminApiSettings
from azaion_imagebuild.shipped import shipped

PASSWORD = "00112233445566778899aabbccddeeff"
OTHER = "azaion-jetson-00420@azaion.com"
EXAMPLES = {
    "admin-api-upsert.toml": admin_apis.upsert,
    "admin-api-by-id.toml": admin_apis.by_id,
}
BY_ID: dict[str, Any] = {
    "update_method": "PUT",
    "update_path": "/users/{id}/password",
    "update_fields": ["password"],
}


def enroll(url: str, **settings: Any) -> str:
    with AdminApi(AdminApiSettings(url=url, retries=0, **settings)) as api:
        return api.enroll(SERIAL, EMAIL, Secret(PASSWORD)).enrolled


def template(name: str) -> Path:
    return shipped("templates") / name


# The two worked examples, and whole builds with them.


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_whole_configuration(name: str) -> None:
    settings = load({}, {}, template(name)).admin_api
    assert settings.url is not None
    Contract.of(settings)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_provisions_twice_and_leaves_one_account(
    run: Run, rootfs_dir: Path, name: str
) -> None:
    with admin_apis.serving(EXAMPLES[name]) as api:
        api.add(OTHER, "not to be touched")
        for enrolled in ("created", "updated"):
            ran = run("provision", "--serial", SERIAL, "--config", template(name),
                      "--api-url", api.url, "--rootfs-dir", rootfs_dir, "--json")  # fmt: skip
            assert ran.code == 0, ran.err
            assert ran.json["account"] == enrolled
            conf = device_conf.parse((rootfs_dir / DEVICE_CONF).read_bytes())
            assert api.accounts[EMAIL]["password"] == conf.password.reveal()
    assert set(api.accounts) == {OTHER, EMAIL}
    assert api.accounts[OTHER]["password"] == "not to be touched"


@pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")
@pytest.mark.parametrize("name", one_of(EXAMPLES))
def test_an_example_builds_a_whole_image(run: Run, bsp: Path, name: str) -> None:
    with admin_apis.serving(EXAMPLES[name]) as api:
        for enrolled in ("created", "updated"):
            ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--config", template(name),
                      "--api-url", api.url, "--keep-image", "--json")  # fmt: skip
            assert ran.code == 0, ran.err
            assert ran.json["account"] == enrolled
            entry = images.read_file(Path(ran.json["image"]), DEVICE_CONF, device_conf.LONGEST)
            assert entry is not None
            password = device_conf.parse(entry.data).password.reveal()
            assert api.accounts[EMAIL]["password"] == password


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_sandbox_speaks_the_runbooks_contract_whatever_is_configured(
    run: Run, name: str
) -> None:
    text = template(name).read_text()
    Path("imagebuild.toml").write_text(text.replace('url = "', '#url = "'))
    ran = run("image", "--serial", SERIAL, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["sandbox"] is True


def test_the_runbooks_contract_keeps_how_the_api_is_reached() -> None:
    reached = {"url": "http://h", "token_env": "T", "headers": {"a": "b"}, "retries": 1}
    settings = AdminApiSettings(upsert=True, role="Other", **reached)  # type: ignore[arg-type]
    assert of_the_runbook(settings) == AdminApiSettings(**reached)  # type: ignore[arg-type]


def test_every_key_of_the_contract_is_documented() -> None:
    text = (shipped("templates").parent / "docs/how-to/admin-api.md").read_text()
    reached = set(contract.HOW_IT_IS_REACHED)
    for key in keys():
        if key.section == "admin_api" and key.name not in reached | {"role"}:
            assert f"`{key.name}`" in text, key


# What is asked.


def test_an_upsert_is_one_request(scripted: Script) -> None:
    upsert: dict[str, Any] = {
        "upsert": True,
        "create_method": "PUT",
        "create_path": "/devices/{email}",
        "create_fields": ["password"],
        "created_statuses": [201],
    }
    for status, enrolled in ((201, "created"), (200, "updated"), (204, "updated")):
        scripted.answers.clear()
        scripted.answer(status, "" if status == 204 else "{}")
        assert enroll(scripted.url, **upsert) == enrolled
    assert {f"{each.method} {each.path}" for each in scripted.requests} == {
        "PUT /devices/azaion-jetson-0042%40azaion.com"
    }
    assert scripted.requests[0].json == {"password": PASSWORD}
    assert len(scripted.requests) == 3
    scripted.answers.clear()
    scripted.answer(404)
    with pytest.raises(ProvisioningError, match=r"PUT /devices/\{email\} answered HTTP 404"):
        enroll(scripted.url, **upsert)


def test_an_id_out_of_the_409_itself_is_taken_where_no_lookup_is_configured() -> None:
    with admin_apis.serving(admin_apis.by_id) as api:
        api.add(EMAIL, "old")
        assert enroll(api.url, existing_id_field="existing.id", **BY_ID) == "updated"
    assert api.accounts[EMAIL]["password"] == PASSWORD
    assert api.requests == ["POST /users", "PUT /users/usr%3A0%2Ba%3D/password"]


def test_a_password_that_creating_leaves_open_is_set_by_the_new_id() -> None:
    with admin_apis.serving(admin_apis.by_id) as api:
        assert enroll(api.url, create_fields=["email", "role"], **BY_ID) == "created"
    assert api.accounts[EMAIL]["password"] == PASSWORD
    assert len(api.requests) == 2


def test_a_lookup_chooses_the_account_of_exactly_this_address() -> None:
    with admin_apis.serving(admin_apis.by_id) as api:
        for email in (OTHER, EMAIL, f"x{EMAIL}"):
            api.add(email, "old")
        lookup = {"lookup_path": "/users?email={email}", "existing_id_field": "items.id"}
        assert enroll(api.url, **lookup, **BY_ID) == "updated"
    assert [account["password"] for account in api.accounts.values()] == ["old", PASSWORD, "old"]
    assert api.requests[1] == "GET /users?email=azaion-jetson-0042%40azaion.com"


def test_other_statuses_and_nested_fields_are_spoken(scripted: Script) -> None:
    scripted.answer(422)
    scripted.answer(202)
    enrolled = enroll(
        scripted.url,
        exists_statuses=[409, 422],
        updated_statuses=[202],
        create_fields=["email", "password"],
        email_field="user.mail",
        password_field="user.credentials.password",
    )
    assert enrolled == "updated"
    body = {"user": {"mail": EMAIL, "credentials": {"password": PASSWORD}}}
    assert [each.json for each in scripted.requests] == [body, body]


# What is answered is not trusted.


def one(**fields: Any) -> str:
    return json.dumps({"items": [{"email": EMAIL, **fields}]})


LOOKUPS: dict[str, tuple[str, str]] = {
    "an id that leads upwards": (one(id=".."), "is not a valid id"),
    "an id with a slash": (one(id="7/../8"), "is not a valid id"),
    "an id with a line break": (one(id="7\n"), "is not a valid id"),
    "an empty id": (one(id=""), "is not a valid id"),
    "a long id": (one(id="7" * 129), "is not a valid id"),
    "a huge number": (one(id=10**200), "is not a valid id"),
    "a truth": (one(id=True), "is not a valid id"),
    "a fraction": (one(id=7.5), "is not a valid id"),
    "a list": (one(id=[7]), "is not a valid id"),
    "other letters": (one(id="٧"), "is not a valid id"),
    "no id": (one(), "has no field items.id"),
    "nobody": ('{"items": []}', "no entries"),
    "somebody else": (f'{{"items": [{{"id": 7, "email": "{OTHER}"}}]}}', "no entries"),
    "nobody's name": ('{"items": {"id": 7}}', "does not show email"),
    "somebody else alone": (f'{{"items": {{"id": 7, "email": "{OTHER}"}}}}', "another e-mail"),
    "two of that name": (
        json.dumps({"items": [{"id": each, "email": EMAIL} for each in (7, 8)]}), "2 entries",
    ),
    "a text": ('"items"', "has no field"),
    "no JSON": ("items", "is not JSON"),
    "a deep nest": ("[" * 60_000, "is not JSON"),
    "more than is read": ('{"items": [' + one(id=7) + " " * 70_000 + "]}", "up to 64 KiB"),
    "an endless number": ('{"items": ' + "1" * 60_000, "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LOOKUPS)
def test_a_lookup_that_lies_sets_nobodys_password(scripted: Script, lie: str) -> None:
    body, words = LOOKUPS[lie]
    scripted.answer(409)
    scripted.answer(200, body)
    with pytest.raises(ProvisioningError, match=r"the account exists \(409\), but GET") as caught:
        enroll(scripted.url, lookup_path="/users?e={email}", existing_id_field="items.id", **BY_ID)
    assert words in caught.value.message
    assert "existing_id_field" in caught.value.hint
    assert len(caught.value.message) < 400
    assert caught.value.message.isprintable()
    assert [each.method for each in scripted.requests] == ["POST", "GET"]


@pytest.mark.parametrize("status", [201, 401, 404, 500])
def test_a_lookup_that_fails_says_so(scripted: Script, status: int) -> None:
    scripted.answer(409)
    scripted.answer(status)
    with pytest.raises(ProvisioningError, match=f"GET .* answered HTTP {status}"):
        enroll(scripted.url, lookup_path="/users?e={email}", **BY_ID)
    assert len(scripted.requests) == 2


def test_an_answer_of_another_account_gives_no_id(scripted: Script) -> None:
    scripted.answer(409, f'{{"id": 7, "email": "{OTHER}"}}')
    with pytest.raises(ProvisioningError, match=r"that answer gave no id: .*another e-mail"):
        enroll(scripted.url, **BY_ID)
    scripted.answers.clear()
    scripted.answer(201, '{"data": {}}')
    with pytest.raises(ProvisioningError, match=r"POST /users gave no id: .*no field data.id"):
        enroll(scripted.url, create_fields=["email"], id_field="data.id", **BY_ID)


def test_the_address_is_compared_without_regard_to_case(scripted: Script) -> None:
    scripted.answer(409)
    scripted.answer(200, json.dumps([{"id": 7, "email": EMAIL.upper()}]))
    scripted.answer(200)
    assert enroll(scripted.url, lookup_path="/users/{email}", **BY_ID) == "updated"
    assert scripted.requests[2].path == "/users/7/password"


answers = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9) | st.just(EMAIL),
    lambda each: (
        st.lists(each, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "items", "email", "x"]), each, max_size=4)
    ),
    max_leaves=20,
)


@given(answers, st.sampled_from(["id", "items.id", "items.items.id", "x"]))
def test_whatever_is_answered_an_id_is_safe_in_a_path(answer: Any, path: str) -> None:
    try:
        account_id, _ = find_id(answer, path, EMAIL, "email")
    except NoId:
        return
    assert account_id.isascii()
    assert account_id.isprintable()
    assert not set(account_id) & set("/?#%\\ ")
    assert account_id.strip(".")


# Settings that make no contract.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"create_path": "users"}, "does not begin with a slash"),
        ({"update_path": "users"}, "does not begin with a slash"),
        ({"create_path": "/users/{id}"}, "create_path '/users/{id}' is not a valid path"),
        ({"update_path": "/users/{name}"}, "is not a valid path"),
        ({"update_path": "/users/{id"}, "is not a valid path"),
        ({"update_path": "/users/a b"}, "is not a valid path"),
        ({"lookup_path": "/users#{email}"}, "is not a valid path"),
        ({"create_path": "/ü"}, "is not a valid path"),
        ({"create_fields": ["password", "role"]}, "name no account"),
        ({"update_fields": ["password"]}, "name no account"),
        ({"create_fields": ["email", "token"]}, "is unknown"),
        ({"create_fields": ["email", "email"]}, "is unknown"),
        ({"update_fields": ["email"]}, "has no password"),
        ({"email_field": "user", "password_field": "user.password"}, "is twice"),
        ({"email_field": "user.a", "password_field": "user"}, "is twice"),
        ({"role_field": "email"}, "is twice"),
        ({"created_statuses": []}, "is empty"),
        ({"exists_statuses": [200, 409]}, "status 200 means two things"),
        ({"upsert": True}, "with upsert, status 200 means two things"),
    ],
)
def test_settings_that_do_not_fit_together_are_a_usage_error(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Contract.of(AdminApiSettings(**settings))
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["created_statuses = [302]", "created_statuses = ['x']",
                                  "exists_statuses = 409", "create_method = 'DELETE'"])  # fmt: skip
def test_what_is_no_status_and_no_method_is_refused(text: str) -> None:
    Path("imagebuild.toml").write_text(f"[admin_api]\n{text}\n")
    with pytest.raises(UsageError):
        load({}, {}, None)


def test_lists_of_statuses_can_be_variables() -> None:
    variable = "AZAION_IMAGEBUILD_ADMIN_API_CREATED_STATUSES"
    assert load({}, {variable: "201 202"}, None).admin_api.created_statuses == [201, 202]


def test_a_password_is_not_in_the_repr_of_a_request() -> None:
    call = Contract.of(AdminApiSettings()).create(EMAIL, Secret(PASSWORD))
    assert PASSWORD not in repr(call)
