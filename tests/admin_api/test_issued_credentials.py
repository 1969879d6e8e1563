"""An admin API that issues credentials of its own: long tokens, by the plug-in of the documents."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_apis import Api, issuing, serving, token
from pages import ROOT, blocks
from world import EMAIL, SERIAL, Run

from azaion_imagebuild import images
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox.loader import loader


def block(language: str) -> str:
    (found,) = blocks(ROOT / "docs/how-to/issued-credentials.md", language)
    return found.text


@pytest.fixture
def api() -> Iterator[Api]:
    """An API that issues tokens of about 900 characters; the documents' plug-in and settings."""
    Path("factory-hooks").mkdir()
    Path("factory-hooks/token.py").write_text(block("python"))
    Path("imagebuild.toml").write_text(block("toml"))
    with serving(issuing(token)) as served:
        yield served


def small() -> None:
    """Take the room for long credentials out of the settings."""
    text = Path("imagebuild.toml").read_text()
    Path("imagebuild.toml").write_text(text.replace("placeholder_size = 2048", ""))


def issued_in(image: Path) -> str:
    entry = images.read_file(image, DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    return device_conf.parse(entry.data).password.reveal()


@pytest.fixture
def base(run: Run, api: Api) -> Path:
    made = run("base", "--out", "base.img")
    assert made.code == 0, made.err
    return Path("base.img").absolute()


def test_an_issued_token_is_stamped_verified_used_and_rotated(
    run: Run, api: Api, base: Path
) -> None:
    ran = run("stamp", base, "--serial", SERIAL, "--api-url", api.url, "--json")
    assert ran.code == 0, ran.err
    first = api.accounts[EMAIL]["password"]
    assert (len(first) > 880, issued_in(base)) == (True, first)
    assert first not in ran.out + ran.err
    assert run("verify", base, "--serial", SERIAL).code == 0
    with loader(base, api.url) as device:
        assert run("smoke", "--image", base, "--loader-url", device.url).code == 0
    rotated = run("rotate", "--serial", SERIAL, "--api-url", api.url, "--image", base,
                  "--device-conf", "new.conf")  # fmt: skip
    assert rotated.code == 0, rotated.err
    second = api.accounts[EMAIL]["password"]
    assert second != first
    assert issued_in(base) == second
    assert f"PASSWORD={second}\n" in Path("new.conf").read_text()
    assert first.encode() not in base.read_bytes()


def test_a_fleet_takes_issued_tokens(run: Run, api: Api, base: Path) -> None:
    argv = ("fleet", SERIAL, "--image", base, "--out", "images", "--api-url", api.url, "--json")
    ran = run(*argv)
    assert ran.code == 0, ran.err
    assert issued_in(Path(f"images/{SERIAL}.img")) == api.accounts[EMAIL]["password"]
    assert run(*argv).json["done_before"] == 1


def test_a_rootfs_takes_issued_tokens_of_any_length(run: Run, api: Api, rootfs_dir: Path) -> None:
    small()
    ran = run("provision", "--serial", SERIAL, "--api-url", api.url, "--rootfs-dir", rootfs_dir)
    assert ran.code == 0, ran.err
    text = (rootfs_dir / DEVICE_CONF).read_text()
    assert f"PASSWORD={api.accounts[EMAIL]['password']}\n" in text
    assert run("verify", rootfs_dir, "--serial", SERIAL).code == 0
    Path("imagebuild.toml").write_text("")
    plain = run("verify", rootfs_dir, "--serial", SERIAL)
    assert (plain.code, "is not 32 hexadecimal digits" in plain.err) == (8, True)


def test_a_token_that_does_not_fit_is_refused_with_the_size_that_would(
    run: Run, api: Api, base: Path
) -> None:
    small()
    made = run("base", "--out", "small.img")
    assert made.code == 0, made.err
    clean = Path("small.img").read_bytes()
    ran = run("stamp", "small.img", "--serial", SERIAL, "--api-url", api.url, "--json")
    assert ran.code == 2
    assert "but in the image there is room for 512" in ran.json["error"]
    (size,) = re.findall(r"set \[image\] placeholder_size to (\d+)", ran.json["hint"])
    assert Path("small.img").read_bytes() == clean
    assert api.accounts[EMAIL]["password"] not in ran.out + ran.err
    fleet = run("fleet", SERIAL, "--image", "small.img", "--out", "images", "--api-url", api.url)
    assert (fleet.code, "there is room for 512" in fleet.err) == (10, True)
    text = (
        Path("imagebuild.toml").read_text().replace("[image]", f"[image]\nplaceholder_size={size}")
    )
    Path("imagebuild.toml").write_text(text)
    assert run("base", "--out", "large.img").code == 0
    assert run("stamp", "large.img", "--serial", SERIAL, "--api-url", api.url).code == 0


def test_an_image_with_too_small_a_place_is_given_a_larger_one(
    run: Run, api: Api, base: Path
) -> None:
    small()
    assert run("base", "--out", "small.img").code == 0
    Path("imagebuild.toml").write_text(block("toml"))
    assert run("stamp", "small.img", "--serial", SERIAL, "--api-url", api.url).code == 0
    assert issued_in(Path("small.img")) == api.accounts[EMAIL]["password"]
    assert run("verify", "small.img", "--serial", SERIAL).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")
@pytest.mark.parametrize("inject", ["rootfs", "stamp"])
def test_a_build_takes_issued_tokens(run: Run, api: Api, bsp: Path, inject: str) -> None:
    ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api.url, "--json",
              "--inject", inject)  # fmt: skip
    assert (ran.code, ran.json.get("residue")) == (0, []), ran.err
    assert issued_in(bsp.parent / "device.img") == api.accounts[EMAIL]["password"]


@pytest.mark.parametrize(
    "form",
    [
        "",
        "two\nlines",
        "a\0b",
        "ends with a return\r",
        "x" * 60_000,
        "back\\slash",
        "ends in one\\",
        '"quoted"',
        "'",
        " begins with a space",
        "ends with one ",
    ],
)
def test_what_cannot_stand_in_a_device_conf_is_refused_at_once(
    run: Run, api: Api, rootfs_dir: Path, form: str
) -> None:
    with serving(issuing(lambda: form)) as other:
        ran = run("provision", "--serial", SERIAL, "--api-url", other.url, "--rootfs-dir",
                  rootfs_dir, "--json")  # fmt: skip
    assert (ran.code, ran.json["step"]) == (4, "provision_identity"), ran.err
    assert "cannot be written to device.conf" in ran.json["error"]
    assert not (rootfs_dir / DEVICE_CONF).exists()


def test_an_identity_of_another_device_is_refused(run: Run, rootfs_dir: Path, api: Api) -> None:
    text = Path("factory-hooks/token.py").read_text()
    Path("factory-hooks/token.py").write_text(text.replace("=build.email, p", "='a@b.c', p"))
    ran = run("provision", "--serial", SERIAL, "--api-url", api.url, "--rootfs-dir", rootfs_dir)
    assert (ran.code, "'a@b.c'" in ran.err) == (4, True)


@pytest.mark.parametrize("size", [511, 65537, "many"])
def test_a_place_has_a_size_that_makes_sense(run: Run, size: object) -> None:
    Path("imagebuild.toml").write_text(f"[image]\nplaceholder_size = {size!r}\n")
    ran = run("base")
    assert (ran.code, "from 512 to 65536" in ran.err) == (2, True)
