"""NVIDIA's trees and scripts, as the reference BSP plays them: every method, every lie."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import conf_of
from thorough import one_of, thorough
from world import EMAIL, SERIAL, Ran, Run, Tree, add_usb_device, mounts_of, replace_script

from azaion_imagebuild.errors import OperatorError
from azaion_imagebuild.images import format_of
from azaion_imagebuild.l4t import cleanup, image_files
from azaion_imagebuild.l4t.releases import RELEASES, evidence_of
from azaion_imagebuild.l4t.usb import recovery_devices
from azaion_imagebuild.model import DEVICE_CONF, Build
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.system.mounts import loops_of, mounts_below, release

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NVIDIA's scripts need root")

INITRD = (
    '[bsp]\nmethod = "initrd"\nexternal_device = "nvme0n1p1"\n'
    'partition_xml = "tools/kernel_flash/flash_l4t_external.xml"\n'
)


@pytest.fixture
def image(run: Run, bsp: Path, api_url: str) -> Callable[..., Ran]:
    """Build with the reference BSP as if it were a real one; ``config`` is the TOML."""

    def call(*more: object, config: str = "") -> Ran:
        Path("imagebuild.toml").write_text(config)
        args = ("--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--json")
        return run("image", *args, *more)

    return call


def grep(tree: Path, text: str) -> list[str]:
    return subprocess.run(["grep", "-rl", text, str(tree)], capture_output=True, text=True,
                          check=False).stdout.splitlines()  # fmt: skip


@needs_root
@pytest.mark.parametrize("config", one_of(["", INITRD, INITRD.replace("external_device", "#")]))
def test_both_methods_flash_the_identity_and_leave_no_password_in_the_tree(
    image: Callable[..., Ran], bsp: Path, accounts: Accounts, config: str
) -> None:
    config = config.replace("partition_xml", "#") if "#" in config else config
    ran = image(config=config)
    assert ran.code == 0, ran.err
    assert ran.json["image_format"] == ("tar" if config else "ext4")
    assert ran.json["proof"] == "image"
    password = conf_of(bsp.parent / "device.img").password.reveal()
    assert accounts.login(EMAIL, password)
    assert grep(bsp, password) == []
    assert not Path(ran.json["image"]).exists()
    assert ran.json["removed"]


@needs_root
def test_the_initrd_image_can_be_kept_for_its_owner_only(
    image: Callable[..., Ran], bsp: Path
) -> None:
    ran = image("--keep-image", config=INITRD)
    kept = bsp / "tools/kernel_flash/images/external/system.img"
    assert ran.json["image"] == str(kept)
    assert kept.stat().st_mode & 0o777 == 0o600
    password = conf_of(kept).password.reveal()
    assert grep(bsp, password) == [str(kept)]
    verified = subprocess.run(["tar", "-xOf", str(kept), "./etc/azaion/device.conf"],
                              capture_output=True, text=True, check=True)  # fmt: skip
    assert password in verified.stdout


@needs_root
def test_nvidias_writer_on_a_loop_disk_gives_the_right_owner_mode_and_content(
    image: Callable[..., Ran], tmp_path: Path
) -> None:
    ran = image("--keep-image", config=INITRD)
    assert ran.code == 0, ran.err
    packed = ran.json["image"]
    disk, where = tmp_path / "disk", tmp_path / "mnt"
    where.mkdir()
    script = (
        f"truncate -s 64M {disk} && mkfs.ext4 -q {disk} && mount -o loop {disk} {where} &&"
        f" tar --xattrs -xpf {packed} --checkpoint=10000 --warning=no-timestamp --numeric-owner"
        f" -C {where}; code=$?; stat -c '%u %a' {where}/etc/azaion/device.conf; umount {where};"
        " exit $code"
    )
    done = subprocess.run(["unshare", "--mount", "bash", "-c", script], check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1000 600\n"
    assert conf_of(disk) == conf_of(Path(packed))


@needs_root
@pytest.mark.parametrize("chosen", one_of([((),), (("--usb-instance", "1-3"),)]))
def test_the_record_says_which_device_was_flashed(
    image: Callable[..., Ran], sysfs: Path, chosen: tuple[str, ...]
) -> None:
    (sysfs / "1-3/serial").write_text("4242000117\n")
    ran = image(*chosen)
    assert ran.code == 0, ran.err
    assert (ran.json["usb_instance"], ran.json["ecid"]) == ("1-3", "4242000117")
    ran = image("--flash", "0")
    assert (ran.json["usb_instance"], ran.json["ecid"]) == (None, None)


@thorough
@needs_root
def test_a_base_for_several_devices_keeps_no_copies_for_other_hosts(
    run: Run, image: Callable[..., Ran], bsp: Path, api_url: str
) -> None:
    calls = bsp.parent / "calls"
    script = "tools/kernel_flash/l4t_initrd_flash.sh"
    replace_script(bsp / script, f'echo "$*" >> {calls}; exec ./{script}.real "$@"\n')
    Path("imagebuild.toml").write_text(f"{INITRD}massflash = 3\n")
    ran = run("base", "--bsp", bsp, "--api-url", api_url, "--json")
    assert ran.code == 0, ran.err
    assert "--no-flash --massflash 3" in calls.read_text()
    assert (bsp / "bootloader/boot2.img").is_file()
    assert list(bsp.glob("mfi_*")) == []
    calls.unlink()
    stamp = '[image]\ninject = "stamp"\n'
    assert image(config=f"{INITRD}massflash = 2\n{stamp}").code == 0
    assert "--no-flash" not in calls.read_text()  # what was packed for three does for two
    ran = image(config=f"{INITRD}massflash = 4\n{stamp}")
    assert ran.code == 0, ran.err
    assert "--no-flash --massflash 4" in calls.read_text()
    assert "cannot be packed for 11" in image(config=f"{INITRD}massflash = 11\n").json["error"]


SIGNING = [
    ('["--sign"]', "signed"),
    ('["-u", "keys/pkc.pem"]', "signed"),
    ('["-u", "keys/pkc.pem", "-v", "keys/sbk.key"]', "enc_signed"),
]


def make_keys(bsp: Path) -> None:
    (bsp / "keys").mkdir()
    for name in ("pkc.pem", "sbk.key"):
        (bsp / "keys" / name).touch()


@needs_root
@pytest.mark.parametrize(("args", "folder"), one_of(SIGNING))
def test_a_signed_image_is_good_only_if_its_signer_came_to_its_end(
    image: Callable[..., Ran], bsp: Path, args: str, folder: str
) -> None:
    config = f"[bsp]\nargs = {args}\n"
    make_keys(bsp)
    assert image("--flash", "0", config=config).code == 0
    index = f"bootloader/{folder}/flash.idx"
    assert (bsp / index).is_file()  # of this run: the next one has to write it again
    replace_script(bsp / "bootloader/tegraflash", "echo 'Error: Return value 8'; exit 8\n")
    ran = image("--flash", "0", config=config)
    assert ran.code == 6, ran.err
    assert index in ran.json["error"]
    assert "Error: Return value 8" in ran.json["error"]
    assert "flash.log" in ran.json["hint"]


@needs_root
def test_a_signed_image_is_flashed_without_the_option_that_only_signs(
    image: Callable[..., Ran], bsp: Path
) -> None:
    ran = image(config='[bsp]\nargs = ["--sign"]\n')
    assert ran.code == 0, ran.err
    assert conf_of(bsp.parent / "device.img").email == EMAIL


@needs_root
def test_a_flash_whose_success_cannot_be_recognized_needs_the_sites_words(
    image: Callable[..., Ran], bsp: Path
) -> None:
    make_keys(bsp)
    fused = '[bsp]\nargs = ["-u", "keys/pkc.pem", "-v", "keys/sbk.key"]\n'
    assert image("--flash", "0", config=fused).code == 0  # what only builds can be judged
    ran = image(config=fused)
    assert ran.code == 3
    assert "its success cannot be recognized" in ran.json["error"]
    assert "[bsp] success" in ran.json["hint"]
    says = 'case "$1" in -r) echo "site: all done" ;; esac\n'
    replace_script(bsp / "flash.sh", f'./flash.sh.real "$@" && {says}')
    assert image(config=f'{fused}success = "site: all done"\n').code == 0
    (bsp / "flash.sh").write_text((bsp / "flash.sh").read_text() + "seq 300\n")
    assert image(config=f'{fused}success = "site: all done"\n').code == 0
    ran = image(config=f'{fused}success = "site: all well"\n')
    assert (ran.code, "never said “site: all well”" in ran.json["error"]) == (7, True)


@needs_root
@pytest.mark.parametrize("config", one_of(["", INITRD]))
def test_lines_that_look_like_errors_do_not_fail_a_script_that_succeeded(
    image: Callable[..., Ran], bsp: Path, config: str
) -> None:
    name = "tools/kernel_flash/l4t_initrd_flash.sh" if config else "flash.sh"
    replace_script(bsp / name, f'echo "Error: The backup GPT table is corrupt"; ./{name}.real "$@"')
    ran = image(config=config)
    assert ran.code == 0, ran.err
    assert "Error: The backup GPT table" in Path(ran.json["log"]).with_name("flash.log").read_text()


@needs_root
def test_only_what_this_flash_has_logged_shows_that_it_succeeded(
    image: Callable[..., Ran], bsp: Path
) -> None:
    config = f'{INITRD}network = "usb0"\n'
    script = bsp / "tools/kernel_flash/l4t_initrd_flash.sh"
    replace_script(script, 'ends() { truncate -s 17M initrdlog/*.log; echo "Flash is successful" >>'
                   f' "$(echo initrdlog/*.log)"; }}\n{script}.real "$@" && case "$1" in'
                   ' --flash-only) ends ;; esac\n')  # fmt: skip
    assert image(config=config).code == 0
    script.write_text(f'#!/bin/bash\n[ "$1" = --flash-only ] || exec {script}.real "$@"\n')
    ran = image(config=config)  # at once: the log of the device before is new, too
    assert (ran.code, "never said “Flash is successful”" in ran.json["error"]) == (7, True)


MEANINGS = {
    "BootRom is not running": "has left recovery mode",
    "Either the device cannot mount the NFS server on the host or a command has failed": "exportfs",
    "Timeout": "did not come back",
    "Parsing chip_info.bin information failed.": "a USB time-out",
    "No such file or directory: '/b/tegrasign_v3_oemkey.yaml'": "Secure Boot archive",
    "'ElementTree' object has no attribute 'getiterator'": "Python 3.8",
    "Error: probing the target board failed.": "FORCE RECOVERY",
}


@needs_root
@pytest.mark.parametrize("line", one_of(MEANINGS))
def test_a_line_with_a_known_meaning_explains_a_failure_and_names_the_log(
    image: Callable[..., Ran], bsp: Path, line: str
) -> None:
    replace_script(bsp / "flash.sh", f'[[ "$*" == *--no-flash* ]] && exec ./flash.sh.real "$@"\n'
                   f'echo "{line}"; exit 1\n')  # fmt: skip
    ran = image()
    assert ran.code == 7
    assert MEANINGS[line] in ran.json["hint"]
    assert "/flash.log" in ran.json["hint"]


DROP = "debugfs -w -R 'rm /etc/azaion/device.conf'"


@needs_root
@pytest.mark.skipif(shutil.which("img2simg") is None, reason="needs android-sdk-libsparse-utils")
def test_sparse_images_of_debians_img2simg_are_proven_and_flashed_alike(
    image: Callable[..., Ran], bsp: Path, accounts: Accounts
) -> None:
    replace_script(
        bsp / "bootloader/mksparse",
        '[ "$1" = --expand ] && { rm -f "$3"; exec simg2img "$2" "$3"; }\n'
        'exec img2simg "$2" "$3"\n',
    )
    ran = image()
    assert ran.code == 0, ran.err
    assert accounts.login(EMAIL, conf_of(bsp.parent / "device.img").password.reveal())


DAMAGES = {
    "size": ("sif /usr/bin/azaion-loader size 0", "/usr/bin/azaion-loader has 0 bytes, not "),
    "mode": ("sif /usr/bin/azaion-loader mode 0100644", "has mode 0644, not 0755"),
    "owner": ("sif /usr/bin/azaion-loader uid 77", "has owner 77:0, not 0:0"),
    "time": ("sif /usr/bin/azaion-loader mtime 19990101", "has the time 1999-01-01"),
    "type": ("sif /usr/bin/azaion-loader mode 0010755", "has the type pipe, not file"),
    "link target": (
        "rm /usr/bin/loader\nsymlink /usr/bin/loader /tmp/other",
        "has the link target '/tmp/other', not 'azaion-loader'",
    ),
    "device": ("sif /dev/null block[0] 0x108", "has device 1:8, not 1:3"),
}


@needs_root
@pytest.mark.parametrize("attribute", one_of(DAMAGES))
def test_a_copy_that_is_wrong_in_one_attribute_of_one_file_is_not_flashed(
    image: Callable[..., Ran], bsp: Path, attribute: str
) -> None:
    commands, words = DAMAGES[attribute]
    (bsp.parent / "damage").write_text(f"{commands}\n")
    (bsp / "rootfs/usr/bin/loader").symlink_to("azaion-loader")
    os.mknod(bsp / "rootfs/dev/null", 0o020666, os.makedev(1, 3))
    replace_script(
        bsp / "flash.sh",
        '[[ "$*" == *--no-flash* ]] || exec ./flash.sh.real "$@"\n'
        './flash.sh.real "$@" && cd bootloader && debugfs -w -f ../../damage system.img.raw'
        " && ./mksparse --fillpattern=0 system.img.raw system.img\n",
    )
    ran = image()
    assert ran.code == 8, ran.err
    assert words in ran.json["error"]
    assert (bsp.parent / "device.img").stat().st_size == 0
    assert image_files.present_images(bsp) == []


LIES: dict[str, tuple[str, str, int, str]] = {
    # Four of the ways in which NVIDIA's scripts end with 0 over a bad image.
    "the reading side of the tar pipe dies": (
        "", "mkdir gone; mv rootfs/[l-z]* gone; {real}; code=$?; mv gone/* rootfs; exit $code",
        8, "it lacks /lib",
    ),
    "a file is dropped": (
        "",
        "{real} && debugfs -w -R 'rm /usr/bin/azaion-loader' bootloader/system.img.raw &&"
        " (cd bootloader; ./mksparse --fillpattern=0 system.img.raw system.img)",
        8,
        "it lacks /usr/bin/azaion-loader",
    ),
    "two scripts worked in one tree": (
        "", "{real} && dd if=/dev/zero of=bootloader/system.img.raw bs=4096 seek=2 count=60"
        " conv=notrunc status=none && (cd bootloader; ./mksparse --fillpattern=0 system.img.raw"
        " system.img)", 8, "",
    ),
    "the sparse image was made while mounted": (
        "", "{real} && debugfs -w -R 'feature needs_recovery' bootloader/system.img.raw",
        8, "copied while mounted",
    ),
    # And some of their relatives.
    "an old sparse image stays": (
        "", "cp -p bootloader/system.img old; {real} && cp -p ../old.img bootloader/system.img",
        8, "holds another password",
    ),
    "the sparse image is of another filesystem": (
        "", "{real} && cp bootloader/system.img.raw o && tune2fs -U random o >/dev/null &&"
        " bootloader/mksparse --fillpattern=0 o bootloader/system.img; rm o",
        8, "do not agree",
    ),
    "the archive lacks the file": (
        INITRD, "{real} && tar --delete -f tools/kernel_flash/images/external/system.img"
        " ./etc/azaion/device.conf", 8, "holds no /etc/azaion/device.conf",
    ),
    "the archive is cut short": (
        INITRD, "{real} && truncate -s 20480 tools/kernel_flash/images/external/system.img",
        8, "cut short",
    ),
    "a later member replaces the file": (
        INITRD, "{real} && mkdir -p x/etc/azaion && echo bad > x/etc/azaion/device.conf && tar -rf"
        " tools/kernel_flash/images/external/system.img -C x ./etc/azaion/device.conf", 8, "",
    ),
    "the packages are not made": (INITRD, "echo Success", 6, "is missing"),
    "the image is encrypted unasked": (
        "", "ROOTFS_ENC=1 {real}", 6, "ROOTFS_ENC is not set",
    ),
}  # fmt: skip


@needs_root
@pytest.mark.parametrize("lie", one_of(LIES))
def test_a_lie_is_caught_before_anything_is_flashed(
    image: Callable[..., Ran], bsp: Path, lie: str, api_url: str, run: Run
) -> None:
    config, script, code, words = LIES[lie]
    if "old.img" in script:
        kept = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--json",
                   "--flash", "0").json["image"]  # fmt: skip
        subprocess.run([bsp / "bootloader/mksparse", "--fillpattern=0", kept,
                        bsp.parent / "old.img"], check=True)  # fmt: skip
    name = "tools/kernel_flash/l4t_initrd_flash.sh" if config else "flash.sh"
    real = f'./{name}.real "$@"'
    replace_script(bsp / name, f'[[ "$*" == *--no-flash* ]] || exec {real}\n'
                   + script.format(real=real) + "\n")  # fmt: skip
    ran = image(config=config)
    assert ran.code == code, ran.err
    assert words in ran.json["error"]
    assert (bsp.parent / "device.img").stat().st_size == 0
    assert not (bsp / "rootfs" / DEVICE_CONF).exists()
    assert image_files.present_images(bsp) == []


@needs_root
@pytest.mark.parametrize("config", one_of(["", INITRD]))
@pytest.mark.parametrize(
    ("script", "words"),
    one_of(
        [
            ("exit 1", "failed (exit 1)"),
            ("exit 0", "never said"),
            ("echo 'Flash complete (WITH FAILURES)'; exit 0", "WITH FAILURES"),
            ("echo 'Timeout'; echo Success; exit 0", "Timeout"),
            ("echo '12:34:56.789 - Error: Flash failure.'; exit 0", "Error: Flash failure."),
            ("kill -9 $$", "failed (exit -9)"),
        ]
    ),
)
def test_a_flash_that_is_not_confirmed_is_a_flash_error(
    image: Callable[..., Ran], bsp: Path, config: str, script: str, words: str
) -> None:
    name = "tools/kernel_flash/l4t_initrd_flash.sh" if config else "flash.sh"
    replace_script(bsp / name, f'[[ "$*" == *--no-flash* ]] && exec ./{name}.real "$@"\n'
                   + script + "\n")  # fmt: skip
    ran = image(config=config)
    assert (ran.code, ran.json["step"]) == (7, "flash"), ran.err
    assert words in ran.json["error"]
    assert ran.json["flashed"] is False
    assert image_files.present_images(bsp) == []


@needs_root
def test_a_script_that_hangs_is_stopped_at_its_time_limit(
    image: Callable[..., Ran], bsp: Path
) -> None:
    replace_script(bsp / "flash.sh", "sleep 60\n")
    ran = image(config="[build]\nscript_timeout = 0.5\n")
    assert ran.code == 6
    assert "time limit" in ran.json["error"]


@needs_root
def test_an_image_that_changes_after_its_proof_is_not_flashed(
    image: Callable[..., Ran], bsp: Path, tmp_path: Path
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/aa.py").write_text(
        "import os\nfrom azaion_imagebuild import hookimpl\n@hookimpl(trylast=True)\n"
        "def verify_image(image):\n    os.utime(image.path, (5, 5))\n    return []\n"
    )
    ran = image(config=f'[hooks]\ndirs = ["{tmp_path}/plugins"]\n')
    assert ran.code == 8
    assert "changed by another program after its proof" in ran.json["error"]


@needs_root
def test_a_second_rootfs_of_rootfs_ab_is_proven_and_cleaned_too(
    image: Callable[..., Ran], bsp: Path
) -> None:
    config = '[bsp]\nenvironment = { ROOTFS_AB = "1" }\n'
    ran = image(config=config)
    assert ran.code == 0, ran.err
    assert "bootloader/system.img_b" in ran.json["removed"]
    replace_script(
        bsp / "flash.sh",
        './flash.sh.real "$@" && cp bootloader/system.img.raw o &&'
        f" {DROP} o && bootloader/mksparse --fillpattern=0 o bootloader/system.img_b\n",
    )
    ran = image(config=config)
    assert ran.code == 8
    assert "system.img_b holds no" in ran.json["error"]


@needs_root
def test_an_encrypted_image_is_said_to_be_proven_as_staged(
    image: Callable[..., Ran], bsp: Path
) -> None:
    replace_script(bsp / "flash.sh", '[[ "$*" == *--no-flash* ]] && exec ./flash.sh.real "$@"\n'
                   'echo "*** The target x has been flashed successfully. ***"\n')  # fmt: skip
    config = '[bsp]\nenvironment = { ROOTFS_ENC = "1" }\n'
    ran = image(config=config)
    assert ran.code == 0, ran.err
    assert (ran.json["image_format"], ran.json["proof"]) == ("luks", "staged")
    assert "staged, not read back" in ran.err
    real = (bsp / "flash.sh.real").read_text()
    (bsp / "flash.sh.real").write_text(real + "echo x >> rootfs/etc/azaion/device.conf\n")
    replaced = (
        (bsp / "flash.sh")
        .read_text()
        .replace(
            'exec ./flash.sh.real "$@"',
            '{ ./flash.sh.real "$@"; echo x >> rootfs/etc/azaion/device.conf; exit; }',
        )
    )
    (bsp / "flash.sh").write_text(replaced)
    ran = image(config=config)
    assert ran.code == 8
    assert "malformed" in ran.json["error"]


@needs_root
def test_an_overlay_keeps_the_bsps_rootfs_clean_all_the_time(
    image: Callable[..., Ran], bsp: Path
) -> None:
    before = Tree(bsp / "rootfs", fake=False).snapshot()
    replace_script(bsp / "flash.sh", "ls rootfs/etc/azaion 2>&1 | tee -a ../seen; ls $3/etc/azaion"
                   ' | tee -a ../seen; ./flash.sh.real "$@"\n')  # fmt: skip
    config = '[image]\nstaging = "overlay"\n'
    ran = image(config=config)
    assert ran.code == 0, ran.err
    assert "device.conf" in (bsp.parent / "seen").read_text().splitlines()
    assert "cannot access 'rootfs/etc/azaion'" in (bsp.parent / "seen").read_text()
    assert Tree(bsp / "rootfs", fake=False).snapshot() == before
    assert mounts_of(bsp) == []
    assert conf_of(bsp.parent / "device.img").email == EMAIL


def test_an_overlay_without_root_says_to_use_sudo(
    image: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
    ran = image(config='[image]\nstaging = "overlay"\n')
    assert ran.code == 3
    assert "sudo" in ran.json["hint"]


# Preflight and doctor.


def findings(run: Run, bsp: Path, url: str, *more: object) -> str:
    ran = run("doctor", "--bsp", bsp, "--api-url", url, "--json", *more)
    assert ran.code == ran.json["exit_code"]
    return "\n".join(f"{f['message']} -> {f['hint']}" for f in ran.json["findings"])


@needs_root
def test_doctor_finds_a_ready_bench_ready(run: Run, bsp: Path, api_url: str) -> None:
    assert findings(run, bsp, api_url) == ""
    assert "OK: ready to build" in run("doctor", "--bsp", bsp, "--api-url", api_url).err


def test_doctor_changes_nothing(run: Run, bsp: Path, api_url: str, accounts: Accounts) -> None:
    stale = bsp / "rootfs" / DEVICE_CONF
    stale.parent.mkdir()
    stale.write_text("x")
    before = Tree(bsp, fake=False).snapshot()
    findings(run, bsp, api_url)
    assert Tree(bsp, fake=False).snapshot() == before
    assert accounts.list() == []


def test_devices_in_recovery_mode_are_counted(
    run: Run, bsp: Path, sysfs: Path, api_url: str
) -> None:
    add_usb_device(sysfs, "2-1.4", "0955", "7623")
    add_usb_device(sysfs, "2-2", "0955", "7020")  # a Jetson that has booted
    found = recovery_devices(sysfs)
    assert [each.instance for each in found] == ["1-3", "2-1.4"]
    text = findings(run, bsp, api_url)
    assert "2 devices are in recovery mode: 1-3 (0955:7523), 2-1.4 (0955:7623)" in text
    assert "--usb-instance" in text
    assert "recovery" not in findings(run, bsp, api_url, "--usb-instance", "2-1.4")
    assert "at the USB instance '9-9'" in findings(run, bsp, api_url, "--usb-instance", "9-9")
    assert "recovery" not in findings(run, bsp, api_url, "--flash", "0")


def test_no_device_says_what_to_press(run: Run, bsp: Path, sysfs: Path, api_url: str) -> None:
    (sysfs / "1-3/idProduct").write_text("7020\n")
    assert "hold FORCE RECOVERY" in findings(run, bsp, api_url)


def test_a_rootfs_that_is_not_populated_says_which_script(
    run: Run, bsp: Path, api_url: str
) -> None:
    (bsp / "rootfs/etc/nv_tegra_release").unlink()
    assert "apply_binaries.sh" in findings(run, bsp, api_url)


def test_a_disk_that_is_too_small_is_found(
    run: Run, bsp: Path, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("azaion_imagebuild.l4t.disk_space.shutil.disk_usage",
                        lambda _: type("Usage", (), {"free": 1000}))  # fmt: skip
    assert "make room" in findings(run, bsp, api_url)


def test_a_script_that_somebody_else_runs_in_the_tree_is_found(
    run: Run, bsp: Path, api_url: str
) -> None:
    replace_script(bsp / "flash.sh", "touch started; sleep 60\n")
    with subprocess.Popen(["./flash.sh"], cwd=bsp, start_new_session=True) as other:
        while not (bsp / "started").exists():
            time.sleep(0.01)
        text = findings(run, bsp, api_url)
        os.killpg(other.pid, 9)
    assert f"process {other.pid}" in text


def test_firmware_that_flash_sh_would_drop_without_a_word_is_found(
    run: Run, bsp: Path, api_url: str
) -> None:
    Path("imagebuild.toml").write_text(
        '[bsp]\nrequired_files = ["bootloader/mksparse", "bootloader/nvdisp-init.bin"]\n'
    )
    text = findings(run, bsp, api_url)
    assert "bootloader/nvdisp-init.bin" in text
    assert "bootloader/mksparse" not in text


def test_an_external_device_needs_the_initrd_method_and_a_layout(
    run: Run, bsp: Path, api_url: str
) -> None:
    text = findings(run, bsp, api_url, "--rootdev", "nvme0n1p1")
    assert "packs only /boot" in text
    assert 'method = "initrd"' in text
    Path("imagebuild.toml").write_text('[bsp]\nmethod = "initrd"\nexternal_device = "nvme0n1p1"\n')
    assert "needs a partition layout" in findings(run, bsp, api_url)


def set_release(bsp: Path, line: str) -> None:
    (bsp / "rootfs/etc/nv_tegra_release").write_text(line)


def test_an_unknown_release_is_a_warning(run: Run, bsp: Path, api_url: str) -> None:
    for number in (35, 36, 38):
        set_release(bsp, f"# R{number} (release), REVISION: 1.0, GCID: 0\n")
        assert "was not made for" not in findings(run, bsp, api_url)
    set_release(bsp, "# R32 (release), REVISION: 7.4, GCID: 0\n")
    ran = run("doctor", "--bsp", bsp, "--api-url", api_url, "--flash", "0", "--json")
    (found,) = [each for each in ran.json["findings"] if "R32.7.4" in each["message"]]
    assert found["severity"] == "warning"


def test_a_layout_of_another_release_is_found(run: Run, bsp: Path, api_url: str) -> None:
    (bsp / "bootloader/generic/cfg").mkdir(parents=True)
    (bsp / "bootloader/generic/cfg/flash_t234_qspi.xml").touch()
    Path("imagebuild.toml").write_text(
        f'{INITRD}args = ["-p", "--no-systemimg -c bootloader/t186ref/cfg/flash_t234_qspi.xml"]\n'
    )
    text = findings(run, bsp, api_url)
    assert "'bootloader/t186ref/cfg/flash_t234_qspi.xml' (-c, a partition layout)" in text
    assert "use bootloader/generic/cfg/flash_t234_qspi.xml" in text


def test_the_documented_layouts_are_those_of_each_release() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/nvme.md").read_text()
    for number, known in RELEASES.items():
        block = page.partition(f"(R{number}")[2].partition("```toml")[2].partition("```")[0]
        for layout in (known.qspi_layout, known.nvme_layout):
            assert (layout in block) is not known.boards_have_defaults


def test_a_board_of_r38_names_its_external_device_and_layout(
    run: Run, bsp: Path, api_url: str
) -> None:
    with (bsp / "jetson-orin-nano-devkit.conf").open("a") as board:
        board.write('source "${LDK_DIR}/p3768.conf"\n')
    (bsp / "p3768.conf").write_text(
        'EXTERNAL_DEVICE="nvme0n1p1";\n'
        'EXTERNAL_PT_LAYOUT="tools/kernel_flash/flash_l4t_nvme.xml";\n'
    )
    Path("imagebuild.toml").write_text('[bsp]\nmethod = "initrd"\n')
    assert "flash_l4t_nvme.xml" not in findings(run, bsp, api_url)  # R35: nothing is external
    set_release(bsp, "# R38 (release), REVISION: 2.0, GCID: 0\n")
    assert "no partition layout tools/kernel_flash/flash_l4t_nvme.xml" in findings(
        run, bsp, api_url
    )


@pytest.mark.parametrize(("release", "evidence"), [(36, "Success"), (38, "Flash is successful")])
def test_r38_flashes_over_usb0_even_if_no_network_is_set(
    make_build: Callable[..., Build], bsp: Path, release: int, evidence: str
) -> None:
    set_release(bsp, f"# R{release} (release), REVISION: 2.0, GCID: 0\n")
    build = make_build(bsp / "rootfs", bsp, bsp__method="initrd", bsp__network="")
    found = evidence_of(build, "flash")
    assert found is not None
    assert found.line == evidence


@pytest.mark.parametrize(("release", "refused"), [(36, False), (38, True)])
def test_the_initrd_flash_of_r38_takes_no_further_device_beside_the_chosen_one(
    run: Run, bsp: Path, api_url: str, sysfs: Path, release: int, refused: bool
) -> None:
    set_release(bsp, f"# R{release} (release), REVISION: 2.0, GCID: 0\n")
    add_usb_device(sysfs, "1-5", "0955", "7523")
    Path("imagebuild.toml").write_text('[bsp]\nmethod = "initrd"\nusb_instance = "1-3"\n')
    said = findings(run, bsp, api_url)
    assert ("refuses all but one, even if it is told which" in said) == refused


def test_unified_flash_is_refused_before_anything_changes(
    run: Run, bsp: Path, api_url: str
) -> None:
    with (bsp / "jetson-orin-nano-devkit.conf").open("a") as board:
        board.write('_UNIFIED_FLASH="1";\n')
    assert "unified" not in findings(run, bsp, api_url)
    Path("imagebuild.toml").write_text('[bsp]\nmethod = "initrd"\n')
    assert "uses unified flash" in findings(run, bsp, api_url)


def test_an_unknown_board_lists_those_like_it(run: Run, bsp: Path, api_url: str) -> None:
    for name in ("jetson-agx-orin-devkit", "jetson-xavier", "p2822-0000+p2888-0004"):
        (bsp / f"{name}.conf").touch()
    text = findings(run, bsp, api_url, "--board", "jetson-orin-nano-devkti")
    assert "for example: jetson-orin-nano-devkit, jetson-agx-orin-devkit" in text
    assert "p2888" not in text
    assert "jetson-xavier, p2822" in findings(run, bsp, api_url, "--board", "zzz")


def test_a_folder_that_is_no_bsp_says_so(run: Run, tmp_path: Path, api_url: str) -> None:
    assert "no BSP at" in findings(run, tmp_path / "nothing", api_url)
    assert "not an executable script" in findings(run, tmp_path, api_url)


# What scripts leave behind.


@needs_root
def test_mounts_and_loop_devices_of_a_killed_script_are_released(tmp_path: Path) -> None:
    tree, other = tmp_path / "tree dir", tmp_path / "other"
    for folder in (tree, other):
        folder.mkdir()
        subprocess.run(["mke2fs", "-q", folder / "raw", "8M"], check=True)
    (tree / "mnt").mkdir()
    subprocess.run(["mount", "-o", "loop", tree / "raw", tree / "mnt"], check=True)
    stray = subprocess.run(["losetup", "-f", "--show", other / "raw"], check=True,
                           capture_output=True, text=True).stdout.strip()  # fmt: skip
    try:
        assert mounts_below(tree) == [tree / "mnt"]
        assert len(loops_of(tree)) == 1
        assert release(tree) == []
        assert mounts_below(tree) == []
        assert loops_of(other) == [Path(stray)]
    finally:
        subprocess.run(["losetup", "-d", stray], check=True)


@needs_root
def test_what_a_script_left_in_a_folder_on_another_disk_is_released(
    bsp: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    (bsp / "bootloader").rename(disk)
    (bsp / "bootloader").symlink_to(disk)
    (disk / "mnt").mkdir()
    subprocess.run(["mke2fs", "-q", disk / "system.img.raw", "8M"], check=True)
    subprocess.run(["mount", "-o", "loop", disk / "system.img.raw", disk / "mnt"], check=True)
    try:
        cleanup.release(bsp)
        assert (mounts_below(disk), loops_of(disk)) == ([], [])
    finally:
        release(disk)


@needs_root
def test_a_busy_mount_names_the_process_that_keeps_it(image: Callable[..., Ran], bsp: Path) -> None:
    where = bsp / "bootloader/mnt"
    where.mkdir()
    subprocess.run(["mke2fs", "-q", bsp / "bootloader/system.img.raw", "8M"], check=True)
    subprocess.run(["mount", "-o", "loop", bsp / "bootloader/system.img.raw", where], check=True)
    with subprocess.Popen(["sleep", "60"], cwd=where) as user:
        try:
            ran = image()
        finally:
            user.kill()
            user.wait()
            subprocess.run(["umount", where], check=True)
    assert ran.code == 6, ran.err
    assert ran.json["error"].startswith(f"{where}, /dev/loop")
    assert "could not be unmounted or detached" in ran.json["error"]
    assert f"stop process {user.pid} (sleep); then run umount" in ran.json["hint"]


@needs_root
def test_a_mount_of_the_sites_own_stays(image: Callable[..., Ran], bsp: Path) -> None:
    where = bsp / "bootloader"
    subprocess.run(["mount", "--bind", where, where], check=True)
    try:
        ran = image()
        assert ran.code == 0, ran.err
        assert mounts_below(bsp) == [where]
    finally:
        subprocess.run(["umount", where], check=True)
    assert mounts_below(bsp) == []


@needs_root
def test_a_mount_that_an_earlier_script_left_does_not_stop_the_next_build(
    image: Callable[..., Ran], bsp: Path
) -> None:
    subprocess.run(["mke2fs", "-q", bsp / "bootloader/system.img.raw", "8M"], check=True)
    (bsp / "bootloader/mnt").mkdir()
    subprocess.run(["mount", "-o", "loop", bsp / "bootloader/system.img.raw",
                    bsp / "bootloader/mnt"], check=True)  # fmt: skip
    ran = image()
    assert ran.code == 0, ran.err
    assert mounts_below(bsp) == []
    assert loops_of(bsp) == []


def test_the_search_finds_a_secret_wherever_it_stands_and_passes_holes_over(
    tmp_path: Path,
) -> None:
    secret = Secret("00112233445566778899aabbccddeeff")
    value = secret.reveal().encode()
    (tmp_path / "none").write_bytes(b"x" * 100)
    (tmp_path / "split").write_bytes(b"y" * ((1 << 20) - 5) + value)
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 34)
        stream.seek(1 << 33)
        stream.write(value)
    (tmp_path / "link").symlink_to("split")
    os.mkfifo(tmp_path / "fifo")
    found = cleanup.files_with_secret(tmp_path, secret, since=time.time() - 60)
    assert sorted(path.name for path in found) == ["sparse", "split"]
    assert cleanup.files_with_secret(tmp_path, secret, since=time.time() + 60) == []


def test_in_a_lane_a_shared_file_counts_by_when_it_was_written(tmp_path: Path) -> None:
    secret = Secret("00112233445566778899aabbccddeeff")
    old, own = tmp_path / "old", tmp_path / "own"
    for path in (old, own):
        path.write_bytes(secret.reveal().encode())
        os.utime(path, (1, 1))
    (tmp_path / "second-name").hardlink_to(old)  # changes its ctime
    since = time.time() - 60
    found = cleanup.files_with_secret(tmp_path, secret, since)
    assert sorted(path.name for path in found) == ["old", "own", "second-name"]
    assert cleanup.files_with_secret(tmp_path, secret, since, linked=True) == [own]
    os.utime(old)
    found = cleanup.files_with_secret(tmp_path, secret, since, linked=True)
    assert sorted(path.name for path in found) == ["old", "own", "second-name"]


@thorough
def test_images_of_other_builds_survive_a_build_that_never_came_so_far(
    image: Callable[..., Ran], bsp: Path
) -> None:
    old = bsp / "bootloader/system.img.raw"
    old.write_bytes(b"somebody's image")
    os.utime(old, (1, 1))
    time.sleep(2.1)  # ctime tells, and it cannot be set
    assert image("--board", "nonsense").code == 3
    assert old.read_bytes() == b"somebody's image"


def test_a_copy_that_a_site_script_makes_is_found_and_fails_loudly(
    image: Callable[..., Ran], bsp: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("NVIDIA's scripts need root")
    replace_script(
        bsp / "flash.sh", 'cp rootfs/etc/azaion/device.conf copied; ./flash.sh.real "$@"'
    )
    ran = image()
    assert ran.code == 8
    assert "still found in copied" in ran.json["error"]


TWINS = {
    "a byte of etc/passwd": "sed -i 's/azaion:x:/azaiox:x:/' altered",
    "the name of a file": (
        "printf 'ln /usr/bin/azaion-loader /usr/bin/azaion-loadex\\nunlink"
        " /usr/bin/azaion-loader\\n' | debugfs -w -f - altered"
    ),
    "a mode": "debugfs -w -R 'sif /etc/passwd mode 0100666' altered",
    "data beyond its end": "printf x >> altered; truncate -s %4096 altered",
    "the last block": "dd if=/dev/zero of=altered bs=1 count=1 seek=$(($(stat -c %s altered) - 1))"
    " conv=notrunc; printf x | dd of=altered bs=1 seek=$(($(stat -c %s altered) - 1)) conv=notrunc",
}
"""What a mksparse may do to the twin that is flashed, while the raw image stays as it was built."""


@needs_root
@pytest.mark.parametrize("kind", one_of(TWINS))
def test_a_sparse_twin_that_differs_from_the_raw_image_is_not_flashed(
    image: Callable[..., Ran], bsp: Path, kind: str
) -> None:
    replace_script(
        bsp / "bootloader/mksparse",
        'here=$(dirname "$0"); [ "$1" = --expand ] && exec "$here"/mksparse.real "$@"\n'
        f'cp "${{@: -2:1}}" altered; {{ {TWINS[kind]}; }} >&2\n'
        '"$here"/mksparse.real --fillpattern=0 altered "${@: -1}"; rm altered\n',
    )
    ran = image()
    assert ran.code == 8, ran.err
    assert "DONE" not in ran.err
    assert (bsp.parent / "device.img").stat().st_size == 0
    assert image_files.present_images(bsp) == []


@needs_root
def test_no_image_of_an_earlier_build_can_be_taken_for_a_new_one(
    image: Callable[..., Ran], bsp: Path
) -> None:
    raw, twin = bsp / "bootloader/system.img.raw", bsp / "bootloader/system.img"
    assert image("--flash", "0").code == 0
    os.link(raw, bsp.parent / "second-name")
    kept, password = raw.read_bytes(), conf_of(raw).password.reveal()
    for _ in range(2):  # the second time, the script replaces what has no other name
        assert image("--flash", "0").code == 0
        assert (bsp.parent / "second-name").read_bytes() == kept
        assert grep(bsp, password) == []
    seen = bsp.parent / "seen"
    replace_script(bsp / "flash.sh", f"cp -r bootloader {seen}; exit 0")
    ran = image("--flash", "0")
    assert ran.code == 6, ran.err
    assert not (seen / twin.name).exists()
    with pytest.raises(OperatorError):
        format_of(seen / raw.name)
    assert not raw.exists(), "no script has replaced it"
    assert not twin.exists()


def test_an_earlier_image_makes_room_where_room_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "bootloader/system.img.raw"
    raw.parent.mkdir()
    raw.write_bytes(os.urandom(1 << 20))
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=1 << 19))
    cleanup.clear_images(tmp_path)
    assert not raw.exists()


@needs_root
def test_an_earlier_image_that_cannot_be_removed_stops_the_build(
    image: Callable[..., Ran], bsp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image("--flash", "0").code == 0
    twin = bsp / "bootloader/system.img"
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path == twin:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)  # chattr +i needs a capability
    ran = image("--flash", "0")
    assert ran.code == 6
    assert f"cannot remove {twin} (Operation not permitted)" in ran.json["error"]
    assert "lsattr" in ran.json["hint"]
