"""What NVIDIA's scripts need of host and tree: taken away, it is missed before an account is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from thorough import one_of
from world import SERIAL, Run, Script

from azaion_imagebuild.l4t import host_needs, tree_needs

OWN = ("mke2fs", "debugfs", "e2fsck")
FLASH = {
    "tar": "tar", "losetup": "mount", "mount": "mount", "mkfs.msdos": "dosfstools",
    "uuidgen": "uuid-runtime", "xmllint": "libxml2-utils", "python3": "python3", "cpp": "cpp",
    "cpio": "cpio", "gzip": "gzip", "ssh-keygen": "openssh-client",
}  # fmt: skip
LISTED = {"dtc": "device-tree-compiler", "lbzip2": "lbzip2", "lz4c": "lz4", "openssl": "openssl"}
CALLED = {"zstd": "zstd", "python": "python-is-python3"}
INITRD = {
    "abootimg": "abootimg", "strings": "binutils", "sshpass": "sshpass", "udevadm": "udev",
    "exportfs": "nfs-kernel-server", "service": "init-system-helpers", "showmount": "nfs-common",
    "ssh": "openssh-client", "ip": "iproute2", "ping6": "iputils-ping",
}  # fmt: skip
PROGRAMS = FLASH | LISTED | CALLED | INITRD

LIST = """#!/bin/bash
# sudo apt-get install nonsense
sudo apt-get update && \\
sudo apt-get install -y abootimg \\
			binfmt-support \\
			device-tree-compiler lbzip2 \\
			nfs-kernel-server \\
			python3-yaml \\
			qemu-user-static \\
			whois \\
			openssl
if true; then
	sudo apt-get install -y lz4
fi
"""
"""A list of packages in the shape of NVIDIA's."""

CONFIG = """[bsp]
method = "initrd"
external_device = "nvme0n1p1"
partition_xml = "tools/kernel_flash/flash_l4t_external.xml"
args = ["-p", "--no-systemimg -c bootloader/qspi.xml"]
"""
MODULES = f"lib/modules/{os.uname().release}"
DSA = "tools/ota_tools/version_upgrade/ota_make_recovery_img_dtb.sh"


def stub(path: Path, text: str = "exit 0") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that has everything: ``/`` in a folder, and programs that do nothing."""
    root, programs = tmp_path / "host", tmp_path / "host/bin"
    for folder in ("dev", "etc/udev/rules.d", "sys/bus/usb/devices/usb1", "proc/net",
                   "proc/sys/net/ipv6/conf/all", MODULES):  # fmt: skip
        (root / folder).mkdir(parents=True)
    (root / "dev/loop-control").touch()
    (root / "proc/filesystems").write_text("nodev\tproc\n\text4\n")
    (root / f"{MODULES}/modules.dep").write_text("kernel/fs/fat/vfat.ko.zst: fat.ko\n")
    (root / f"{MODULES}/modules.builtin").write_text("kernel/fs/nfsd/nfsd.ko\n")
    (root / "proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("0\n")
    for name in PROGRAMS:
        stub(programs / name)
    stub(programs / "ssh", 'echo "ssh-ed25519\nssh-dss"')
    for name in OWN:
        (programs / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setattr(host_needs, "ROOT", root)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr("azaion_imagebuild.system.process._SYSTEM_PATH", "/nowhere")
    return root


@pytest.fixture
def tree(bsp: Path) -> Path:
    """A BSP that needs what NVIDIA's needs."""
    (bsp / "tools/l4t_flash_prerequisites.sh").write_text(LIST)
    (bsp / "bootloader/qspi.xml").touch()
    script = bsp / DSA
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/bash\n\tssh-keygen -t dsa -N "" -f "${_initrd_dir}/key"\n')
    packer = bsp / "tools/kernel_flash/l4t_create_images_for_kernel_flash.sh"
    packer.write_text("tar -I 'zstd -T0' -cf x .\nCRC32=$( python -c 'import zlib' )\n")
    Path("imagebuild.toml").write_text(CONFIG)
    return bsp


@pytest.fixture
def image(run: Run, tree: Path, host: Path, scripted: Script) -> Callable[[], str]:
    """Try to build; return the errors and hints of the refusal, before any request to the API."""

    def call(*more: object) -> str:
        scripted.answer(201)
        ran = run("image", "--serial", SERIAL, "--bsp", tree, "--api-url", scripted.url, *more)
        assert ran.code == 3, ran.err
        assert scripted.requests == []
        doctor = run("doctor", "--bsp", tree, "--api-url", scripted.url, *more)
        assert doctor.code == 3
        shown = [line for line in ran.errors + ran.hints if "NVIDIA's scripts need root" not in line
                 and not line.endswith("same command with sudo")]  # fmt: skip
        for line in shown:
            assert line in doctor.err
        return "\n".join(shown)

    return call


def findings(run: Run, tree: Path, url: str, *more: object) -> list[str]:
    ran = run("doctor", "--bsp", tree, "--api-url", url, "--json", *more)
    every = [f"{each['message']} -> {each['hint']}" for each in ran.json["findings"]]
    return [each for each in every if "NVIDIA's scripts need root" not in each]


@pytest.mark.parametrize("method", ["flash", "initrd"])
def test_a_host_that_has_everything_is_ready(
    run: Run, tree: Path, host: Path, api_url: str, method: str
) -> None:
    if method == "flash":
        Path("imagebuild.toml").write_text("")
        for name in INITRD.keys() - {"ssh"}:
            (host / "bin" / name).unlink()
        shutil.rmtree(host / "sys/bus/usb")
    assert findings(run, tree, api_url) == []


def test_the_reference_bsp_needs_none_of_it(run: Run, bsp: Path, host: Path, api_url: str) -> None:
    for name in PROGRAMS.keys() - {"tar"}:
        (host / "bin" / name).unlink()
    shutil.rmtree(host / "sys")
    assert findings(run, bsp, api_url) == []


@pytest.mark.parametrize("program", one_of(PROGRAMS))
def test_a_missing_program_is_named_with_its_package(
    image: Callable[[], str], host: Path, program: str
) -> None:
    (host / "bin" / program).unlink()
    text = image()
    assert f"not installed: {program}\n" in text
    assert f"hint: sudo apt-get install {PROGRAMS[program]}" in text


def test_a_bsp_without_a_list_needs_the_programs_of_its_method(
    run: Run, tree: Path, host: Path, api_url: str
) -> None:
    (tree / "tools/l4t_flash_prerequisites.sh").unlink()
    shutil.move(tree / "tools/reference_host", tree.parent)
    for name in PROGRAMS:
        (host / "bin" / name).unlink()
    (missing,) = [each for each in findings(run, tree, api_url) if "not installed" in each]
    for name in PROGRAMS.keys() - LISTED.keys():
        assert name in missing


def test_pythons_yaml_is_looked_for_where_the_list_has_it(
    image: Callable[[], str], host: Path
) -> None:
    stub(host / "bin/python3", "exit 1")
    assert "hint: sudo apt-get install python3-yaml" in image()


def without_vfat(host: Path) -> None:
    (host / f"{MODULES}/modules.dep").write_text("kernel/fs/xfs/xfs.ko:\n")


def without_nfsd(host: Path) -> None:
    (host / f"{MODULES}/modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")


def without_dsa(host: Path) -> None:
    stub(host / "bin/ssh", "echo ssh-ed25519; echo ssh-rsa")


def without_ipv6(host: Path) -> None:
    (host / "proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1\n")


def with_ufw(host: Path) -> None:
    (host / "etc/ufw").mkdir()
    (host / "etc/ufw/ufw.conf").write_text("ENABLED=yes\nLOGLEVEL=low\n")
    (host / "etc/ufw/user6.rules").write_text(
        "### tuple ### allow tcp 22 ::/0 any ::/0 in\n### tuple ### allow any any ::/0 any fd00::/8"
        " in\n### tuple ### deny any any ::/0 any fc00:1:1::/48 in\n"
    )


def with_a_vpn(host: Path) -> None:
    (host / "proc/net/ipv6_route").write_text(
        "fc000001000100000000000000000000 30 00000000000000000000000000000000 00"
        " 00000000000000000000000000000000 00000400 00000001 00000000 00000001 tun0\n"
    )


@pytest.mark.parametrize(
    ("take_away", "message", "hint"),
    one_of([
        (without_vfat, "does not support vfat", "sudo modprobe vfat"),
        (without_nfsd, "does not support nfsd", "sudo modprobe nfsd"),
        (without_dsa, "OpenSSH makes no DSA keys", "sudo sed -i '/ssh-keygen -t dsa/d' "),
        (without_ipv6, "IPv6 is off", "sysctl -w net.ipv6.conf.all.disable_ipv6=0"),
        (with_ufw, "ufw blocks", "sudo ufw allow from fc00:1:1::/48"),
        (with_a_vpn, "is routed to tun0", "disconnect the VPN"),
        (lambda host: (host / "dev/loop-control").unlink(), "no loop devices", "modprobe loop"),
        (lambda host: shutil.rmtree(host / "sys/bus/usb"), "no USB bus", "lsusb"),
        (lambda host: shutil.rmtree(host / "etc/udev"), "no /etc/udev/rules.d",
         "sudo mkdir -p /etc/udev/rules.d"),
    ]),
)  # fmt: skip
def test_what_a_host_lacks_is_told_before_the_api_is_asked(
    image: Callable[[], str],
    host: Path,
    take_away: Callable[[Path], None],
    message: str,
    hint: str,
) -> None:
    take_away(host)
    text = image()
    assert message in text
    assert hint in text


def test_a_kernel_without_its_modules_here_is_a_warning(
    run: Run, tree: Path, host: Path, api_url: str
) -> None:
    shutil.rmtree(host / "lib")
    text = findings(run, tree, api_url)
    assert [each.partition(":")[0] for each in text] == [
        "cannot tell whether the kernel supports vfat",
        "cannot tell whether the kernel supports nfsd",
    ]
    (host / "proc/filesystems").write_text("\tvfat\nnodev\tnfsd\n")
    assert findings(run, tree, api_url) == []


@pytest.mark.parametrize(
    "rule",
    [
        "allow any any ::/0 any fc00:1:1::/48 in",
        "allow any any ::/0 any ::/0 in_usb0",
        "allow tcp 2049 ::/0 any fc00::/7 in",
    ],
)
def test_a_firewall_that_lets_the_devices_in_is_none(
    run: Run, tree: Path, host: Path, api_url: str, rule: str
) -> None:
    with_ufw(host)
    (host / "etc/ufw/user6.rules").write_text(f"### tuple ### {rule}\n")
    assert findings(run, tree, api_url) == []


def test_firewalld_without_a_rule_is_a_warning(
    run: Run, tree: Path, host: Path, api_url: str
) -> None:
    (host / "run/firewalld").mkdir(parents=True)
    (warned,) = findings(run, tree, api_url)
    assert "firewall-cmd --permanent --zone=trusted --add-source=fc00:1:1::/48" in warned
    (host / "etc/firewalld/zones").mkdir(parents=True)
    (host / "etc/firewalld/zones/trusted.xml").write_text('<source address="fc00:1:1::/48"/>')
    assert findings(run, tree, api_url) == []


def test_what_only_a_flash_needs_is_not_asked_for_without_one(
    run: Run, tree: Path, host: Path, api_url: str
) -> None:
    without_ipv6(host)
    with_ufw(host)
    (host / "bin/ping6").unlink()
    assert findings(run, tree, api_url, "--flash", "0") == []


def test_scripts_find_roots_programs_where_a_short_path_lacks_them(
    monkeypatch: pytest.MonkeyPatch, make_build: Callable[..., object], tmp_path: Path
) -> None:
    from azaion_imagebuild.l4t import scripts

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    build = make_build(tmp_path)
    assert scripts.environment(build)["PATH"] == "/usr/bin:/bin:/usr/sbin:/sbin"  # type: ignore[arg-type]


# The tree and the rootfs.


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["-c", "a.xml"], [("-c", "a.xml")]),
        (["-ca.xml"], [("-c", "a.xml")]),
        (["-p", "--no-systemimg -c b.xml"], [("-c", "b.xml")]),
        (["-p--no-systemimg -c 'b c.xml'"], [("-c", "b c.xml")]),
        (["-p", "-u pkc.pem -v 'sbk"], [("-u", "pkc.pem"), ("-v", "'sbk")]),
        (["--user_key", "k", "--pv-crt", "p"], [("--user_key", "k"), ("--pv-crt", "p")]),
        (["--external-only", "-c"], [("-c", "")]),
        (["--no-systemimg", "-k", "APP"], []),
    ],
)
def test_files_that_arguments_name_are_found(args: list[str], named: list[object]) -> None:
    assert list(tree_needs.named_files(args)) == named


@pytest.mark.parametrize("args", ['["-c", "no.xml"]', '["-p", "--no-systemimg -c no.xml"]'])
@pytest.mark.parametrize("method", ["flash", "initrd"])
def test_a_file_that_args_name_must_be_there(
    image: Callable[[], str], args: str, method: str
) -> None:
    text = CONFIG.partition("args")[0] if method == "initrd" else "[bsp]\n"
    Path("imagebuild.toml").write_text(f"{text}args = {args}\n")
    said = image()
    assert "[bsp] args name 'no.xml' (-c, a partition layout), which is not there" in said
    assert "hint: give a path from" in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-c"], "[bsp] args: -c is the last word, and needs a partition layout after it"),
        (["-S8GiB"], "[bsp] args holds -S8GiB, which this tool sets itself"),
        (["-R/other/rootfs"], "[bsp] args holds -R/other/rootfs, which this tool sets itself"),
    ],
)
def test_arguments_that_would_take_another_meaning_are_refused(
    image: Callable[[], str], args: list[str], said: str
) -> None:
    Path("imagebuild.toml").write_text(f"[bsp]\nargs = {args}\n")
    assert said in image()


@pytest.mark.parametrize("folder", ["bootloader", "tools/kernel_flash", "rootfs/boot"])
def test_a_folder_that_the_scripts_cannot_write_into_is_told(
    image: Callable[[], str], tree: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    asked = os.access

    def on_a_read_only_mount(path: Path, mode: int) -> bool:
        return asked(path, mode) and not (path == tree / folder and mode & os.W_OK)

    monkeypatch.setattr(os, "access", on_a_read_only_mount)
    said = image()
    assert f"{tree / folder} cannot be written" in said
    assert f"lsattr -d {tree / folder}" in said


def test_a_bsp_without_its_own_rootfs_is_refused_even_beside_another_one(
    image: Callable[..., str], tree: Path, rootfs_dir: Path
) -> None:
    Path("imagebuild.toml").write_text("")
    shutil.rmtree(tree / "rootfs")
    said = image("--rootfs-dir", rootfs_dir)
    assert f"{tree}/rootfs/etc is missing" in said
    assert f"hint: sudo mkdir -p {tree}/rootfs/etc" in said


def test_a_rootfs_without_boot_is_refused(image: Callable[..., str], rootfs_dir: Path) -> None:
    Path("imagebuild.toml").write_text("")
    shutil.rmtree(rootfs_dir / "boot")
    said = image("--rootfs-dir", rootfs_dir)
    assert f"the rootfs {rootfs_dir} has no boot/" in said
    assert "apply_binaries.sh" in said
