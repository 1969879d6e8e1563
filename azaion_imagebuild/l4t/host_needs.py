"""What NVIDIA's scripts need from the host, checked before an account is touched.

Without it, a script stops halfway, or a flash after minutes, often without an explanation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..model import Build, Finding
from ..system.files import read_text
from . import host_programs
from .initrd_host import is_reference
from .releases import network_of

ROOT = Path("/")
"""Where the host's files are; another folder in tests."""

DEVICE_NETWORK = "fc00:1:1::/48"
"""The devices' addresses while they are flashed over USB (as read: nv_enable_remote.sh)."""

_PREFIX = "fc0000010001"  # of this network, in the form of /proc/net/ipv6_route


def findings(build: Build) -> Iterator[Finding]:
    """Return what NVIDIA's scripts would miss on this host; change nothing."""
    tree = build.bsp_dir
    if tree is None or not is_demanding(tree):
        return
    initrd = build.settings.bsp.method == "initrd"
    yield from host_programs.findings(build, tree)
    yield from _mount_findings()
    if initrd:
        yield from _usb_findings()
    if initrd and network_of(build):
        yield from _nfs_findings()
    if initrd and network_of(build) == "usb0" and build.flash:
        yield from _network_findings()


def is_demanding(tree: Path) -> bool:
    """Tell whether a tree has these needs; the reference BSP does not."""
    return not is_reference(tree) or (tree / host_programs.PREREQUISITES).is_file()


def _mount_findings() -> Iterator[Finding]:
    yield from _filesystem_findings("vfat", "flash.sh mounts an EFI partition")
    if not (ROOT / "dev/loop-control").exists() and not list((ROOT / "dev").glob("loop[0-9]*")):
        yield _error(
            "this host has no loop devices: flash.sh mounts the image that it builds",
            "sudo modprobe loop; in a container: start it with --privileged -v /dev:/dev",
        )


def _usb_findings() -> Iterator[Finding]:
    """Check USB and udev: the initrd flash uses them even if it only packs."""
    if not list((ROOT / "sys/bus/usb/devices").glob("usb*")):
        yield _error(
            "this host has no USB bus: the initrd flash fails without one, even with FLASH=0",
            "check with lsusb; sudo modprobe xhci_pci; a virtual machine needs a USB controller",
        )
    if not (ROOT / "etc/udev/rules.d").is_dir():
        yield _error(
            "there is no /etc/udev/rules.d: the initrd flash links its rules into it",
            "sudo mkdir -p /etc/udev/rules.d",
        )


def _nfs_findings() -> Iterator[Finding]:
    yield from _filesystem_findings("nfsd", "devices are flashed over NFS")


def _filesystem_findings(name: str, why: str) -> Iterator[Finding]:
    """Check that the kernel supports a filesystem, or can load it."""
    if (has := _has_filesystem(name)) is None:
        yield Finding(
            message=f"cannot tell whether the kernel supports {name}: {why}",
            hint=f"check it: sudo modprobe {name}",
            severity="warning",
        )
    elif not has:
        yield _error(
            f"the kernel does not support {name}: {why}",
            f"sudo apt-get install linux-modules-extra-{os.uname().release}, then"
            f" sudo modprobe {name}",
        )


def _has_filesystem(name: str) -> bool | None:
    """Tell whether the kernel supports a filesystem; None: unknown (a container)."""
    if name in _text("proc/filesystems").split():
        return True
    modules = f"lib/modules/{os.uname().release}"
    known = _text(f"{modules}/modules.dep") + _text(f"{modules}/modules.builtin")
    if not known:
        return None
    return re.search(rf"/{name}\.ko\b", known) is not None


def _network_findings() -> Iterator[Finding]:
    """Find what would keep a device from mounting its images from this host."""
    if _text("proc/sys/net/ipv6/conf/all/disable_ipv6").strip() != "0":
        yield _error(
            "IPv6 is off on this host (some VPN clients turn it off): devices are flashed over it",
            "sudo sysctl -w net.ipv6.conf.all.disable_ipv6=0; or disconnect the VPN",
        )
    if _ufw_blocks():
        yield _error(
            f"the firewall ufw blocks the devices' network {DEVICE_NETWORK}",
            f"sudo ufw allow from {DEVICE_NETWORK}",
        )
    if _firewalld_may_block():
        yield Finding(
            message=f"firewalld is running and has no rule for the devices' network"
            f" {DEVICE_NETWORK}: it may block NFS",
            hint=f"sudo firewall-cmd --permanent --zone=trusted --add-source={DEVICE_NETWORK} &&"
            " sudo firewall-cmd --reload",
            severity="warning",
        )
    if others := _interfaces_in_the_way():
        yield _error(
            f"the network {DEVICE_NETWORK} is routed to {', '.join(others)}, a VPN perhaps: devices"
            " have these addresses while they are flashed",
            "disconnect the VPN, or remove the route: ip -6 route",
        )


def _ufw_blocks() -> bool:
    if not re.search(r"^ENABLED=[\"']?yes", _text("etc/ufw/ufw.conf"), re.MULTILINE):
        return False
    defaults = _text("etc/default/ufw")
    if re.search(r"^DEFAULT_INPUT_POLICY=[\"']?ACCEPT", defaults, re.MULTILINE):
        return False
    rules = [
        line.split()
        for line in _text("etc/ufw/user6.rules").splitlines()
        if line.startswith("### tuple ### allow")
    ]
    return not any(_allows(words[3:]) for words in rules)


def _allows(words: list[str]) -> bool:
    """Tell whether a rule of ufw may let NFS in: action, protocol, port, to, port, from, direction.

    If in doubt, it is allowed: a wrong refusal would stop a build that works.
    """
    port, source = words[2:3], words[5:6]
    return (
        port in (["any"], ["2049"])
        and source[:1] != []
        and (source[0] == "::/0" or source[0].startswith("fc00:"))
    )


def _firewalld_may_block() -> bool:
    if not (ROOT / "run/firewalld.pid").exists() and not (ROOT / "run/firewalld").is_dir():
        return False
    if re.search(r"^DefaultZone=trusted", _text("etc/firewalld/firewalld.conf"), re.MULTILINE):
        return False
    zones = (ROOT / "etc/firewalld/zones").glob("*.xml")
    return not any("fc00:1:1:" in _text(str(zone.relative_to(ROOT))) for zone in zones)


def _interfaces_in_the_way() -> list[str]:
    """Return the interfaces, other than devices, with a route into the devices' network.

    A line of /proc/net/ipv6_route: destination, its prefix length (both hexadecimal), …, interface.
    """
    found = set()
    for line in _text("proc/net/ipv6_route").splitlines():
        words = line.split()
        inside = len(words) == 10 and words[0].startswith(_PREFIX) and int(words[1], 16) >= 48
        if inside and not re.match(r"usb|enx|lo$", words[-1]):
            found.add(words[-1])
    return sorted(found)


def _text(path: str) -> str:
    try:
        return read_text(ROOT / path)
    except OSError:
        return ""


def _error(message: str, hint: str) -> Finding:
    return Finding(message=message, hint=hint)
