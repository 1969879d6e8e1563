"""Write the configuration's template and its reference: each key, its help, a default or example.

usage: .venv/bin/python tools/write_template.py > templates/imagebuild.toml
       .venv/bin/python tools/write_template.py --page > docs/reference/configuration.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from azaion_imagebuild.cli.options import FLAGS
from azaion_imagebuild.cli.parser import parser
from azaion_imagebuild.config.kinds import Key
from azaion_imagebuild.config.loading import keys
from azaion_imagebuild.settings import ENV_PREFIX

INTRODUCTION = """\
# Settings of azaion-imagebuild. This file has every key, commented out, with its default or an
# example. Flags override variables, variables override this file. Relative paths start in the
# folder of this file.
"""
SECTIONS = {
    "admin_api": "The admin API, which holds one account per device (runbook).",
    "bsp": "NVIDIA's Linux_for_Tegra.",
    "device_conf": "/etc/azaion/device.conf on the device.",
    "escrow": "Copies of the credentials, encrypted to your team's keys.",
    "serial": "The serial on the label.",
    "hooks": "Plug-ins: one file per concern.",
    "build": "The build itself.",
    "fuse": "Fuses, burned only with --fuse (FUSE=1). This does not replace the checklist of the"
    " security phase.",
    "image": "The image.",
    "smoke": "The test of the flashed device.",
    "ledger": "The ledger: which identity went into which device, when, and from which image.",
    "station": "Many stations on one PostgreSQL ([ledger] database).",
    "log": "What is logged about each attempt: stderr, its log file, a trace.",
}
EXAMPLES: dict[str, Any] = {
    "admin_api.url": "https://admin.internal.example.com",
    "log.otlp_endpoint": "http://collector.internal.example.com:4318",
    "admin_api.token_file": "/etc/azaion-imagebuild/token",
    "admin_api.token_env": "ADMIN_API_TOKEN",
    "admin_api.client_cert": "/etc/azaion-imagebuild/client.pem",
    "admin_api.client_key": "/etc/azaion-imagebuild/client.key",
    "admin_api.ca_file": "/etc/ssl/certs/site-ca.pem",
    "admin_api.headers": {"X-Site": "plant-3"},
    "admin_api.lookup_path": "/users?email={email}",
    "admin_api.existing_id_field": "items.id",
    "bsp.dir": "/srv/l4t/Linux_for_Tegra",
    "bsp.rootfs_dir": "/srv/images/orin-nano/rootfs-staging",
    "bsp.external_device": "nvme0n1p1",
    "bsp.partition_xml": "tools/kernel_flash/flash_l4t_external.xml",
    "bsp.usb_instance": "1-3",
    "bsp.size": "14GiB",
    "bsp.success": "site: the device is flashed",
    "bsp.required_files": ["bootloader/nvdisp-init.bin"],
    "bsp.environment": {
        "BOARDID": "3767",
        "FAB": "300",
        "BOARDSKU": "0005",
        "BOARDREV": "A.0",
        "CHIP_SKU": "00:00:00:D6",
        "RAMCODE_ID": "0",
    },
    "device_conf.group": "azaion",
    "device_conf.template": "device.conf",
    "escrow.recipients": ["age1your0own0public0key", "ssh-ed25519 AAAA0your0second0one"],
    "escrow.dir": "/var/lib/azaion-imagebuild/escrow",
    "serial.pattern": "AZJN-[0-9]{4}",
    "hooks.dirs": ["factory-hooks"],
    "hooks.disable": ["smoke"],
    "build.state_dir": "/var/lib/azaion-imagebuild",
    "fuse.command": [
        "./odmfuse.sh",
        "-i",
        "0x23",
        "-X",
        "/etc/azaion-imagebuild/fuse.xml",
        "--auth",
        "NS",
        "jetson-orin-nano-devkit",
    ],
    "ledger.database": "postgresql://factory@db.internal.example.com/azaion",
    "ledger.station": "S1",
    "ledger.operator": "line 2, shift A",
    "station.page_socket": "/run/azaion-imagebuild/page.sock",
    "station.page_group": "operators",
    "smoke.loader_url": "http://{serial}.local:8080",
    "smoke.ca_file": "/etc/azaion-imagebuild/loader.pem",
    "smoke.certificate_name": "azaion-loader",
}


PAGE = """\
# Configuration

For whoever sets up a site, or looks up a key.

<!-- Written by tools/write_template.py --page: change the settings, not this page. -->

A setting comes from the first of these that has it:

1. a flag: `azaion-imagebuild image --board NAME` (some are variables of make: `BOARD=NAME`);
2. an environment variable: `AZAION_IMAGEBUILD_BOARD=NAME`;
3. the file: `--config FILE` (`CONFIG=FILE`), or `imagebuild.toml` in the current folder;
4. the default.

Start with a copy of `templates/imagebuild.toml`, which has every key with its help. Relative paths
in the file start in its folder. Without `--config`, `imagebuild.toml` is read only if it belongs to
you (or root) and is not writable by everybody. An unknown key or variable is an error that suggests
the nearest known one. `sudo` drops most variables: use flags or the file with it.

In a variable, a list is written as a shell writes words:
`AZAION_IMAGEBUILD_HOOKS_DISABLE="smoke residue"`. Write yes or no as `1`, `0`, `true`, `false`,
`yes` or `no`. The variables below start with `AZAION_IMAGEBUILD_`. A table (`{ NAME = "value" }`)
can only be set in the file.
"""


def main() -> None:
    """Print the page or the template."""
    print_page() if "--page" in sys.argv[1:] else print_template()


def print_page() -> None:
    """Print the reference, a table for each section."""
    print(PAGE, end="")
    there = set(flags_of(parser()))
    flags = {
        place: f"`--{flag}`"
        for name, place in FLAGS.items()
        if f"--{(flag := name.replace('_', '-'))}" in there
    }
    section = None
    for key in keys():
        if key.section != section:
            section = key.section
            print(f"\n## [{section}]\n\n{SECTIONS[section]}\n")
            print("| key | what it is | flag, variable |")
            print("| --- | --- | --- |")
        ways = [flags.get((key.section, key.name)), variable_of(key)]
        shown = ", ".join(filter(None, ways)) or "the file only"
        print(f"| `{key.name}` | {help_of(key)} | {shown} |")


def flags_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the flags of a parser and of its commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from flags_of(each)


def help_of(key: Key) -> str:
    """Return a key's help with its default, or with an example if it has no default."""
    text = key.help.replace("|", "\\|")
    for name in ("{email}", "{id}", "{serial}", "{usb_instance}"):
        text = text.replace(name, f"`{name}`")
    if key.default not in (None, [], {}):
        return f"{text}; default: `{toml(key.default)}`"
    example = EXAMPLES.get(f"{key.section}.{key.name}")
    if example is not None and "e.g." not in text:
        text += f"; e.g. `{toml(example)}`"
    return text


def variable_of(key: Key) -> str:
    """Return a key's variable without the common prefix."""
    return "" if key.kind == "table" else f"`{key.env.removeprefix(ENV_PREFIX)}`"


def print_template() -> None:
    """Print the template."""
    print(INTRODUCTION, end="")
    section = None
    for key in keys():
        if key.section != section:
            section = key.section
            print(f"\n# {SECTIONS[section]}\n[{section}]")
        variable = "" if key.kind == "table" else f" ({key.env})"
        example = EXAMPLES.get(f"{key.section}.{key.name}", key.default)
        unset = key.default is None or key.default in ([], {})
        note = "  # an example; unset by default" if unset else ""
        print(f"# {key.help}{variable}\n#{key.name} = {toml(example)}{note}")


def toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, Path) else value)


if __name__ == "__main__":
    main()
