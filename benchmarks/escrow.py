"""What does an escrow cost a device?

    .venv/bin/python benchmarks/escrow.py [--devices 500] [--dir FOLDER]

Calls the hooks around an account, as a build does, without and with an escrow, in turn, for that
many devices in one process; the credentials are made up, there is no API. Prints medians, and
what of it is age itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import pluggy
import pyrage
from msgspec import structs

from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.serial import new_password
from azaion_imagebuild.model import DeviceIdentity
from azaion_imagebuild.pipeline.new import stamping_build
from azaion_imagebuild.pipeline.plugins import load_plugins
from azaion_imagebuild.settings import EscrowSettings, Settings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--dir", help="a folder on the disk to measure; default: that of TMPDIR")
    args = parser.parse_args()
    key = pyrage.x25519.Identity.generate().to_public()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        escrow = EscrowSettings(recipients=[str(key)], dir=Path(folder) / "escrow")
        off = Settings()
        on = structs.replace(off, escrow=escrow)
        hook = load_plugins(off.hooks, required=()).hook
        without, with_one, age = [], [], []
        for number in range(args.devices):
            serial = f"AZJN-{number:06}"
            without.append(around_an_account(serial, off, hook))
            with_one.append(around_an_account(serial, on, hook))
            age.append(age_alone(serial, key))
    for name, took in (("without", without), ("with", with_one), ("age alone", age)):
        print(f"{name:10} {statistics.median(took) * 1000:7.3f} ms a device")


def around_an_account(serial: str, settings: Settings, hook: pluggy.HookRelay) -> float:
    """Return the seconds that the hooks before and after an account take."""
    build, identity = stamping_build(serial, settings), identity_of(serial)
    began = time.perf_counter()
    assert not any(hook.pre_provision(build=build))
    hook.post_provision(build=build, identity=identity)
    return time.perf_counter() - began


def age_alone(serial: str, key: pyrage.x25519.Recipient) -> float:
    """Return the seconds that encrypting takes."""
    template = device_conf.template_of(Settings().device_conf)
    text = device_conf.render(template, identity_of(serial))
    began = time.perf_counter()
    pyrage.encrypt(text, [key])
    return time.perf_counter() - began


def identity_of(serial: str) -> DeviceIdentity:
    return DeviceIdentity(
        serial=serial, email="nobody@example.com", password=new_password(), enrolled="created"
    )


if __name__ == "__main__":
    main()
