import copy
import json
import pickle
import traceback

import pytest
from msgspec import structs

from azaion_imagebuild.model import DeviceIdentity
from azaion_imagebuild.secret import Secret, redact

VALUE = "0123456789abcdef"


def test_a_secret_shows_itself_in_no_text() -> None:
    secret = Secret(VALUE)
    identity = DeviceIdentity(serial="A-1", email="e", password=secret, enrolled="created")
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>40}",
        "%s" % secret,  # noqa: UP031
        repr(identity),
        str(structs.asdict(identity)),
        repr(copy.deepcopy(identity)),
    ]
    assert not [text for text in shown if VALUE in text]
    assert secret.reveal() == VALUE


def test_a_secret_cannot_be_written_by_json_or_pickle() -> None:
    with pytest.raises(TypeError):
        json.dumps(Secret(VALUE))
    with pytest.raises(TypeError):
        pickle.dumps(Secret(VALUE))


def test_secrets_compare_by_value() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret("other")
    assert Secret(VALUE) != VALUE


def test_a_traceback_through_a_secret_does_not_show_it() -> None:
    secret = Secret(VALUE)
    try:
        raise ValueError(f"bad {secret}")
    except ValueError:
        assert VALUE not in traceback.format_exc()


def test_the_values_of_living_secrets_are_redacted() -> None:
    secret = Secret(VALUE)
    assert redact(f"got {VALUE}!") == "got ***!"
    del secret
    assert redact("innocent") == "innocent"
