"""The published schema of a record: complete, and strict where others rely on it.

Every record that a test reads from a command is held to it, too (``check_records``).
"""

from __future__ import annotations

import json
from typing import Any

import fastjsonschema
import pytest
from thorough import one_of
from world import SERIAL, Run, check_records, record_schema

from azaion_imagebuild.model import RECORD_FIELDS
from azaion_imagebuild.shipped import shipped

PAGE = shipped("templates").parent / "docs/reference/record.schema.json"


@pytest.fixture
def record(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run("image", "--serial", SERIAL, "--json").json
    return found


def test_it_has_every_field_of_a_record_and_no_other() -> None:
    schema = json.loads(PAGE.read_text())
    assert set(schema["properties"]) == set(RECORD_FIELDS)
    assert set(schema["required"]) <= set(RECORD_FIELDS)


@pytest.mark.parametrize(
    ("field", "wrong"),
    one_of(
        [
            ("outcome", "maybe"),
            ("sandbox", 1),
            ("image_sha256", "abc"),
            ("proof", "yes"),
            ("flashed", None),
            ("seconds", -1),
            ("ledger", {"row": 0, "hash": "0" * 64}),
            ("device_conf", {"path": "/etc/azaion/device.conf", "mode": "600", "uid": 0, "gid": 0}),
            ("outcome", "failed"),  # without step, error, hint and exit_code
        ]
    ),
)
def test_a_wrong_record_does_not_fit(record: dict[str, Any], field: str, wrong: object) -> None:
    check_records(record)
    with pytest.raises(fastjsonschema.JsonSchemaException):
        record_schema()(record | {field: wrong})
    without = {name: value for name, value in record.items() if name != "flashed"}
    with pytest.raises(fastjsonschema.JsonSchemaException):
        record_schema()(without)


def test_a_failure_and_a_fleet_fit(run: Run) -> None:
    failed = run("image", "--serial", SERIAL, "--json", "--loader-url", "x")
    assert failed.code == 2  # no attempt was begun: no record
    fleet = run("fleet", "AZJN-0101..AZJN-0102", "--out", "images", "--json").json
    assert len(fleet["records"]) == 2
    check_records(fleet)
