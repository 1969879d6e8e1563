"""Releases that pack by zstd (R36.4 and newer), as the reference BSP plays them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import conf_of
from thorough import one_of, thorough
from world import EMAIL, SERIAL, Ran, Run, replace_script

from azaion_imagebuild.images.zstd import Unpacked, library
from azaion_imagebuild.l4t import cleanup, image_files, packed_files
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.secret import Secret

pytestmark = [
    pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="NVIDIA's scripts need root"),
]
ZSTD = (
    '[bsp]\nmethod = "initrd"\nexternal_device = "nvme0n1p1"\n'
    'partition_xml = "tools/kernel_flash/flash_l4t_external.xml"\n'
    'environment = { ZSTD = "1" }\n'
)
SPARSE = ZSTD + 'args = ["--sparse"]\n'
STAMP = ZSTD + '[image]\ninject = "stamp"\n'
PACKED = "tools/kernel_flash/images/external/system.img"
INNER = "tools/kernel_flash/l4t_initrd_flash_internal.sh"


@pytest.fixture
def image(run: Run, bsp: Path, api_url: str) -> Callable[..., Ran]:
    """Build with the reference BSP as if it were a real one; ``config`` is the TOML."""

    def call(*more: object, config: str = ZSTD, serial: str = SERIAL) -> Ran:
        Path("imagebuild.toml").write_text(config)
        args = ("--serial", serial, "--bsp", bsp, "--api-url", api_url, "--json")
        return run("image", *args, *more)

    return call


def holders(tree: Path, password: str) -> list[Path]:
    return cleanup.files_with_secret(tree, Secret(password), 0.0)


@pytest.mark.parametrize(("config", "kind"), one_of([(ZSTD, "tar.zst"), (SPARSE, "ext4.zst")]))
def test_a_packed_image_is_proven_flashed_and_removed(
    image: Callable[..., Ran], bsp: Path, accounts: Accounts, config: str, kind: str
) -> None:
    ran = image(config=config)
    assert ran.code == 0, ran.err
    assert (ran.json["image_format"], ran.json["proof"]) == (kind, "image")
    password = conf_of(bsp.parent / "device.img").password.reveal()
    assert accounts.login(EMAIL, password)
    assert holders(bsp, password) == []
    assert PACKED + (".zst" if config == SPARSE else "") in ran.json["removed"]
    assert image_files.present_images(bsp) == []


@thorough
@pytest.mark.parametrize("config", one_of([ZSTD, SPARSE]))
def test_a_kept_packed_image_is_for_its_owner_only_and_its_password_is_found(
    image: Callable[..., Ran], bsp: Path, config: str
) -> None:
    ran = image("--keep-image", config=config)
    assert ran.code == 0, ran.err
    kept = Path(ran.json["image"])
    assert kept.stat().st_mode & 0o777 == 0o600
    assert holders(bsp, conf_of(kept).password.reveal()) == [kept]


def test_a_base_is_packed_again_once_and_each_device_gets_its_own_identity(
    image: Callable[..., Ran], bsp: Path, accounts: Accounts
) -> None:
    calls = bsp.parent / "calls"
    replace_script(bsp / INNER, f'echo "$1" >> {calls}; exec ./{INNER}.real "$@"\n')
    passwords = []
    for number in (1, 2, 3):
        serial = f"AZJN-000{number}"
        ran = image(config=STAMP, serial=serial)
        assert ran.code == 0, ran.err
        assert ran.json["image_format"] == "tar.zst"
        found = conf_of(bsp.parent / "device.img")
        assert found.email == f"azaion-jetson-000{number}@azaion.com"
        assert accounts.login(found.email, found.password.reveal())
        passwords.append(found.password.reveal())
    assert calls.read_text().split().count("--no-flash") == 1
    assert [holders(bsp, each) for each in passwords] == [[], [], []]
    stream = Unpacked(io.BytesIO((bsp / PACKED).read_bytes()))
    stream.drain()
    assert len(stream.frames) == 2
    said = (bsp / f"{PACKED}.sha1sum").read_text().split()[0]
    done = subprocess.run(["sha1sum", bsp / PACKED], check=True, capture_output=True, text=True)
    assert done.stdout.split()[0] == said


def test_a_packed_raw_image_cannot_be_a_base_and_nothing_is_flashed(
    image: Callable[..., Ran], bsp: Path
) -> None:
    ran = image(config=SPARSE + '[image]\ninject = "stamp"\n')
    assert (ran.code, 'inject = "rootfs"' in ran.json["hint"]) == (8, True), ran.err
    assert (bsp.parent / "device.img").stat().st_size == 0


DAMAGES = {
    "cut short": (8, f"truncate -s -100 {PACKED}", "cut short"),
    "a bit": (8, f"printf x | dd of={PACKED} bs=1 seek=700 conv=notrunc status=none", "damaged"),
    "garbage behind": (8, f"echo garbage >> {PACKED}", "is not a zstd frame"),
    "a large window": (
        6, f"zstd -dqc {PACKED} | zstd -q --long=28 -c > long && mv long {PACKED}", "window",
    ),
    "a name that the device takes for a raw image": (
        6, f"mv {PACKED} {PACKED}.zst; echo APP_ext=system.img.zst > {PACKED[:-10]}flash.cfg",
        "it goes by the name",
    ),
    "another image than the device is told of": (
        6, f"echo APP_ext=other.img > {PACKED[:-10]}flash.cfg", "other.img is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", one_of(DAMAGES))
def test_what_the_device_would_not_unpack_is_not_flashed(
    image: Callable[..., Ran], bsp: Path, how: str
) -> None:
    code, command, words = DAMAGES[how]
    replace_script(bsp / INNER, f'[ "$1" = --no-flash ] || exec ./{INNER}.real "$@"\n'
                   f'./{INNER}.real "$@" && {command}\n')  # fmt: skip
    ran = image()
    assert ran.code in (code, 8), ran.err
    assert words in ran.json["error"]
    assert (bsp.parent / "device.img").stat().st_size == 0


def test_what_is_kept_without_flashing_is_removed_by_clean(
    image: Callable[..., Ran], run: Run, bsp: Path
) -> None:
    unified = bsp / "unified_flash/out/bsp_images1/flash-images"
    replace_script(bsp / INNER, f'./{INNER}.real "$@" || exit\nmkdir -p {unified}\n'
                   f"cp bootloader/system.img.raw {unified}/system.img\n")  # fmt: skip
    ran = image("--flash", "0")
    assert ran.code == 0, ran.err
    password = conf_of(bsp / PACKED).password.reveal()
    assert set(holders(bsp, password)) == {bsp / PACKED, unified / "system.img"}
    assert (unified / "system.img").stat().st_mode & 0o777 == 0o600
    done = run("clean", "--bsp", bsp)
    assert done.code == 0, done.err
    assert holders(bsp, password) == []
    assert not unified.exists()


def test_images_of_a_unified_flash_are_removed_after_flashing(
    image: Callable[..., Ran], bsp: Path
) -> None:
    unified = bsp / "unified_flash/out/bsp_images"
    pack = f"zstd -qf bootloader/system.img.raw -o {unified}/deep/er/app.zst"
    replace_script(
        bsp / INNER, f'./{INNER}.real "$@" || exit\nmkdir -p {unified}/deep/er\n{pack}\n'
    )
    ran = image()
    assert ran.code == 0, ran.err
    assert "unified_flash/out/bsp_images" in ran.json["removed"]
    assert not unified.exists()


@pytest.mark.parametrize("suffix", one_of(["zst", "gz", "bz2", "xz"]))
def test_a_compressed_copy_that_a_site_script_makes_is_found_and_fails_loudly(
    image: Callable[..., Ran], run: Run, bsp: Path, suffix: str
) -> None:
    tool = {"zst": "zstd", "gz": "gzip", "bz2": "bzip2", "xz": "xz"}[suffix]
    copy = f"tar -cf - rootfs/etc | {tool} -c > site-backup.{suffix}"
    replace_script(bsp / INNER, f'[ "$1" = --no-flash ] && {copy}\nexec ./{INNER}.real "$@"\n')
    ran = image()
    assert ran.code == 8, ran.err
    assert f"still found in site-backup.{suffix}" in ran.json["error"]
    cleaned = run("clean", "--bsp", bsp)
    assert (cleaned.code, f"site-backup.{suffix}" in cleaned.err) == (8, True)


def test_a_search_unpacks_up_to_where_a_file_is_damaged(tmp_path: Path) -> None:
    text = b"x" * 3_000_000 + b"a-secret-of-32-characters-length" + b"y" * 3_000_000
    made = {
        "zst": library().compress(text), "gz": gzip.compress(text), "bz2": bz2.compress(text),
        "xz": lzma.compress(text), "plain": text[:100], "empty": b"", "short": b"\x1f\x8b",
    }  # fmt: skip
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / f"{name}.cut").write_bytes(data[:-3])
    os.mkfifo(tmp_path / "fifo")
    secret = Secret("a-secret-of-32-characters-length")
    found = cleanup.files_with_secret(tmp_path, secret, since=time.time() - 60)
    assert {path.name for path in found} >= {"zst", "gz", "bz2", "xz", "zst.cut", "gz.cut"}
    assert not {"plain", "empty", "short"} & {path.name for path in found}
    surface = cleanup.files_with_secret(tmp_path, secret, time.time() - 60, packed=False)
    assert not {"gz", "bz2", "xz"} & {path.name for path in surface}
    assert list(packed_files.unpacked(tmp_path / "plain")) == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


IMAGES = (
    "bootloader/system.img",
    "bootloader/system.img.raw",
    "bootloader/system.img_b.raw",
    "tools/kernel_flash/images/external/system.img",
    "tools/kernel_flash/images/external/system.img.zst",
    "tools/kernel_flash/images/internal/system.img_b.zst",
    "tools/kernel_flash/images/other/system.img",
    "unified_flash/out/bsp_images/system.img",
    "unified_flash/out/bsp_images2/flash_workspace/flash-images/system.img",
)
OTHERS = (
    "bootloader/system.img.header",
    "bootloader/system.imgs/a",
    "tools/kernel_flash/images/external/system.img.sha1sum",
    "rootfs/bootloader/system.img",
    "unified_flash/tools/system.img",
)
FILES = (*IMAGES, *OTHERS)


def test_images_are_found_wherever_a_release_puts_them(tree: Path) -> None:
    found = [path.relative_to(tree).as_posix() for path in image_files.present_images(tree)]
    assert sorted(found) == sorted(IMAGES)
    for name in ("tools/kernel_flash/images/../system.img", "/bootloader/system.img", "system.img",
                 "unified_flash/out/bsp_images/../../../system.img"):  # fmt: skip
        assert not image_files.is_image(name)
    cleanup.remove_images_since(tree, 0.0)
    left = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    assert left == set(OTHERS)
