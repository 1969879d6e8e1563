"""The host around an initrd flash: one at a time, its exports and udev rules removed, its lock."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench import Bench, a_bench
from msgspec import structs
from thorough import thorough
from world import replace_script

from azaion_imagebuild.errors import FlashError, OperatorError, PreflightError, StagingError
from azaion_imagebuild.l4t import initrd_host as host
from azaion_imagebuild.l4t import initrd_wrapper
from azaion_imagebuild.l4t import nfs_exports as exports
from azaion_imagebuild.l4t.flashing import InitrdFlash
from azaion_imagebuild.l4t.initrd_host import Host, exclusive
from azaion_imagebuild.lanes import tree as lane_trees
from azaion_imagebuild.lanes.lane import opened_lanes
from azaion_imagebuild.model import Build
from azaion_imagebuild.sandbox.bsp import create_bsp
from azaion_imagebuild.system import locks

WAIT_AFTER_BOOT = """
after_boot() {
    touch "$OUTSIDE/booted-$usb_instance"
    until [ -e "$OUTSIDE/go" ]; do sleep 0.01; done
}
"""
HOLD = """
import sys
from pathlib import Path
from azaion_imagebuild.system.locks import locked_on_host
with locked_on_host(Path(sys.argv[1]), 0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def initrd(tmp_path: Path) -> Iterator[Bench]:
    """A bench of the initrd flash."""
    with a_bench(tmp_path / "state/sandbox", "initrd") as made:
        yield made


@pytest.fixture
def folder(initrd: Bench) -> Path:
    """The folder in place of a host."""
    return initrd.sandbox.dir / "host"


def exported(folder: Path) -> list[str]:
    """Return what the folder that is a host exports."""
    return (folder / "etab").read_text().splitlines()


# Exports, rules, USB.


def test_each_lane_is_exported_to_its_own_device_while_it_is_open(
    initrd: Bench, folder: Path
) -> None:
    with opened_lanes(initrd.build, initrd.image, initrd.instances) as opened:
        told = (folder / "exports.d/azaion-imagebuild.exports").read_text()
        assert sorted(told.splitlines()) == exported(folder)
        for lane in opened:
            for part in ("rootfs", "tools/kernel_flash"):
                assert f"{lane.tree}/{part} fc00:1:1:{lane.number}::/64(rw,nohide," in told
                assert (lane.tree / part).stat().st_mode & 0o777 == 0o755
        assert initrd.flash(opened[0], "AZJN-0001").error is None
        assert f"{opened[0].tree}/rootfs fc00:1:1::/48(rw,no_root_squash)" in exported(folder)
    assert exported(folder) == []
    assert os.listdir(folder / "exports.d") == []


def test_what_others_export_stays(initrd: Bench, folder: Path) -> None:
    (folder / "exports.d").mkdir(exist_ok=True)
    (folder / "exports.d/site.exports").write_text("/srv/site 10.0.0.0/8(ro)\n")
    (folder / "etab").write_text("/srv/by-hand 10.0.0.1(rw)\n/srv/site 10.0.0.0/8(ro)\n")
    before = exported(folder)
    with opened_lanes(initrd.build, initrd.image, ["0-1"]):
        assert set(before) < set(exported(folder))
    assert exported(folder) == before


@thorough
def test_no_lane_loses_its_exports_when_another_one_restarts_the_server(
    initrd: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = initrd.sandbox.bsp / f"{initrd.settings.bsp.board}.conf"
    conf.write_text(conf.read_text() + WAIT_AFTER_BOOT)
    assert flash_together(initrd) == [None, None, None]

    def only_named(host: Host, lanes: object) -> None:
        host.run("service", "nfs-kernel-server", "start")

    monkeypatch.setattr(initrd_wrapper, "export", only_named)
    first, second, last = flash_together(initrd)
    assert last is None
    for error in (first, second):
        assert error is not None
        assert "access denied by server" in error.message


def flash_together(bench: Bench) -> list[OperatorError | None]:
    """Flash three devices, one booted after the other, and none is written before all have."""
    go = bench.sandbox.dir / "go"
    for path in (go, *bench.sandbox.dir.glob("booted-*")):
        path.unlink(missing_ok=True)
    with (
        opened_lanes(bench.build, bench.image, bench.instances) as opened,
        ThreadPoolExecutor(3) as pool,
    ):
        runs = []
        for lane in opened:
            runs.append(pool.submit(bench.flash, lane, f"AZJN-000{lane.number}"))
            booted = bench.sandbox.dir / f"booted-{lane.usb_instance}"
            while not booted.exists() and not runs[-1].done():
                time.sleep(0.01)
        go.touch()
        return [run.result().error for run in runs]


def test_two_of_nvidias_wrappers_at_once_go_wrong_and_ours_never_are(
    initrd: Bench, tmp_path: Path
) -> None:
    sandbox, build = initrd.sandbox, initrd.build
    other = create_bsp(sandbox.dir / "Other_for_Tegra")
    for tree in (sandbox.bsp, other):
        conf = tree / f"{initrd.settings.bsp.board}.conf"
        conf.write_text(conf.read_text() + WAIT_AFTER_BOOT)
    elsewhere = structs.replace(build, bsp_dir=other, rootfs_dir=other / "rootfs")
    InitrdFlash(other).build_image(elsewhere)
    argv = ["./tools/kernel_flash/l4t_initrd_flash.sh", "--flash-only", "--network", "usb0"]
    board = [initrd.settings.bsp.board, "internal"]
    with contextlib.ExitStack() as running:
        started = []
        for tree, instance in ((sandbox.bsp, "0-1"), (other, "0-2")):
            call = [*argv, "--usb-instance", instance, *board]
            environ = {**os.environ, "USER": "root"}
            started.append(running.enter_context(subprocess.Popen(call, cwd=tree, env=environ)))
            while not (sandbox.dir / f"booted-{instance}").exists():
                time.sleep(0.01)
        (sandbox.dir / "go").touch()
        ended = [process.wait() for process in started]
    sizes = [sandbox.device_at(instance).stat().st_size for instance in ("0-1", "0-2")]
    assert ended[0] or not sizes[0], "the first device has not got its image"
    with (
        exclusive(build),
        pytest.raises(PreflightError, match=r"initrd-flash\.lock is in use"),
    ):
        InitrdFlash(other).flash(elsewhere)
    with exclusive(build), pytest.raises(PreflightError, match="in use"):
        InitrdFlash(other).build_image(elsewhere)
    with (
        exclusive(elsewhere),
        pytest.raises(PreflightError, match="in use"),
        opened_lanes(build, initrd.image, ["0-1"]),
    ):
        pass


def test_udev_rules_are_linked_while_lanes_are_open_and_a_sites_own_stay(
    initrd: Bench, folder: Path
) -> None:
    rules = initrd.sandbox.bsp / "tools/kernel_flash/host_udev"
    (rules / "10-l4t-usb-msd.rules").write_text("of the BSP")
    (folder / "udev").mkdir()
    own, stale = folder / "udev/10-l4t-usb-msd.rules", folder / "udev/99-l4t-host.rules"
    own.write_text("of the site")
    stale.symlink_to("/gone/host_udev/99-l4t-host.rules")
    with opened_lanes(initrd.build, initrd.image, ["0-1"]):
        assert stale.readlink() == rules / "99-l4t-host.rules"
        assert own.read_text() == "of the site"
    assert os.listdir(folder / "udev") == [own.name]
    assert own.read_text() == "of the site"


@pytest.mark.parametrize("newer", [True, False])
def test_usb_devices_stay_awake_where_the_bsps_wrapper_wants_it(
    initrd: Bench, folder: Path, newer: bool
) -> None:
    script = initrd.sandbox.bsp / "tools/kernel_flash/l4t_initrd_flash.sh"
    if newer:
        script.write_text(script.read_text() + "# /sys/module/usbcore/parameters/autosuspend\n")
    (folder / "autosuspend").write_text("2\n")
    with opened_lanes(initrd.build, initrd.image, ["0-1"]):
        assert (folder / "autosuspend").read_text() == ("-1\n" if newer else "2\n")
    assert (folder / "autosuspend").read_text() == "2\n"


def test_what_a_killed_run_left_on_the_host_goes(initrd: Bench, folder: Path) -> None:
    lanes = lane_trees.lanes_dir(initrd.sandbox.bsp)
    left = f"{lanes}/1-9/Linux_for_Tegra/rootfs fc00:1:1:0::/64(rw)"
    (folder / "exports.d").mkdir(exist_ok=True)
    (folder / "exports.d/azaion-imagebuild.exports").write_text(f"{left}\n")
    (folder / "etab").write_text(f"{left}\n")
    with opened_lanes(initrd.build, initrd.image, ["0-1"]):
        assert left not in exported(folder)
    assert exported(folder) == []


def test_nvidias_own_entry_for_a_lane_goes_and_the_sites_stay(initrd: Bench, folder: Path) -> None:
    mark = "# Entry added by NVIDIA initrd flash tool"
    lanes = lane_trees.lanes_dir(initrd.sandbox.bsp)
    site = f"# of the site\n/srv 10.0.0.0/8(ro)\n{mark}\n/other/tmp 127.0.0.1(rw)\n"
    table = folder / "exports"
    with opened_lanes(initrd.build, initrd.image, ["0-1"]):
        table.write_text(f"{site}{mark}\n{lanes}/0-1/Linux_for_Tegra/tools/tmp 127.0.0.1(rw)\n")
        table.chmod(0o640)
    assert table.read_text() == site
    assert table.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("script", "words"),
    [("exit 0", "does not export"), ("[ $1 != -s ] || cat etab", "does not export")],
)
def test_a_server_that_does_not_export_is_found_before_a_device_is_touched(
    initrd: Bench, folder: Path, script: str, words: str
) -> None:
    replace_script(initrd.sandbox.bsp / "tools/reference_host/exportfs", f"{script}\n")
    with (
        pytest.raises(PreflightError, match=words),
        opened_lanes(initrd.build, initrd.image, ["0-1"]),
    ):
        pass
    assert not lane_trees.lanes_dir(initrd.sandbox.bsp).exists()
    assert os.listdir(folder / "exports.d") == []
    assert os.listdir(folder / "udev") == []


def test_a_host_that_cannot_be_written_is_told(initrd: Bench, folder: Path) -> None:
    (folder / "udev").write_text("in the place of the folder")
    with (
        pytest.raises(PreflightError, match="cannot prepare the host"),
        opened_lanes(initrd.build, initrd.image, ["0-1"]),
    ):
        pass
    assert not lane_trees.lanes_dir(initrd.sandbox.bsp).exists()


def test_exports_that_stay_are_told(initrd: Bench) -> None:
    exportfs = initrd.sandbox.bsp / "tools/reference_host/exportfs"
    replace_script(exportfs, f'[ "$1" = -u ] || exec {exportfs}.real "$@"\n')
    of_r35 = f"[fc00:1:1::/48]:{lane_trees.lanes_dir(initrd.sandbox.bsp)}/0-1/x/rootfs"
    with (
        pytest.raises(StagingError, match="still exports"),
        opened_lanes(initrd.build, initrd.image, ["0-1"]),
    ):
        host.host_of(initrd.build).run("exportfs", "-o", "rw", of_r35)
    assert not lane_trees.lanes_dir(initrd.sandbox.bsp).exists()


def test_a_host_without_nfs_is_refused_before_anything_changes(initrd: Bench) -> None:
    (initrd.sandbox.bsp / "tools/reference_host/exportfs").unlink()
    with (
        pytest.raises(PreflightError) as caught,
        opened_lanes(initrd.build, initrd.image, ["0-1"]),
    ):
        pass
    assert caught.value.hint == "sudo apt-get install nfs-kernel-server"
    with pytest.raises(PreflightError, match="exportfs is not installed"):
        host.host_of(initrd.build).run("exportfs", "-s")


def test_an_odd_path_is_written_as_exports_5_wants_it() -> None:
    assert exports._escaped(Path("/srv/a-b_c.1/L4T")) == "/srv/a-b_c.1/L4T"
    assert exports._escaped(Path("/a b/#x\n\\é")) == r"/a\040b/\043x\012\134\303\251"


def test_lanes_in_an_odd_folder_are_exported_and_flashed(tmp_path: Path) -> None:
    with (
        a_bench(tmp_path / "my sandbox", "initrd", 1) as bench,
        opened_lanes(bench.build, bench.image, ["0-1"]) as (lane,),
    ):
        assert bench.flash(lane, "AZJN-0042").error is None
    assert exported(tmp_path / "my sandbox/host") == []


# One at a time.


def test_nvidias_scripts_that_run_by_hand_are_seen(tmp_path: Path) -> None:
    calls = {
        "11": ["/bin/bash", "./tools/kernel_flash/l4t_initrd_flash.sh", "--flash-only"],
        "12": ["bash", "/srv/L/tools/kernel_flash/l4t_initrd_flash_internal.sh"],
        "13": ["vim", "l4t_initrd_flash.sh"],
        "14": ["bash", "-c", "l4t_initrd_flash.sh"],
        "15": ["bash"],
        "16": [""],
    }
    for number, words in calls.items():
        (tmp_path / number).mkdir()
        (tmp_path / number / "cmdline").write_bytes("\0".join([*words, ""]).encode())
    (tmp_path / "17").mkdir()
    assert sorted(host.wrappers_at_work(tmp_path)) == ["process 11", "process 12"]


def test_one_that_runs_by_hand_is_waited_for_or_named(
    initrd: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [["process 77"], ["process 77"], []]
    real = Host.in_folder(tmp_path, initrd.sandbox.bsp)
    monkeypatch.setattr(host, "host_of", lambda _: structs.replace(real, commands=None))
    monkeypatch.setattr(host, "wrappers_at_work", lambda: seen.pop(0))
    monkeypatch.setattr(host, "_PAUSE", 0.0)
    with pytest.raises(PreflightError, match="process 77"), exclusive(initrd.build):
        pass
    settings = initrd.build.settings
    patient = structs.replace(settings.build, lock_wait=60.0)
    build = structs.replace(initrd.build, settings=structs.replace(settings, build=patient))
    with exclusive(build) as held:
        assert seen == []
        assert len(held.lock_fds) == len(build.lock_fds) + 1


def test_a_real_build_works_on_this_host(
    make_build: Callable[..., Build], tmp_path: Path, initrd: Bench
) -> None:
    build = make_build(tmp_path, tmp_path)
    real = host.host_of(build)
    assert real == Host()
    assert (real.exports_dir, real.udev_rules) == (
        Path("/etc/exports.d"),
        Path("/etc/udev/rules.d"),
    )
    (tmp_path / "tools/reference_host").mkdir(parents=True)
    assert host.host_of(build) == Host()  # a folder of that name makes no reference BSP
    reference = host.host_of(initrd.build)
    assert reference.lock == initrd.sandbox.bsp.parent / "host/initrd-flash.lock"


# The lock.


def test_the_hosts_lock_lies_where_only_its_user_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "HOST_FOLDERS", (tmp_path / "gone", tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert locks.host_lock("x") == tmp_path / "azaion-imagebuild-x.lock"
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    assert locks.host_lock("x") == tmp_path / "tmp/azaion-imagebuild-1234-x.lock"


def test_the_hosts_lock_says_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(PreflightError, match=f"in use by process {other.pid}"):
            locks.locked_on_host(path, 0).__enter__()
        other.communicate()
    with locks.locked_on_host(path, 0):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def make_link(path: Path) -> None:
    path.with_name("target").touch()
    path.symlink_to(path.with_name("target"))


def make_second_name(path: Path) -> None:
    path.with_name("first").touch()
    path.hardlink_to(path.with_name("first"))


def make_another_users(path: Path) -> None:
    path.touch()
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(path, 1234, 1234)


@pytest.mark.parametrize("make", [make_link, make_second_name, make_another_users, os.mkfifo])
def test_a_lock_that_somebody_else_put_there_is_refused(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "lock")
    with pytest.raises(PreflightError, match="lock"), locks.locked_on_host(tmp_path / "lock", 0):
        pass


def test_packages_are_read_as_the_wrapper_reads_them(initrd: Bench, tmp_path: Path) -> None:
    parameters = tmp_path / initrd_wrapper.PARAMETERS
    parameters.parent.mkdir(parents=True)
    parameters.write_text('-c "a b.xml" -S 14GiB jetson-orin-nano-devkit internal\n')
    words = initrd_wrapper.packed_parameters(tmp_path, initrd.build)
    assert words == ["-c", "a b.xml", "-S", "14GiB", "jetson-orin-nano-devkit", "internal"]
    parameters.write_text('-c "open jetson-orin-nano-devkit internal\n')
    with pytest.raises(FlashError, match="not of packages"):
        initrd_wrapper.packed_parameters(tmp_path, initrd.build)
