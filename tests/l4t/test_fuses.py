"""Fuses: burned once, on being asked twice over (configured and --fuse), and never by guessing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from thorough import one_of, thorough
from world import SERIAL, Ran, Run, add_usb_device, replace_script

from azaion_imagebuild.config.loading import load
from azaion_imagebuild.errors import LedgerError, UsageError
from azaion_imagebuild.ledger import Entry, Ledger
from azaion_imagebuild.model import Receipt
from azaion_imagebuild.sandbox import Sandbox

COMMAND = '["./odmfuse.sh", "-k", "/keys/pkc.pem", "{serial}", "a b;$(touch trap)"]'
CONFIG = f"[fuse]\ncommand = {COMMAND}\n"


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A sandbox with a fuse script of its own, and a site's file that names it."""
    made = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    made.create(1.0)
    burns(made, 'echo "burning"; echo "*** done."')
    Path("imagebuild.toml").write_text(CONFIG)
    return made


def burns(sandbox: Sandbox, script: str) -> None:
    """Put a fuse script there; it notes its arguments."""
    path = sandbox.bsp / "odmfuse.sh"
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> ../fused\n{script}\n')
    path.chmod(0o755)


def burned(sandbox: Sandbox) -> list[str]:
    """Return the arguments of each time that the script was started."""
    path = sandbox.dir / "fused"
    return path.read_text().splitlines() if path.exists() else []


def image(run: Run, *more: str) -> Ran:
    return run("image", "--serial", SERIAL, "--json", *more)


def rows(run: Run) -> list[tuple[str, str]]:
    return [(row["step"], row["outcome"]) for row in history(run)]


def history(run: Run) -> Any:
    return json.loads(run("ledger", "show", SERIAL, "--json").out)


def test_fuses_are_burned_once_before_the_account_and_shown_first(
    run: Run, sandbox: Sandbox
) -> None:
    ran = image(run, "--fuse")
    assert ran.code == 0, ran.err
    assert burned(sandbox) == [f"-k /keys/pkc.pem {SERIAL} a b;$(touch trap)"]
    assert not (sandbox.bsp / "trap").exists()
    shown = ran.err.index(f"./odmfuse.sh -k /keys/pkc.pem {SERIAL} 'a b;$(touch trap)'")
    assert shown < ran.err.index("  fuse  ") < ran.err.index("  provision_identity  ")
    assert "does not replace the security phase's checklist" in ran.err
    assert rows(run)[:3] == [
        ("fuse", "started"),
        ("fuse", "done"),
        ("provision_identity", "started"),
    ]
    assert (ran.json["fused"], ran.json["outcome"]) == ("now", "done")
    assert history(run)[1]["extra"]["fuse_command"] == ran.json["fuse_command"]
    again = image(run, "--fuse")
    assert again.code == 0
    assert "was fused on" in again.err
    assert "it is not fused again" in again.err
    assert (len(burned(sandbox)), again.json["fused"]) == (1, "before")
    steps = ["provision_identity", "build_image", "activate_identity", "flash"]
    assert rows(run)[-5:-1] == [(step, "started") for step in steps]
    assert run("ledger", "verify").code == 0


def test_nothing_but_being_asked_burns_fuses(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image(run).code == 0
    assert image(run, "--fuse=0").code == 0
    Path("imagebuild.toml").write_text(CONFIG + "[build]\nfuse = true\n")
    by_file = image(run)
    assert (by_file.code, by_file.json["hint"]) == (2, "leave it out there, and ask by --fuse"
                                                       " (FUSE=1)")  # fmt: skip
    assert run("ledger", "list").code == 2
    Path("imagebuild.toml").write_text(CONFIG + "[build]\nfuse = false\n")
    assert burned(sandbox) == []
    monkeypatch.setenv("AZAION_IMAGEBUILD_FUSE", "1")
    assert image(run).json["fused"] == "now"


def test_asked_for_without_a_command_is_a_usage_error(run: Run, sandbox: Sandbox) -> None:
    Path("imagebuild.toml").unlink()
    ran = image(run, "--fuse")
    assert (ran.code, ran.json["step"], ran.json["account"]) == (2, "preflight", None)
    assert "set [fuse] command" in ran.json["hint"]
    disabled = run("image", "--serial", SERIAL, "--fuse", "--disable", "fuse")
    assert disabled.code == 3
    assert "no plug-in answered the step fuse" in disabled.err


BAD_ENDS = {
    "no word of success": "echo almost",
    "an exit code": 'echo "*** done."; exit 3',
    "an error in its words": 'echo "Error: SBK refused"; echo "*** done."',
    "an error before much else": 'echo "Error: SBK refused"; seq 300; echo "*** done."',
}


@pytest.mark.parametrize("end", one_of(BAD_ENDS))
def test_a_command_that_does_not_end_well_is_unknown_and_not_repeated(
    run: Run, sandbox: Sandbox, end: str
) -> None:
    burns(sandbox, BAD_ENDS[end])
    ran = image(run, "--fuse")
    assert (ran.code, ran.json["step"], ran.json["account"]) == (7, "fuse", None)
    assert "which fuses are burned is not known" in ran.json["error"]
    assert rows(run) == [("fuse", "started"), ("fuse", "unknown")]
    burns(sandbox, 'echo "*** done."')
    again = image(run, "--fuse")
    assert (again.code, len(burned(sandbox))) == (3, 1)
    assert "which fuses are burned is unknown" in again.err
    assert "ledger resolve --sandbox --reason" in again.json["hint"]
    without = image(run)
    assert (without.code, without.json.get("fused")) == (0, None)
    assert "warning: fusing AZJN-0042 was started on" in without.err
    assert image(run, "--fuse").code == 3


@pytest.mark.parametrize(("verdict", "times"), one_of([("fused", 1), ("unfused", 2)]))
def test_a_person_decides_what_is_burned(
    run: Run, sandbox: Sandbox, verdict: str, times: int
) -> None:
    burns(sandbox, "exit 1")
    image(run, "--fuse")
    burns(sandbox, 'echo "*** done."')
    said = run("ledger", "resolve", "--sandbox", SERIAL, verdict, "--reason", "I read them")
    assert said.code == 0, said.err
    ran = image(run, "--fuse")
    assert (ran.code, len(burned(sandbox))) == (0, times), ran.err
    assert rows(run)[2][0] == "fuse"
    assert history(run)[2]["error"] == "I read them"


def test_another_device_under_the_serial_of_a_retired_one_has_its_own_fuses(
    run: Run, sandbox: Sandbox
) -> None:
    image(run, "--fuse")
    run("ledger", "resolve", "--sandbox", SERIAL, "retired", "--reason", "scrapped")
    assert image(run, "--fuse").json["fused"] == "now"
    assert len(burned(sandbox)) == 2


def test_a_command_that_cannot_be_started_has_burned_nothing(run: Run, sandbox: Sandbox) -> None:
    script = sandbox.bsp / "odmfuse.sh"
    script.chmod(0o644)
    ran = image(run, "--fuse")
    assert (ran.code, ran.json["step"]) == (3, "preflight")
    script.write_text("#!/nowhere/shell\n")
    script.chmod(0o755)
    ran = image(run, "--fuse")
    assert (ran.code, ran.json["step"]) == (3, "fuse")
    assert rows(run) == [("fuse", "started"), ("fuse", "failed")]
    burns(sandbox, 'echo "*** done."')
    assert image(run, "--fuse").json["fused"] == "now"


def test_a_rehearsal_does_not_pass_for_burning(run: Run, sandbox: Sandbox) -> None:
    Path("imagebuild.toml").write_text('[fuse]\ncommand = ["./odmfuse.sh", "--noburn"]\n')
    ran = image(run, "--fuse")
    assert (ran.code, burned(sandbox)) == (3, [])
    assert "--noburn: it would burn nothing" in ran.json["error"]


def test_the_sandbox_runs_no_command_of_the_site(
    run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    outside = tmp_path / "fuse.sh"
    outside.write_text(f"#!/bin/sh\ntouch {tmp_path}/real\n")
    outside.chmod(0o755)
    for program in (str(outside), "touch"):
        Path("imagebuild.toml").write_text(f'[fuse]\ncommand = ["{program}", "{tmp_path}/real"]\n')
        ran = image(run, "--fuse")
        assert (ran.code, (tmp_path / "real").exists()) == (3, False)
        assert "is not part of the sandbox" in ran.json["error"]


@thorough
def test_a_sites_own_plug_in_burns_in_place_of_ours(run: Run, sandbox: Sandbox) -> None:
    Path("site").mkdir()
    Path("site/ours.py").write_text(
        "from azaion_imagebuild import hookimpl\n"
        "from azaion_imagebuild.model import FuseResult\n"
        "@hookimpl\n"
        "def fuse(build):\n"
        "    return FuseResult(command='our station', device='1-7')\n"
    )
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\ndisable = ["fuse"]\n')
    ran = image(run, "--fuse")
    assert (ran.code, ran.json["fuse_command"]) == (0, "our station"), ran.err
    assert image(run, "--fuse").json["fused"] == "before"
    Path("site/ours.py").write_text(
        "from azaion_imagebuild import hookimpl\n"
        "from azaion_imagebuild.errors import StagingError\n"
        "@hookimpl\n"
        "def fuse(build):\n"
        "    raise StagingError('whatever', hint='repair it')\n"
    )
    other = run("image", "--serial", "AZJN-0043", "--fuse", "--json")
    assert other.code == 5
    listed = json.loads(run("ledger", "list", "--serial", "AZJN-0043", "--json").out)
    assert [(row["step"], row["outcome"]) for row in listed] == [("fuse", "unknown")]


def test_a_ledger_that_fails_after_the_burning_says_that_it_was_done(
    run: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Ledger.write

    def full(self: Ledger, row: Entry) -> Receipt:
        if (row.step, row.outcome) == ("fuse", "done"):
            raise LedgerError("cannot write the ledger: disk is full", hint="make room")
        return write(self, row)

    monkeypatch.setattr(Ledger, "write", full)
    ran = image(run, "--fuse")
    assert (ran.code, ran.json["account"]) == (9, None)
    assert f"the fuses of {SERIAL} are burned" in ran.json["error"]
    assert image(run, "--fuse").code == 3  # not burned again


def start(tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "azaion_imagebuild", "image",
         "--serial", SERIAL, "--fuse", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def held(sandbox: Sandbox, process: subprocess.Popen[str]) -> int:
    """Wait until the script stands still; return its process group."""
    while not (sandbox.dir / "held").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return int((sandbox.dir / "held").read_text())


HOLD = (
    "echo $$ > ../pid; mv ../pid ../held; while [ ! -e ../go ]; do sleep 0.02; done;"
    ' echo "*** done."'
)


@thorough
def test_a_kill_in_the_middle_is_unknown_and_not_repeated(
    run: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    burns(sandbox, HOLD)
    with start(tmp_path) as process:
        group = held(sandbox, process)
        process.kill()
        os.killpg(group, signal.SIGKILL)
        process.communicate()
    (sandbox.dir / "go").touch()
    again = image(run, "--fuse")
    assert (again.code, len(burned(sandbox))) == (3, 1)
    assert image(run).code == 0
    assert rows(run)[:3] == [
        ("fuse", "started"),
        ("fuse", "unknown"),
        ("provision_identity", "started"),
    ]
    assert image(run, "--fuse").code == 3
    assert run("ledger", "resolve", "--sandbox", SERIAL, "unfused", "--reason", "x").code == 0
    assert image(run, "--fuse").json["fused"] == "now"


@thorough
@pytest.mark.parametrize("number", one_of([signal.SIGINT, signal.SIGTERM]))
def test_an_interrupt_waits_for_the_end_of_burning(
    run: Run, sandbox: Sandbox, tmp_path: Path, number: int
) -> None:
    burns(sandbox, HOLD)
    with start(tmp_path, "--json") as process:
        held(sandbox, process)
        process.send_signal(number)
        time.sleep(0.1)
        assert process.poll() is None
        (sandbox.dir / "go").touch()
        out, err = process.communicate()
    assert (process.returncode, json.loads(out)["fused"]) == (130, "now"), err
    assert rows(run) == [("fuse", "started"), ("fuse", "done")]
    ran = image(run, "--fuse")
    assert (ran.code, ran.json["fused"], len(burned(sandbox))) == (0, "before", 1)


def test_no_variable_of_ours_reaches_the_command_and_its_log_is_private(
    run: Run, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZAION_IMAGEBUILD_STATION", "S1")
    burns(sandbox, 'env; echo "*** done."')
    assert image(run, "--fuse").code == 0
    (log,) = (tmp_path / "state").rglob("fuse.log")
    assert log.stat().st_mode & 0o777 == 0o600
    assert "PATH=" in log.read_text()
    assert "AZAION_IMAGEBUILD_" not in log.read_text()


def test_a_fleet_burns_no_fuses(run: Run, sandbox: Sandbox) -> None:
    for more in ([], ["--plan"]):
        ran = run("fleet", "AZJN-0001..AZJN-0002", "--out", "images", "--fuse=1", *more)
        assert (ran.code, burned(sandbox)) == (2, [])
        assert "one by one" in ran.err
    assert run("fleet", "AZJN-0001", "--out", "images", "--fuse=0").code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a real flash.sh needs root")
def test_the_device_that_is_burned_is_the_one_that_is_meant(
    run: Run, bsp: Path, sysfs: Path, api_url: str
) -> None:
    replace_script(bsp / "flash.sh", 'exec ./flash.sh.real "$@"\n')
    script = bsp / "odmfuse.sh"
    script.write_text('#!/bin/sh\necho "$USER $FAB $*" >> ../fused\necho "*** done."\n')
    script.chmod(0o755)
    argv = ("--bsp", str(bsp), "--api-url", api_url, "--fuse", "--flash", "0")
    config = '[fuse]\ncommand = ["./odmfuse.sh"{}]\n[bsp]\nenvironment = {{ FAB = "300" }}\n'
    Path("imagebuild.toml").write_text(config.format(""))
    add_usb_device(sysfs, "1-5", "0955", "7623")
    several = image(run, *argv)
    assert several.code == 3
    assert "2 devices are in recovery mode" in several.json["error"]
    chosen = image(run, *argv, "--usb-instance", "1-5")
    assert chosen.code == 3
    assert "does not say which one it burns" in chosen.json["error"]
    Path("imagebuild.toml").write_text(config.format(', "--usb-instance", "{usb_instance}"'))
    ran = image(run, *argv, "--usb-instance", "1-5")
    assert (ran.code, ran.json["fuse_device"]) == (0, "1-5"), ran.err
    assert (bsp.parent / "fused").read_text() == "root 300 --usb-instance 1-5\n"
    for folder in ("1-3", "1-5"):
        for name in (sysfs / folder).iterdir():
            name.unlink()
    again = image(run, *argv)  # what is fused needs no device
    assert (again.code, again.json["fused"]) == (0, "before"), again.err
    nobody = run("image", "--serial", "AZJN-0043", *argv)
    assert nobody.code == 3
    assert "no device is in recovery mode" in nobody.err


def test_a_file_that_asks_is_refused_even_beside_the_flag() -> None:
    Path("imagebuild.toml").write_text("[build]\nfuse = true\n")
    with pytest.raises(UsageError, match="asks for"):
        load({("build", "fuse"): "1"}, {}, None)
