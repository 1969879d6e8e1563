"""Plain Python: what the package names works, by the settings' names, and raises what is wrong."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import azaion_imagebuild
from azaion_imagebuild import OperatorError
from azaion_imagebuild.config.loading import keys
from azaion_imagebuild.errors import ExitCode
from azaion_imagebuild.operations import python_api
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.sandbox.admin_api import admin_api
from azaion_imagebuild.sandbox.loader import loader

SERIAL = "AZJN-0042"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_everything_that_the_package_names_is_there_and_documented() -> None:
    page = (Path(azaion_imagebuild.__file__).parent.parent / "docs/reference/python.md").read_text()
    assert set(azaion_imagebuild.__all__) <= set(dir(azaion_imagebuild))
    for name in azaion_imagebuild.__all__:
        assert getattr(azaion_imagebuild, name) is not None
        assert name == "hookimpl" or re.search(rf"\b{name}\b", page), name
    with pytest.raises(AttributeError, match="no attribute 'build_imag'"):
        azaion_imagebuild.build_imag  # noqa: B018 - its attribute is the test


def test_an_image_is_built_stamped_and_verified() -> None:
    told: list[str] = []
    record = azaion_imagebuild.build_image(
        SERIAL, flash=False, watcher=lambda event: told.append(event.name)
    )
    assert (record.exit_code, record.build.flash, told[0]) == (0, False, "began")
    assert record.image is not None
    built = record.image.path
    assert azaion_imagebuild.verify(str(built), SERIAL).email == "azaion-jetson-0042@azaion.com"
    stamped = azaion_imagebuild.stamp(built, "AZJN-0043", out="other.img", replace=True)
    assert stamped.as_json()["outcome"] == "done"
    assert azaion_imagebuild.verify("other.img", "AZJN-0043").findings == ()


def test_a_device_conf_is_stamped_without_an_account(tmp_path: Path) -> None:
    built = azaion_imagebuild.build_image(SERIAL, flash=False).image
    assert built is not None
    conf = tmp_path / "device.conf"
    conf.write_text(
        "AZAION_DEVICE_EMAIL=azaion-jetson-0044@azaion.com\nAZAION_DEVICE_PASSWORD=" + "5" * 32
    )
    record = azaion_imagebuild.stamp(
        built.path, "AZJN-0044", device_conf=conf, replace=True, out="new.img"
    )
    assert record.as_json()["account"] is None
    assert azaion_imagebuild.verify("new.img", "AZJN-0044").serial == "AZJN-0044"


def test_a_rootfs_is_provisioned(api_url: str, rootfs_dir: Path) -> None:
    azaion_imagebuild.provision(SERIAL, api_url=api_url, rootfs_dir=rootfs_dir)
    assert azaion_imagebuild.verify(rootfs_dir, SERIAL).format == "directory"


def test_a_device_logs_in_with_its_own_credentials_only(tmp_path: Path, rootfs_dir: Path) -> None:
    image = azaion_imagebuild.build_image(SERIAL, flash=False).image
    assert image is not None
    accounts = Accounts(tmp_path / "state/azaion-imagebuild/sandbox/admin-api.sqlite3")
    with admin_api(accounts) as api, loader(image.path, api.url) as server:
        report = azaion_imagebuild.smoke(SERIAL, image=image.path, smoke_loader_url=server.url)
        with pytest.raises(OperatorError, match="not of azaion-jetson-0043@"):
            azaion_imagebuild.smoke("AZJN-0043", image=image.path, smoke_loader_url=server.url)
        azaion_imagebuild.provision(  # another password, which the device has not
            SERIAL, api_url=api.url, rootfs_dir=rootfs_dir
        )
        with pytest.raises(OperatorError) as raised:
            azaion_imagebuild.smoke(SERIAL, image=image.path, smoke_loader_url=server.url)
    assert (report.exit_code, raised.value.exit_code) == (0, ExitCode.VERIFICATION)


@pytest.mark.parametrize(
    ("call", "exit_code", "said"),
    [
        (lambda: azaion_imagebuild.build_image("AZJN 0042"), ExitCode.USAGE, "hint: a serial is"),
        (lambda: azaion_imagebuild.build_image(SERIAL, flahs=False), ExitCode.USAGE, "mean flash?"),
        (lambda: azaion_imagebuild.build_image(SERIAL, flash="maybe"), ExitCode.USAGE, "flash"),
        (lambda: azaion_imagebuild.build_image(SERIAL, bsp="/nowhere"), ExitCode.USAGE, "API_URL"),
        (lambda: azaion_imagebuild.build_image(SERIAL, config="none.toml"), ExitCode.USAGE, "none"),
        (lambda: azaion_imagebuild.build_image(SERIAL, config=""), ExitCode.USAGE, "is empty"),
        (lambda: azaion_imagebuild.provision(SERIAL), ExitCode.USAGE, "provision needs"),
        (lambda: azaion_imagebuild.verify("none.img", SERIAL), ExitCode.USAGE, "none.img"),
        (lambda: azaion_imagebuild.stamp("none.img", SERIAL), ExitCode.VERIFICATION, "none.img"),
        (lambda: azaion_imagebuild.smoke(SERIAL), ExitCode.USAGE, "hint: give image"),
        (
            lambda: azaion_imagebuild.smoke(image="a", device_conf="b"),
            ExitCode.USAGE,
            "both given",
        ),
    ],
)
def test_a_wrong_call_is_raised_with_its_hint(call: Any, exit_code: ExitCode, said: str) -> None:
    with pytest.raises(OperatorError) as raised:
        call()
    assert raised.value.exit_code == exit_code
    assert said in str(raised.value)
    assert "(hint: " in str(raised.value)


def test_a_build_that_fails_is_raised_with_its_record(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as raised:
        azaion_imagebuild.build_image(
            SERIAL, bsp=tmp_path, rootfs_dir=tmp_path, api_url="http://127.0.0.1:1"
        )
    assert raised.value.exit_code == ExitCode.PREFLIGHT
    assert raised.value.record is not None
    assert raised.value.record.as_json()["outcome"] == "failed"


def test_another_identity_is_raised() -> None:
    record = azaion_imagebuild.build_image(SERIAL, flash=False)
    assert record.image is not None
    with pytest.raises(OperatorError, match=r"not of azaion-jetson-0043@.*\(hint: ") as raised:
        azaion_imagebuild.verify(record.image.path, "AZJN-0043")
    assert raised.value.exit_code == ExitCode.VERIFICATION


def test_an_interrupt_stays_one() -> None:
    def interrupt(event: Any) -> None:
        if event.name == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        azaion_imagebuild.build_image(SERIAL, watcher=interrupt)


def test_every_setting_has_a_keyword_that_no_parameter_hides() -> None:
    names = {key.env.removeprefix("AZAION_IMAGEBUILD_").lower() for key in keys()}
    assert {"flash", "bsp", "api_url", "rootfs_dir", "bsp_method"} <= names
    for function in ("build_image", "provision", "stamp", "verify", "smoke"):
        parameters = inspect.signature(getattr(python_api, function)).parameters
        assert not names & set(parameters), function


def test_the_callers_logging_and_streams_stay_as_they_are() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, sys.stdout, sys.stderr)
    ours = logging.getLogger("azaion_imagebuild")
    was = (ours.propagate, ours.level)
    azaion_imagebuild.build_image(SERIAL, flash=False)
    assert (list(root.handlers), root.level, sys.stdout, sys.stderr) == before
    assert (ours.propagate, ours.level) == was
