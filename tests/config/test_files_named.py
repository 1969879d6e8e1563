"""A file that a setting or a flag names: a pipe, a device, a folder or a huge file is an error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from thorough import one_of
from world import EMAIL, SERIAL, TOOL

from azaion_imagebuild.system import files

URL = "https://127.0.0.1:9"
ROTATE = ("rotate", "--serial", SERIAL, "--device-conf", "new.conf", "--api-url", URL)
SMOKE = ("smoke", "--loader-url", URL, "--serial", SERIAL, "--device-conf", "own.conf")

NAMED = {
    "config": (("doctor", "--config", "ODD"), "--config"),
    "CONFIG": (("doctor",), "--config"),
    "ADMIN_API_TOKEN_FILE": (ROTATE, "[admin_api] token_file"),
    "ADMIN_API_CA_FILE": (ROTATE, "[admin_api] ca_file"),
    "ADMIN_API_CLIENT_CERT": (ROTATE, "[admin_api] client_cert"),
    "DEVICE_CONF_TEMPLATE": (ROTATE, "[device_conf] template"),
    "SMOKE_CA_FILE": (SMOKE, "[smoke] ca_file"),
    "HOOKS_DIRS": (("hooks",), "[hooks] dirs"),
    "plug-in": (("hooks",), "--disable odd"),
    "serials": (("fleet", "ODD", "--plan"), "name a list of serials"),
    "ledger": (("ledger", "verify", "--database", "sqlite:///ODD"), ""),
    "rotate --device-conf": ((*ROTATE[:4], "ODD", *ROTATE[5:]), "name a new file"),
    "smoke --device-conf": ((*SMOKE[:-1], "ODD"), "--device-conf"),
    "stamp --device-conf": (("stamp", "x.img", "--serial", SERIAL, "--device-conf", "ODD"), ""),
    "stamp": (("stamp", "ODD", "--serial", SERIAL), ""),
    "rotate --image": (("rotate", "--serial", SERIAL, "--image", "ODD"), ""),
    "fleet --image": (("fleet", "AZJN-1..AZJN-2", "--image", "ODD", "--out", "out"), ""),
    "verify": (("verify", "ODD", "--serial", SERIAL), ""),
    "rootfs": (("provision", "--serial", SERIAL, "--api-url", URL, "--rootfs-dir", "ODD"), ""),
}
"""What names a file: the command and, if it says so, the setting that the hint names."""


def make_odd(kind: str) -> Path:
    path = Path("odd").absolute()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        return Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 10 << 30)
    return path


@pytest.mark.parametrize(
    ("kind", "named"),
    one_of((kind, named) for named in NAMED for kind in ("pipe", "device", "folder", "huge")),
)
def test_a_file_that_is_none_is_an_error_that_names_its_setting(
    monkeypatch: pytest.MonkeyPatch, kind: str, named: str
) -> None:
    odd = make_odd(kind)
    Path("own.conf").write_text(f"AZAION_DEVICE_EMAIL={EMAIL}\nAZAION_DEVICE_PASSWORD={'0' * 32}\n")
    argv, setting = NAMED[named]
    if named == "plug-in":
        Path("site").mkdir()
        Path("site/odd.py").symlink_to(odd)
        monkeypatch.setenv("AZAION_IMAGEBUILD_HOOKS_DIRS", str(Path("site").absolute()))
    elif named == "HOOKS_DIRS" and kind == "folder":
        pytest.skip("a folder is right there")
    elif named.isupper():
        monkeypatch.setenv(f"AZAION_IMAGEBUILD_{named}", str(odd))
    done = subprocess.run(
        ["prlimit", f"--as={2 << 30}", *TOOL, *(each.replace("ODD", str(odd)) for each in argv)],
        capture_output=True, text=True, check=False, timeout=20, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode in (2, 3, 8, 9), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors
    assert setting in done.stderr
    if setting:
        assert str(odd) in done.stderr or "odd.py" in done.stderr


def test_a_file_whose_size_the_kernel_does_not_tell_is_bounded_too() -> None:
    assert files.read_plain(Path("/proc/self/cmdline"), 1 << 20)
    with pytest.raises(OSError, match="it is longer than 3 bytes"):
        files.read_plain(Path("/proc/self/cmdline"), 3)
