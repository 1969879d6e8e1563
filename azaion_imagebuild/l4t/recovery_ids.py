"""The USB product ids of NVIDIA's devices (vendor 0955), and which board each one fits.

Sources: NVIDIA's ``l4t_initrd_flash.sh`` of R35.3.1 lists the recovery-mode ids of Xavier and Orin,
with module numbers in its comments; Thor's were reported with meta-tegra (tegra-demo-distro #298).
NVIDIA's ``nv_enable_remote.sh`` sets 7035; 7020 is the USB device mode of a running L4T. SKUs are
those in the modules' EEPROM (``p3767-0003`` has SKU 0003).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from ..system.files import read_text

VENDOR = "0955"


class Jetson(Struct, frozen=True):
    """A supported Jetson in recovery mode."""

    name: str
    module: str
    """NVIDIA's number of the module, which flash.sh calls ``BOARDID``."""
    skus: tuple[str, ...] = ()
    """What flash.sh calls ``BOARDSKU``; empty: every SKU that no other id has."""


SUPPORTED: Mapping[str, Jetson] = {
    "7023": Jetson("Jetson AGX Orin", "3701", ("0000", "0005", "0008")),
    "7223": Jetson("Jetson AGX Orin 32GB", "3701", ("0004",)),
    "7323": Jetson("Jetson Orin NX 16GB", "3767", ("0000", "0002")),
    "7423": Jetson("Jetson Orin NX 8GB", "3767", ("0001",)),
    "7523": Jetson("Jetson Orin Nano 8GB", "3767", ("0003", "0005")),
    "7623": Jetson("Jetson Orin Nano 4GB", "3767", ("0004",)),
    "7019": Jetson("Jetson AGX Xavier", "2888"),
    "7819": Jetson("Jetson AGX Xavier Industrial", "2888"),
    "7919": Jetson("Jetson AGX Xavier Industrial", "2888"),
    "7e19": Jetson("Jetson Xavier NX", "3668"),
    "7026": Jetson("Jetson Thor", "3834"),
    "7226": Jetson("Jetson Thor", "3834"),
}

_TOO_OLD: Mapping[str, str] = {
    "7c18": "Jetson TX2",
    "7018": "Jetson TX2i",
    "7418": "Jetson TX2 4GB",
    "7f21": "Jetson Nano",
    "7721": "Jetson TX1",
}
"""In recovery mode, but only R32 and older can flash it, which this tool does not support."""

_NOT_IN_RECOVERY: Mapping[str, str] = {
    "7020": "has booted; it is not in recovery mode",
    "7035": "runs NVIDIA's flash initrd, left by an interrupted flash; it is not in recovery mode",
}

_NAMES = (
    ("orin-nanoe8gb", {"7423"}),  # R36, R38 read: an Orin NX 8GB that plays an Orin Nano
    ("orin-nano", {"7523", "7623"}),
    ("orin-nx", {"7323", "7423"}),
    ("agx-orin", {"7023", "7223"}),
    ("xavier-nx", {"7e19"}),
    ("agx-xavier", {"7019", "7819", "7919"}),
    ("thor", {"7026", "7226"}),
)
"""What a board's name means without a ``BOARDSKU``."""

_MODULE = re.compile(r"\+p(\d{4})|/p(\d{4})[\w.-]*\.conf\.common")
_ALIASES = {"2972": "2888"}  # p2972-0000.conf.common is the AGX Xavier's


def is_supported(product: str) -> bool:
    """Tell whether an id is that of a supported Jetson in recovery mode."""
    return product in SUPPORTED


def is_too_old(product: str) -> bool:
    """Tell whether an id is that of a Jetson in recovery mode that this tool cannot flash."""
    return product in _TOO_OLD


def reason_left_out(product: str) -> str:
    """Return why a device of NVIDIA's is ignored, as the end of a sentence after its id."""
    if product in _TOO_OLD:
        return f"is a {_TOO_OLD[product]}, which is not supported: only Xavier, Orin and Thor are"
    return _NOT_IN_RECOVERY.get(product, "is not known as a Jetson in recovery mode")


def mismatch(product: str, board: str, tree: Path, environment: Mapping[str, str]) -> str | None:
    """Return why a device does not match the configured board; None: it matches.

    Args:
        product: of the device in recovery mode.
        board: the name of its .conf.
        tree: the Linux_for_Tegra folder.
        environment: what NVIDIA's scripts get; with ``BOARDSKU`` an image is built for that module,
            whatever is plugged in.
    """
    expected, configured = _expected(board, tree, environment)
    if product not in SUPPORTED or not expected or product in expected:
        return None
    names = " or ".join(dict.fromkeys(SUPPORTED[each].name for each in sorted(expected)))
    return f"is a {SUPPORTED[product].name}, but {configured} is for {names}"


def _expected(board: str, tree: Path, environment: Mapping[str, str]) -> tuple[set[str], str]:
    """Return the ids that a configuration is for, and the configuration in words."""
    module = environment.get("BOARDID") or _module_of(tree / f"{board}.conf")
    of_module = {product for product, each in SUPPORTED.items() if each.module == module}
    by_name = next((ids for word, ids in _NAMES if word in board), set(of_module))
    sku = environment.get("BOARDSKU")
    if sku:
        candidates = of_module or _siblings(by_name)
        exact = {product for product in candidates if sku in SUPPORTED[product].skus}
        return exact or candidates, f"{board} with BOARDSKU {sku}"
    return (of_module & by_name) or of_module or by_name, board


def _siblings(products: set[str]) -> set[str]:
    modules = {SUPPORTED[product].module for product in products}
    return {product for product, each in SUPPORTED.items() if each.module in modules}


def _module_of(conf: Path) -> str | None:
    """Return the module of a board's .conf, e.g. ``3767``; None: not known.

    Boards are links to files such as ``p3768-0000+p3767-0000.conf``; a vendor's own file reads the
    module's ``p3767.conf.common``.
    """
    try:
        text = f"/{conf.resolve().name}\n{read_text(conf)[:65536]}"
    except OSError:
        return None
    found = _MODULE.search(text)
    module = (found[1] or found[2]) if found else None
    return _ALIASES.get(module, module) if module else None
