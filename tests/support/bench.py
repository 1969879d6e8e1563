"""A sandbox with virtual devices and a base: what lanes are opened on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from azaion_imagebuild import images
from azaion_imagebuild.cli.console import Console
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.l4t import usb
from azaion_imagebuild.lanes.lane import Lane
from azaion_imagebuild.ledger import Ledger
from azaion_imagebuild.model import DEVICE_CONF, Build, BuildRecord, Image
from azaion_imagebuild.pipeline import recipes as pipeline
from azaion_imagebuild.pipeline.hookspecs import REQUIRED
from azaion_imagebuild.pipeline.new import device_build
from azaion_imagebuild.pipeline.plugins import load_plugins
from azaion_imagebuild.sandbox import Sandbox
from azaion_imagebuild.settings import Settings

METHODS = ["flash", "initrd"]
REAL: dict[str, dict[str, Any]] = {
    "flash": {},
    "initrd": {
        "method": "initrd",
        "external_device": "nvme0n1p1",
        "partition_xml": "tools/kernel_flash/flash_l4t_external.xml",
    },
}


@dataclass
class Bench:
    """A sandbox with virtual devices and a base."""

    sandbox: Sandbox
    settings: Settings
    build: Build
    image: Image
    instances: list[str]

    def flash(self, lane: Lane, serial: str) -> BuildRecord:
        """Do one device: what a fleet does in each of its lanes."""
        sysfs = self.settings.bsp.sysfs_usb
        usb.wait_for_device(sysfs, lane.usb_instance, 10.0)
        build = lane.build(device_build(serial, self.settings, sandbox=True))
        hook = load_plugins(self.settings.hooks, required=REQUIRED).hook
        with Ledger(f"sqlite:///{self.sandbox.dir}/ledger.sqlite3") as ledger:
            return pipeline.run(build, hook, Console(sys.stderr), ledger)

    def conf_at(self, instance: str) -> device_conf.DeviceConf:
        """Return the identity on a device."""
        return conf_of(self.sandbox.device_at(instance))


def conf_of(path: str | Path) -> device_conf.DeviceConf:
    return device_conf.parse(data_of(path))


def data_of(path: str | Path) -> bytes:
    entry = images.read_file(Path(path), DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    return entry.data


@contextlib.contextmanager
def a_bench(folder: Path, method: str, number: int = 3, **bsp: Any) -> Iterator[Bench]:
    sandbox = Sandbox(folder)
    instances = sandbox.usb_instances(number)
    settings = Settings()
    chosen = {**REAL[method], "massflash": number, **bsp}
    settings = structs.replace(settings, bsp=structs.replace(settings.bsp, **chosen))
    with sandbox.running(settings) as used:
        lock = structs.replace(used.build, lock_wait=0.0, flash=False)
        build = device_build("BASE-0", structs.replace(used, build=lock), sandbox=True)
        hook = load_plugins(used.hooks, required=REQUIRED).hook
        record = pipeline.build_base(build, hook, Console(sys.stderr))
        assert record.image is not None, record.error
        yield Bench(sandbox, used, build, record.image, instances)
