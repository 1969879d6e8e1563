from pathlib import Path

import pytest

from azaion_imagebuild.errors import UsageError
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.device_conf import MalformedDeviceConf
from azaion_imagebuild.model import DeviceIdentity
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import DeviceConfSettings

IDENTITY = DeviceIdentity(
    serial="AZJN-0042",
    email="azaion-jetson-0042@azaion.com",
    password=Secret("00112233445566778899aabbccddeeff"),
    enrolled="created",
)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return tmp_path / "device.conf"


def test_the_shipped_template_gives_the_runbooks_two_lines() -> None:
    text = device_conf.template_of(DeviceConfSettings())
    assert device_conf.render(text, IDENTITY) == (
        b"AZAION_DEVICE_EMAIL=azaion-jetson-0042@azaion.com\n"
        b"AZAION_DEVICE_PASSWORD=00112233445566778899aabbccddeeff\n"
    )


def test_a_site_may_add_lines_of_its_own(template: Path) -> None:
    template.write_text(
        "# ${serial}: costs $5\nAZAION_DEVICE_EMAIL=${email}\n"
        "AZAION_DEVICE_PASSWORD=${password}\nSITE=plant-3\n"
    )
    data = device_conf.render(
        device_conf.template_of(DeviceConfSettings(template=template)), IDENTITY
    )
    assert data.startswith(b"# AZJN-0042: costs $5\n")
    assert device_conf.parse(data).password == IDENTITY.password


def test_a_byte_order_mark_of_a_template_stays_out_of_the_device(template: Path) -> None:
    text = "AZAION_DEVICE_EMAIL=${email}\nAZAION_DEVICE_PASSWORD=${password}\n"
    template.write_text(text, encoding="utf-8-sig")
    data = device_conf.render(
        device_conf.template_of(DeviceConfSettings(template=template)), IDENTITY
    )
    assert data.startswith(b"AZAION_DEVICE_EMAIL=azaion")
    with pytest.raises(MalformedDeviceConf):  # the Loader would not pass over it
        device_conf.parse(b"\xef\xbb\xbf" + data)


def test_an_unknown_placeholder_names_the_known_ones(template: Path) -> None:
    template.write_text("AZAION_DEVICE_EMAIL=${mail}\nAZAION_DEVICE_PASSWORD=${password}\n")
    with pytest.raises(UsageError, match=r"unknown placeholder \$\{mail\}") as caught:
        device_conf.template_of(DeviceConfSettings(template=template))
    assert "${email}" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "AZAION_DEVICE_EMAIL=${email}\n",
        "AZAION_DEVICE_EMAIL=root@x\nAZAION_DEVICE_PASSWORD=${password}\n",
        "AZAION_DEVICE_EMAIL=${email}\nAZAION_DEVICE_PASSWORD=fixed\n",
        "not a line\nAZAION_DEVICE_EMAIL=${email}\nAZAION_DEVICE_PASSWORD=${password}\n",
        "",
    ],
)
def test_a_template_that_does_not_carry_the_credentials_is_refused(
    template: Path, text: str
) -> None:
    template.write_text(text)
    with pytest.raises(UsageError, match="template"):
        device_conf.template_of(DeviceConfSettings(template=template))


def test_a_template_that_cannot_be_read_is_refused(template: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the template"):
        device_conf.template_of(DeviceConfSettings(template=template))
    template.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        device_conf.template_of(DeviceConfSettings(template=template))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no AZAION_DEVICE_EMAIL"),
        (b"AZAION_DEVICE_EMAIL=a\n", "no AZAION_DEVICE_PASSWORD"),
        (b"AZAION_DEVICE_EMAIL=a\nAZAION_DEVICE_PASSWORD=\n", "no AZAION_DEVICE_PASSWORD"),
        (b"AZAION_DEVICE_EMAIL=a\nAZAION_DEVICE_EMAIL=b\n", "line 2 repeats"),
        (b"AZAION_DEVICE_EMAIL=a\r\nAZAION_DEVICE_PASSWORD=b\r\n", "line 1"),
        (b"AZAION_DEVICE_EMAIL = a\n", "line 1"),
        (b"export AZAION_DEVICE_EMAIL=a\n", "line 1"),
        (b"\0" * 200, "line 1"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_file_that_the_loader_could_not_use_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedDeviceConf, match=reason):
        device_conf.parse(data)
