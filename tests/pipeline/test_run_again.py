"""Whatever broke, wherever it stopped: the same command again succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from thorough import one_of, thorough
from world import EMAIL, SERIAL, Run, mounts_of, replace_script

from azaion_imagebuild import images
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.l4t import image_files
from azaion_imagebuild.model import DEVICE_CONF
from azaion_imagebuild.sandbox import Sandbox
from azaion_imagebuild.system.mounts import loops_of

HOLD = """
[ -e ../hold ] && [[ " $* " = *" {when} "* ]] && {{
    trap 'touch ../interrupted; exit 1' INT TERM
    echo $$ > ../pid; mv ../pid ../held; sleep 30 & wait; }}
"""


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    made = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    made.create(1.0)
    return made


def start(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "azaion_imagebuild", "image", "--serial", SERIAL],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1000):
        if path.exists():
            return
        assert process.poll() is None
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


def again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Call the same command where the process before was, to a good end."""
    monkeypatch.chdir(tmp_path)
    ran = run("image", "--serial", SERIAL)
    assert ran.code == 0, ran.err


# Every two of signal, call and moment meet: each signal at both calls, and at both moments.
@pytest.mark.parametrize(
    ("number", "when", "hold_before"),
    one_of(
        [
            (signal.SIGKILL, "--no-flash", True),
            (signal.SIGKILL, "-r", False),
            (signal.SIGTERM, "--no-flash", False),
            (signal.SIGTERM, "-r", True),
            (signal.SIGINT, "--no-flash", True),
            (signal.SIGINT, "-r", False),
            (signal.SIGHUP, "--no-flash", False),
            (signal.SIGHUP, "-r", True),
        ]
    ),
)
def test_a_build_that_is_stopped_anywhere_is_healed_by_the_same_command(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run,
    when: str, hold_before: bool, number: int,
) -> None:  # fmt: skip
    hold, real = HOLD.format(when=when), './flash.sh.real "$@" || exit\n'
    replace_script(sandbox.bsp / "flash.sh", hold + real if hold_before else real + hold + "true\n")
    (sandbox.dir / "hold").touch()
    with start(tmp_path) as process:
        until(sandbox.dir / "held", process)
        process.send_signal(number)
        _, err = process.communicate()
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
            os.killpg(int((sandbox.dir / "held").read_text()), signal.SIGKILL)
        else:
            flashed = when == "-r" and not hold_before  # a device that is done is not interrupted
            assert process.returncode == (0 if flashed else 130), err
            assert ("interrupted during" in err) == (not flashed)
            assert "Traceback" not in err
            assert (sandbox.dir / "interrupted").exists()  # the script could clean up
            assert not (sandbox.bsp / "rootfs" / DEVICE_CONF).exists()
    (sandbox.dir / "hold").unlink()
    again(tmp_path, monkeypatch, run)
    assert [account.email for account in sandbox.accounts.list()] == [EMAIL]
    entry = images.read_file(sandbox.device, DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    password = device_conf.parse(entry.data).password.reveal()
    assert sandbox.accounts.login(EMAIL, password)
    assert not (sandbox.bsp / "rootfs" / DEVICE_CONF).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="an overlay is mounted by root")
# Every two of victim, call and way meet.
@pytest.mark.parametrize(
    ("killed", "when", "way"),
    one_of(
        [
            ("tool", "--no-flash", "overlay"),
            ("tool", "-r", "initrd"),
            ("script", "--no-flash", "initrd"),
            ("script", "-r", "overlay"),
            ("both", "--no-flash", "overlay"),
            ("both", "-r", "initrd"),
        ]
    ),
)
def test_kill_9_of_tool_or_script_leaves_nothing_that_stops_or_outlives_the_next_build(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run,
    killed: str, when: str, way: str,
) -> None:  # fmt: skip
    script = "flash.sh" if way == "overlay" else "tools/kernel_flash/l4t_initrd_flash.sh"
    if way == "overlay":
        monkeypatch.setenv("AZAION_IMAGEBUILD_IMAGE_STAGING", "overlay")
    else:
        monkeypatch.setenv("AZAION_IMAGEBUILD_BSP_METHOD", "initrd")
        when = when.replace("-r", "--flash-only")
    real = f'./{script}.real "$@" || exit\n'
    replace_script(sandbox.bsp / script, real + HOLD.format(when=when) + "true\n")
    (sandbox.dir / "hold").touch()
    with start(tmp_path) as process:
        until(sandbox.dir / "held", process)
        group = int((sandbox.dir / "held").read_text())
        if killed != "script":
            process.kill()
        if killed != "tool":
            os.killpg(group, signal.SIGKILL)
        process.wait()
        (sandbox.dir / "hold").unlink()
        if killed == "tool":
            os.killpg(group, signal.SIGTERM)
        process.communicate()
    again(tmp_path, monkeypatch, run)
    assert [account.email for account in sandbox.accounts.list()] == [EMAIL]
    entry = images.read_file(sandbox.device, DEVICE_CONF, device_conf.LONGEST)
    assert entry is not None
    password = device_conf.parse(entry.data).password.reveal()
    assert sandbox.accounts.login(EMAIL, password)
    kept = image_files.present_images(sandbox.bsp)
    held = subprocess.run(["grep", "-rl", password, str(sandbox.bsp)], check=False,
                          capture_output=True, text=True).stdout.split()  # fmt: skip
    assert held == [str(path) for path in kept]
    assert mounts_of(sandbox.bsp) == []
    assert loops_of(sandbox.bsp) == []


@thorough
def test_a_second_build_waits_for_a_script_whose_tool_was_killed(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    replace_script(
        sandbox.bsp / "flash.sh",
        "[ -e ../hold ] && { touch ../held; while [ -e ../hold ]; do sleep 0.05; done; }\n"
        '[ ! -e ../busy ] || touch ../overlap; touch ../busy; ./flash.sh.real "$@"; code=$?\n'
        "rm ../busy; exit $code\n",
    )
    (sandbox.dir / "hold").touch()
    with start(tmp_path) as first:
        until(sandbox.dir / "held", first)
        first.kill()
        first.wait()
        with start(tmp_path) as second:
            assert second.stderr is not None
            waiting = second.stderr.readline() + second.stderr.readline()
            (sandbox.dir / "hold").unlink()
            _, err = second.communicate()
        first.communicate()
    assert "in use by process" in waiting
    assert "flash.sh" in waiting
    assert second.returncode == 0, err
    assert not (sandbox.dir / "overlap").exists()


def test_two_builds_at_once_take_turns(sandbox: Sandbox, tmp_path: Path) -> None:
    with start(tmp_path) as first, start(tmp_path) as second:
        ended = [process.communicate()[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), ended
    assert [account.email for account in sandbox.accounts.list()] == [EMAIL]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_rootfs_that_one_may_not_write_says_to_use_sudo(sandbox: Sandbox, tmp_path: Path) -> None:
    (sandbox.bsp / "rootfs/etc").chmod(0o555)
    with start(tmp_path) as process:
        _, err = process.communicate()
    (sandbox.bsp / "rootfs/etc").chmod(0o755)
    assert process.returncode == 3, err
    assert "hint: run the same command with sudo" in err
