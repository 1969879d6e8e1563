"""Lanes: several devices flashed at once, each its own identity, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench import METHODS, Bench, a_bench, data_of
from msgspec import structs
from thorough import one_of, thorough
from world import Run, Tree

from azaion_imagebuild.cli.console import Console
from azaion_imagebuild.errors import (
    FlashError,
    ImageBuildError,
    OperatorError,
    PreflightError,
    StagingError,
)
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.placeholder import is_placeholder, padded, placeholder
from azaion_imagebuild.images import indexed, tar_index
from azaion_imagebuild.images import stamp as stamping
from azaion_imagebuild.images.copy import copy_image
from azaion_imagebuild.images.tar import Tar
from azaion_imagebuild.images.version import Version
from azaion_imagebuild.l4t import base_image, image_files, usb
from azaion_imagebuild.l4t.base_image import stamp_base
from azaion_imagebuild.lanes import lane as lanes
from azaion_imagebuild.lanes import tree as lane_trees
from azaion_imagebuild.lanes.lane import Lane, opened_lanes
from azaion_imagebuild.ledger import Ledger
from azaion_imagebuild.model import DEVICE_CONF, Build, BuildRecord, Image
from azaion_imagebuild.pipeline import recipes as pipeline
from azaion_imagebuild.pipeline.hookspecs import REQUIRED
from azaion_imagebuild.pipeline.new import device_build
from azaion_imagebuild.pipeline.plugins import load_plugins
from azaion_imagebuild.sandbox import Sandbox
from azaion_imagebuild.settings import PLACEHOLDER_SIZE
from azaion_imagebuild.system import locks

CONF = padded(
    b"AZAION_DEVICE_EMAIL=x@azaion.com\nAZAION_DEVICE_PASSWORD=" + b"a" * 32, PLACEHOLDER_SIZE
)


def files_below(folder: Path) -> dict[str, os.stat_result]:
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            found[os.path.relpath(path, folder)] = os.lstat(path)
    return found


@pytest.fixture(params=one_of(METHODS, kept=1))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with a_bench(tmp_path / "state/sandbox", request.param) as made:
        yield made


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Bench]:
    """A bench of plain flash.sh."""
    with a_bench(tmp_path / "state/sandbox", "flash") as made:
        yield made


@pytest.fixture
def initrd(tmp_path: Path) -> Iterator[Bench]:
    """A bench of the initrd flash."""
    with a_bench(tmp_path / "state/sandbox", "initrd") as made:
        yield made


# Flashing.


def test_a_lane_stamps_an_archive_without_reading_it_and_its_sum_stays_true(
    initrd: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = initrd.image.path
    with base.open("rb") as stream:
        archive = Tar(stream)
        assert [*archive.members()][-1].name == DEVICE_CONF
    stamp_base(initrd.build, initrd.image, placeholder())  # as a fleet does before its lanes open
    assert said_sum(base) == true_sum(base)
    with opened_lanes(initrd.build, initrd.image, initrd.instances) as (lane, *_):
        monkeypatch.setattr(hashlib, "sha1", lambda **_: pytest.fail("it is read again"))
        record = initrd.flash(lane, "AZJN-0001")
        monkeypatch.undo()
        assert record.error is None
        assert said_sum(lane.image.path) == true_sum(lane.image.path)
    assert initrd.conf_at("0-1").email == "azaion-jetson-0001@azaion.com"


def said_sum(path: Path) -> str:
    return path.with_name("system.img.sha1sum").read_text().strip()


def true_sum(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_three_devices_at_once_get_an_identity_each_and_nothing_of_it_stays(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("azaion_imagebuild"), "propagate", True)
    before = Tree(bench.sandbox.bsp, fake=False).snapshot()
    serials = [f"AZJN-000{number}" for number in range(3)]
    with opened_lanes(bench.build, bench.image, bench.instances) as opened:
        together = threading.Barrier(3)

        def flash(lane: Lane, serial: str) -> BuildRecord:
            together.wait(60)
            return bench.flash(lane, serial)

        with ThreadPoolExecutor(3) as pool:
            records = list(pool.map(flash, opened, serials))
        for lane in opened:
            assert is_placeholder(data_of(lane.image.path))
            assert lane.build(bench.build).settings is bench.build.settings
    for record, instance, serial in zip(records, bench.instances, serials, strict=True):
        assert record.error is None, record.error
        shown = record.as_json()
        assert (shown["flashed"], shown["usb_instance"]) == (True, instance)
        assert shown["smoke"] == "logged in"
        assert shown["residue"] == []
        device = usb.device_at(bench.sandbox.sysfs, instance)
        assert device is not None
        assert shown["ecid"] == device.ecid
        conf = bench.conf_at(instance)
        assert conf.email == f"azaion-jetson-{serial[-4:]}@azaion.com"
        assert bench.sandbox.accounts.login(conf.email, conf.password.reveal())
        found = subprocess.run(["grep", "-rlF", conf.password.reveal(), str(bench.sandbox.dir)],
                               capture_output=True, text=True, check=False)  # fmt: skip
        assert found.stdout.split() == [str(bench.sandbox.device_at(instance))]
    assert Tree(bench.sandbox.bsp, fake=False).snapshot() == before
    assert not lane_trees.lanes_dir(bench.sandbox.bsp).exists()
    assert [each for each in caplog.messages if "were written" in each] == []


def test_a_lane_is_used_again_and_a_failure_in_it_is_its_own(bench: Bench) -> None:
    with opened_lanes(bench.build, bench.image, bench.instances[:2]) as (first, second):
        bench.sandbox.device_at(second.usb_instance).unlink()
        assert bench.flash(first, "AZJN-0001").error is None
        failed = bench.flash(second, "AZJN-0002")
        assert isinstance(failed.error, FlashError)
        assert is_placeholder(data_of(second.image.path))
        assert bench.flash(first, "AZJN-0003").error is None
        bench.sandbox.usb_instances(3)
        assert bench.flash(second, "AZJN-0002").error is None
    assert bench.conf_at("0-1").email == "azaion-jetson-0003@azaion.com"
    assert bench.conf_at("0-2").email == "azaion-jetson-0002@azaion.com"


@thorough
def test_an_initrd_lane_calls_the_inner_script_as_nvidias_wrapper_does(initrd: Bench) -> None:
    with opened_lanes(initrd.build, initrd.image, initrd.instances) as opened:
        record = initrd.flash(opened[2], "AZJN-0042")
        assert record.error is None, record.error
    log = (record.build.log_dir / "flash.log").read_text().splitlines()
    assert log[0] == (
        "$ ./tools/kernel_flash/l4t_initrd_flash_internal.sh --network usb0 --usb-instance 0-3"
        " --device-instance 2 --flash-only --external-device nvme0n1p1"
        " -c tools/kernel_flash/flash_l4t_external.xml --network usb0 jetson-orin-nano-devkit"
        " internal"
    )
    assert log[-2:] == ["Flash is successful", "Reboot device"]


def test_a_sparse_image_in_the_initrd_packages_is_flashed_too(initrd: Bench) -> None:
    sparse = initrd.sandbox.bsp / "bootloader/system.img"
    packed = initrd.image.path
    raw = initrd.sandbox.bsp / "bootloader/system.img.raw"
    subprocess.run([initrd.sandbox.bsp / "bootloader/mksparse", "--fillpattern=0", raw, sparse],
                   check=True)  # fmt: skip
    sparse.replace(packed)
    image = structs.replace(initrd.image, format="sparse")
    with opened_lanes(initrd.build, image, ["0-1"]) as (lane,):
        assert lane.image.format == "sparse"
        assert initrd.flash(lane, "AZJN-0042").error is None
    assert initrd.conf_at("0-1").email == "azaion-jetson-0042@azaion.com"


# What a lane is made of.


def test_a_lane_shares_what_is_read_and_owns_what_is_written(bench: Bench) -> None:
    bsp = bench.sandbox.bsp
    (bsp / "rootfs/usr/bin/linked").symlink_to("azaion-loader")
    (bsp / "initrdlog").mkdir(exist_ok=True)
    (bsp / "initrdlog/other.log").write_text("of another")
    (bsp / "bootloader/signed").mkdir()
    (bsp / "bootloader/signed/boot.bin").write_text("x")
    with opened_lanes(bench.build, bench.image, bench.instances) as opened:
        theirs = files_below(bsp)
        mine = {lane.number: files_below(lane.tree) for lane in opened}
        owned = (
            *("bootloader/", "tools/kernel_flash/images/", "tools/kernel_flash/initrdflash"),
            *("kernel/dtb/", "rootfs/boot/", "rootfs/etc/"),
        )
        for files in mine.values():
            for name, at in files.items():
                shared = not name.startswith(owned) or name.startswith("bootloader/boot")
                assert (at.st_ino == theirs[name].st_ino) is shared, name
                copied = (at.st_mode, at.st_uid, at.st_gid, at.st_size)
                was = theirs[name]
                if name != image_files.BASE_NOTE and not name.endswith("azaion-place.json"):
                    assert copied == (was.st_mode, was.st_uid, was.st_gid, was.st_size), name
                    assert at.st_mtime_ns == was.st_mtime_ns, name
        own = [{at.st_ino for at in files.values() if at.st_nlink == 1} for files in mine.values()]
        assert len(own[0] | own[1] | own[2]) == 3 * len(own[0]) > 3 * 8
        left = {name for name in theirs if name not in mine[0]}
        raw = {"bootloader/system.img.raw"}
        assert left == raw | {"initrdlog/other.log"}
        assert "bootloader/signed/boot.bin" in mine[0]
        for lane in opened:
            assert (lane.tree / "rootfs/usr/bin/linked").read_bytes()
            assert lane.image.path.is_relative_to(lane.tree)
            assert os.listdir(lane.tree / "initrdlog") == []
            assert base_image.has_base(lane.tree)


def test_a_lanes_archive_has_an_index_that_is_true_of_it(initrd: Bench) -> None:
    indexed.read_file(initrd.image.path, DEVICE_CONF, device_conf.LONGEST)  # walks once
    with opened_lanes(initrd.build, initrd.image, initrd.instances) as opened:
        for lane in opened:
            index = tar_index.read_index(lane.image.path)
            assert index is not None
            assert index.image == Version.of(lane.image.path)


def test_a_lane_costs_little_beyond_its_image(plain: Bench) -> None:
    big = plain.sandbox.bsp / "rootfs/usr/lib"
    big.mkdir()
    for number in range(200):
        (big / f"lib{number}.so").write_bytes(os.urandom(16384))
    with opened_lanes(plain.build, plain.image, plain.instances) as opened:
        for lane in opened:
            own = [at for at in files_below(lane.tree).values() if at.st_nlink == 1]
            image = lane.image.path.stat().st_blocks
            assert sum(at.st_blocks for at in own) - image < 1000
            with_shared = subprocess.run(["du", "-sk", plain.sandbox.bsp, lane.tree], check=True,
                                         capture_output=True, text=True)  # fmt: skip
            costs = int(with_shared.stdout.splitlines()[1].split()[0]) - image // 2
            assert costs < 1024


def test_what_a_script_writes_in_a_lane_reaches_neither_the_bsp_nor_another_lane(
    plain: Bench,
) -> None:
    bsp = plain.sandbox.bsp
    written = ["rootfs/etc/passwd", "rootfs/boot/Image", "bootloader/mksparse"]
    written += [f"kernel/dtb/{path.name}" for path in (bsp / "kernel/dtb").iterdir()]
    assert len(written) == 4
    with opened_lanes(plain.build, plain.image, plain.instances) as (first, second, _):
        before = Tree(bsp, fake=False).snapshot()
        for name in written:
            with (first.tree / name).open("a") as stream:
                stream.write("changed")
        (first.tree / "rootfs/usr/bin/new").write_text("x")
        assert Tree(bsp, fake=False).snapshot() == before
        for name in written:
            assert (second.tree / name).read_bytes() == (bsp / name).read_bytes()


def test_a_shared_file_that_is_written_all_the_same_is_told(
    plain: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("azaion_imagebuild"), "propagate", True)
    with opened_lanes(plain.build, plain.image, plain.instances) as (lane, *_):
        with (lane.tree / "rootfs/usr/bin/azaion-loader").open("a") as stream:
            stream.write("# in place\n")
        os.utime(lane.tree / "rootfs/usr/bin/azaion-loader")
    (warning,) = {each for each in caplog.messages if "were written" in each}
    assert f"{plain.sandbox.bsp}/rootfs/usr/bin/azaion-loader" in warning


def test_a_rootfs_outside_the_bsp_becomes_the_lanes_own(tmp_path: Path) -> None:
    with a_bench(tmp_path / "state/sandbox", "flash") as bench:
        elsewhere = tmp_path / "elsewhere"
        (bench.sandbox.bsp / "rootfs").rename(elsewhere)
        (bench.sandbox.bsp / "rootfs").symlink_to(elsewhere)
        build = structs.replace(bench.build, rootfs_dir=elsewhere)
        with opened_lanes(build, bench.image, ["0-1"]) as (lane,):
            assert not (lane.tree / "rootfs").is_symlink()
            loader = lane.tree / "rootfs/usr/bin/azaion-loader"
            assert loader.samefile(elsewhere / "usr/bin/azaion-loader")
            passwd = lane.tree / "rootfs/etc/passwd"
            assert not passwd.samefile(elsewhere / "etc/passwd")
            assert bench.flash(lane, "AZJN-0042").error is None


# What is left, and what is wrong.


def test_lanes_of_a_killed_run_are_blanked_and_taken_away(bench: Bench) -> None:
    script = (
        "import os, sys, dataclasses\nfrom pathlib import Path\n"
        "from azaion_imagebuild.images import stamp\n"
        "from azaion_imagebuild.lanes import lane\n"
        "import pickle\nbuild, image = pickle.load(open(sys.argv[1], 'rb'))\n"
        "with lane.opened_lanes(build, image, ['0-1', '0-2']) as opened:\n"
        "    with stamp.opened_for_stamping(opened[0].image.path, 0) as image:\n"
        f"        image.write({CONF!r})\n"
        "    os.truncate(opened[1].image.path, 5000)\n"
        "    os.link(opened[0].image.path, '../kept')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    Path("passed").write_bytes(pickle.dumps((bench.build, bench.image)))
    killed = subprocess.run([sys.executable, "-c", script, "passed"], check=False)
    assert killed.returncode == -9
    kept = Path("../kept").resolve()
    assert data_of(kept) == CONF
    folder = lane_trees.lanes_dir(bench.sandbox.bsp)
    assert sorted(os.listdir(folder)) == ["0-1", "0-2"]
    linked = folder / "0-1/kept"
    linked.hardlink_to(kept)
    with opened_lanes(bench.build, bench.image, ["0-3"]):
        assert os.listdir(folder) == ["0-3"]
    assert not folder.exists()


def test_an_identity_of_a_killed_run_is_overwritten_not_only_unlinked(
    plain: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    blanked = []

    def blank(path: Path, wait: float) -> bool:
        done = stamping.blank(path, wait)
        blanked.append((path.name, done, data_of(path)))
        return done

    monkeypatch.setattr("azaion_imagebuild.lanes.lane.blank", blank)
    with (
        opened_lanes(plain.build, plain.image, ["0-1"]) as (lane,),
        stamping.opened_for_stamping(lane.image.path, 0) as image,
    ):
        image.write(CONF)
    ((name, done, data),) = blanked
    assert (name, done) == ("system.img", True)
    assert is_placeholder(data)


def test_any_build_in_the_bsp_takes_the_lanes_of_a_killed_fleet_away(plain: Bench) -> None:
    folder = lane_trees.lanes_dir(plain.sandbox.bsp)
    lane_trees.make_tree(plain.sandbox.bsp, plain.build.rootfs_dir,
                         plain.image, _made(folder / "0-1") / "Linux_for_Tegra")  # fmt: skip
    hook = load_plugins(plain.settings.hooks, required=REQUIRED).hook
    build = device_build("AZJN-0042", plain.settings, sandbox=True)
    with Ledger(f"sqlite:///{plain.sandbox.dir}/ledger.sqlite3") as ledger:
        record = pipeline.run(build, hook, Console(sys.stderr), ledger)
    assert record.error is None
    assert not folder.exists()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_lanes_wait_for_the_builds_in_them_before_they_go(plain: Bench) -> None:
    with pytest.raises(PreflightError, match="in use"), contextlib.ExitStack() as held:  # noqa: PT012
        with opened_lanes(plain.build, plain.image, ["0-1"]) as (lane,):
            held.enter_context(locks.locked([lane.tree], 0))
        raise AssertionError("the lane went while it was used")
    assert lane.image.path.exists()
    lanes.remove_lanes(plain.sandbox.bsp, 0)
    assert not lane.tree.exists()


def test_two_fleets_never_share_a_bsp(bench: Bench) -> None:
    with opened_lanes(bench.build, bench.image, ["0-1"]) as (lane,):
        with (
            pytest.raises(PreflightError, match="in use by"),
            opened_lanes(bench.build, bench.image, ["0-2"]),
        ):
            pass
        assert lane.image.path.exists()


OUTLIVED = """
import sys
from pathlib import Path
from bench import a_bench
from azaion_imagebuild.lanes.lane import opened_lanes
with (
    a_bench(Path(sys.argv[1]), sys.argv[2], 1) as bench,
    opened_lanes(bench.build, bench.image, bench.instances) as (lane,),
):
    bench.flash(lane, "AZJN-0042")
"""
HOLD = """
after_boot() {
    echo $$ > "$OUTSIDE/held"
    while [ ! -e "$OUTSIDE/go" ]; do sleep 0.01; done
}
"""


@thorough
@pytest.mark.parametrize("method", one_of(METHODS))
def test_a_script_that_outlives_its_fleet_keeps_the_bsp_locked(tmp_path: Path, method: str) -> None:
    sandbox = Sandbox(tmp_path / "state/sandbox")
    sandbox.create(0.0)
    with (sandbox.bsp / "jetson-orin-nano-devkit.conf").open("a") as conf:
        conf.write(HOLD)
    call = [sys.executable, "-c", OUTLIVED, str(sandbox.dir), method]
    paths = [str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    held = sandbox.dir / "held"
    with subprocess.Popen(call, env=environ) as fleet:
        while not (held.exists() and held.read_text()) and fleet.poll() is None:
            time.sleep(0.01)
        fleet.kill()
    lane = lane_trees.lanes_dir(sandbox.bsp) / "0-1/Linux_for_Tegra"
    (image,) = [path for path in image_files.present_images(lane) if path.stat().st_nlink == 1]
    password = device_conf.parse(data_of(image)).password.reveal()
    with pytest.raises(PreflightError, match=f"in use by .*process {held.read_text().strip()} "):
        locks.locked([sandbox.bsp], 0).__enter__()
    (sandbox.dir / "go").touch()
    with locks.locked([sandbox.bsp], 60.0):
        pass  # the script has ended
    with (
        a_bench(sandbox.dir, method, 1) as bench,
        opened_lanes(bench.build, bench.image, bench.instances),
    ):
        found = subprocess.run(["grep", "-rlF", password, str(sandbox.dir)], check=False,
                               capture_output=True, text=True)  # fmt: skip
        assert set(found.stdout.split()) <= {str(sandbox.device_at("0-1"))}


@thorough
def test_a_base_is_still_current_after_a_fleet(bench: Bench) -> None:
    with opened_lanes(bench.build, bench.image, bench.instances) as (lane, *_):
        assert bench.flash(lane, "AZJN-0001").error is None
    at = [path.stat().st_mtime_ns for path in bench.image.files]
    hook = load_plugins(bench.settings.hooks, required=REQUIRED).hook
    began = structs.replace(bench.build, attempt="again")
    record = pipeline.use_base(began, hook, Console(sys.stderr), lambda blank: None)
    assert record.image == bench.image
    at = [path.stat().st_mtime_ns for path in bench.image.files]
    record = pipeline.build_base(bench.build, hook, Console(sys.stderr))
    assert record.image is not None
    assert record.image.files == bench.image.files
    assert bench.image.path.stat().st_mtime_ns > at[0]


@pytest.mark.parametrize(
    ("chosen", "device"),
    one_of([((), "device.img"), (("--usb-instance", "1-3"), "device.img"),
     (("--usb-instance", "0-2"), "devices/0-2.img")]),
)  # fmt: skip
def test_a_plain_build_of_the_sandbox_reaches_the_virtual_device_it_names(
    run: Run, tmp_path: Path, chosen: tuple[str, ...], device: str
) -> None:
    sandbox = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    assert sandbox.usb_instances(2) == ["0-1", "0-2"]
    ran = run("image", "--serial", "AZJN-0042", "--json", *chosen)
    assert ran.code == 0, ran.err
    assert ran.json["smoke"] == "logged in"
    assert ran.json["usb_instance"] == (chosen[1] if chosen else None)
    assert (ran.json["ecid"] is not None) is ("0-2" in chosen)
    conf = device_conf.parse(data_of(sandbox.dir / device))
    assert conf.email == "azaion-jetson-0042@azaion.com"
    others = {"device.img", "devices/0-1.img", "devices/0-2.img"} - {device}
    assert [(sandbox.dir / other).stat().st_size for other in sorted(others)] == [0, 0]


WRONG: dict[str, tuple[list[str], str]] = {
    "none": ([], "no USB instance"),
    "one twice": (["1-3", "1-4", "1-3"], "1-3 is given twice"),
    "eleven": ([f"1-{number}" for number in range(1, 12)], "11 devices are too many"),
    "a path": (["../1-3"], "is not a valid USB instance"),
    "a word": (["1-3", "left"], "'left' is not a valid USB instance"),
    "empty": ([""], "'' is not a valid USB instance"),
}


@pytest.mark.parametrize("case", one_of(WRONG))
def test_wrong_usb_instances_are_refused_before_anything_changes(plain: Bench, case: str) -> None:
    instances, words = WRONG[case]
    before = sorted(os.listdir(plain.sandbox.dir))
    with pytest.raises(PreflightError) as caught, opened_lanes(plain.build, plain.image, instances):
        pass
    assert words in caught.value.message
    assert caught.value.hint
    assert sorted(os.listdir(plain.sandbox.dir)) == before


def refused(bench: Bench, image: Image | None = None, build: Build | None = None) -> OperatorError:
    """Return the error of lanes that cannot be opened; none of them is there then."""
    with (
        pytest.raises(OperatorError) as caught,
        opened_lanes(build or bench.build, image or bench.image, ["0-1", "0-2"]),
    ):
        pass
    assert not lane_trees.lanes_dir(bench.sandbox.bsp).is_dir()
    return caught.value


def test_what_is_no_base_is_refused(plain: Bench, tmp_path: Path) -> None:
    sparse = plain.sandbox.bsp / "bootloader/system.img"
    with stamping.opened_for_stamping(sparse, 0) as opened:
        opened.write(CONF)
    assert "holds no placeholder" in refused(plain).message
    stamping.blank(sparse, 0)
    other = tmp_path / "system.img"
    copy_image(sparse, other)
    assert "is not in" in refused(plain, Image(path=other, format="sparse")).message
    raw = Image(path=plain.image.path, format="ext4")
    assert "no device can be flashed" in refused(plain, raw).message
    sparse.write_bytes(b"nonsense")
    assert refused(plain).hint == "build it: azaion-imagebuild base"
    sparse.unlink()
    sparse.symlink_to(other)
    assert "is not in" in refused(plain).message


def test_a_bsp_in_pieces_is_refused(plain: Bench, tmp_path: Path) -> None:
    tools = plain.sandbox.bsp / "tools"
    tools.rename(tmp_path / "tools")
    tools.symlink_to(tmp_path / "tools")
    assert f"{tools} is a link" in refused(plain).message
    tools.unlink()
    (tmp_path / "tools").rename(tools)
    lane_trees.lanes_dir(plain.sandbox.bsp).symlink_to(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with (
        pytest.raises(PreflightError, match=r"\.lanes is a link"),
        opened_lanes(plain.build, plain.image, ["0-1"]),
    ):
        pass
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_something_mounted_in_the_rootfs_is_refused(plain: Bench) -> None:
    proc = plain.sandbox.bsp / "rootfs/proc"
    subprocess.run(["mount", "-t", "tmpfs", "none", proc], check=True)
    try:
        assert f"mounted at {proc}" in refused(plain).message
    finally:
        subprocess.run(["umount", proc], check=True)


def test_a_disk_that_is_too_small_is_refused(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("azaion_imagebuild.lanes.tree.shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("azaion_imagebuild.lanes.tree.shares_blocks", lambda *_: False)
    assert "the images of 2 lanes need" in refused(plain).message
    monkeypatch.setattr("azaion_imagebuild.lanes.tree.shares_blocks", lambda *_: True)
    with opened_lanes(plain.build, plain.image, ["0-1"]):
        pass


def test_a_copy_that_fails_leaves_no_lane(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []

    def full(source: Path, target: Path) -> None:
        copied.append(target)
        if len(copied) == 20:
            raise ImageBuildError("cannot copy: No space left on device", hint="make room")
        copy_image(source, target)

    monkeypatch.setattr("azaion_imagebuild.lanes.hardlink_copy.copy_image", full)
    assert "No space left" in refused(plain).message


def test_a_base_that_was_packed_for_fewer_devices_is_refused(initrd: Bench) -> None:
    (initrd.sandbox.bsp / "tools/kernel_flash/initrdflashimgmap.txt").write_text(
        "flashimg0=boot0.img\n"
    )
    error = refused(initrd)
    assert "packed for 1 of the 2 devices" in error.message
    assert "massflash = 2" in error.hint


def test_packages_of_another_board_are_refused(initrd: Bench) -> None:
    parameters = initrd.sandbox.bsp / "tools/kernel_flash/initrdflashparam.txt"
    parameters.write_text("--network usb0 jetson-agx-orin-devkit internal\n")
    assert "is not of packages for jetson-orin-nano-devkit internal" in refused(initrd).message
    parameters.unlink()
    assert "is not of packages for" in refused(initrd).message


def test_a_flash_over_the_lan_is_refused(initrd: Bench) -> None:
    settings = initrd.build.settings
    lan = structs.replace(settings.bsp, network="eth0:192.168.0.17/24:192.168.0.21")
    build = structs.replace(initrd.build, settings=structs.replace(settings, bsp=lan))
    assert 'network = "usb0"' in refused(initrd, build=build).hint


def test_a_board_that_goes_past_the_inner_script_is_refused(initrd: Bench) -> None:
    conf = initrd.sandbox.bsp / "p3834.conf.common"
    conf.write_text("_UNIFIED_FLASH=\n")
    with (initrd.sandbox.bsp / "jetson-orin-nano-devkit.conf").open("a") as board:
        board.write('source "${LDK_DIR}/p3834.conf.common"\n')
    with opened_lanes(initrd.build, initrd.image, ["0-1"]):
        pass
    conf.write_text('_UNIFIED_FLASH="1"\n')
    assert "unified flash" in refused(initrd).message


def test_a_release_without_the_inner_script_is_refused(initrd: Bench) -> None:
    (initrd.sandbox.bsp / "tools/kernel_flash/l4t_initrd_flash_internal.sh").unlink()
    assert "l4t_initrd_flash_internal.sh" in refused(initrd).message


def test_a_lane_that_lost_its_image_says_so(plain: Bench) -> None:
    with opened_lanes(plain.build, plain.image, ["0-1"]) as (lane,):
        lane.image.path.unlink()
        record = plain.flash(lane, "AZJN-0042")
    assert isinstance(record.error, ImageBuildError)
    assert "lost its image" in record.error.message
    assert data_of(plain.image.path)


def test_lanes_that_cannot_be_removed_are_named(plain: Bench) -> None:
    def keep(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(StagingError, match="cannot remove the lanes"),
        opened_lanes(plain.build, plain.image, ["0-1"]),
    ):
        patch.setattr("azaion_imagebuild.lanes.lane.shutil.rmtree", keep)
    lanes.remove_lanes(plain.sandbox.bsp, 0)
    assert not lane_trees.lanes_dir(plain.sandbox.bsp).exists()
