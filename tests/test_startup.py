"""What `provision` imports: requests and pluggy are slow enough, the rest comes late or not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from world import SERIAL, Script

SHOWN = """
import dataclasses, inspect, json, sys
from azaion_imagebuild import cli

code = cli.run(sys.argv[1:])
compiled = {
    f"{name}.{each.__qualname__}"
    for name, module in list(sys.modules.items()) if name.startswith("azaion_imagebuild")
    for each in vars(module).values() if inspect.isclass(each) and each.__module__ == name
    if dataclasses.is_dataclass(each) and each.__dataclass_params__.frozen
}
print(json.dumps({"modules": sorted(sys.modules), "compiled": sorted(compiled)}))
sys.exit(code)
"""
NEEDED = {
    "account_id",
    "accounts",
    "admin_api",
    "api_transport",
    "attempt",
    "attempt_log",
    "builds",
    "cli",
    "commands",
    "completion",
    "configuration",
    "console",
    "contract",
    "device_conf",
    "errors",
    "events",
    "grammar",
    "hookspecs",
    "http_client",
    "identity",
    "locks",
    "log_files",
    "manual",
    "model",
    "new_file",
    "observing",
    "options",
    "pipeline",
    "placeholder",
    "plugins",
    "progress",
    "resources",
    "rootfs",
    "secret",
    "settings",
    "signals",
    "staging",
    "state",
    "stdout",
    "trust",
    "value",
    "visible",
}
"""Modules of this package that `provision` does its work by."""
LIBRARIES = {
    "argparse",
    "contextvars",
    "dataclasses",
    "fcntl",
    "gettext",
    "hmac",
    "resource",
    "secrets",
    "signal",
}
"""What it takes of the standard library that requests and pluggy do not take anyway."""


def told(code: str, *argv: str) -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True,
                          check=True)  # fmt: skip
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def tops(modules: list[str]) -> set[str]:
    return {name.split(".")[0] for name in modules if not name.startswith("_")}


@pytest.fixture
def provision(rootfs_dir: Path, scripted: Script) -> dict[str, list[str]]:
    """What a process has imported that provisioned a device."""
    scripted.answer(201)
    return told(SHOWN, "provision", "--serial", SERIAL, "--api-url", scripted.url,
                "--rootfs-dir", str(rootfs_dir))  # fmt: skip


def test_provision_imports_no_module_of_ours_that_it_does_not_need(
    provision: dict[str, list[str]],
) -> None:
    ours = {
        name.split(".")[1] for name in provision["modules"] if name.startswith("azaion_imagebuild.")
    }
    assert ours == NEEDED


def test_provision_imports_little_that_requests_and_pluggy_do_not(
    provision: dict[str, list[str]],
) -> None:
    shown = "import json, sys, requests, pluggy; print(json.dumps({'modules': [*sys.modules]}))"
    more = tops(provision["modules"]) - tops(told(shown)["modules"])
    assert more - {"azaion_imagebuild", "azaion_imagebuild_hooks"} <= LIBRARIES


def test_provision_compiles_no_methods_of_frozen_values(provision: dict[str, list[str]]) -> None:
    assert provision["compiled"] == []  # value.frozen says why
