from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from thorough import thorough

from azaion_imagebuild.secret import Secret
from azaion_imagebuild.system import process
from azaion_imagebuild.system.log_files import appending
from azaion_imagebuild.system.process import (
    TIMED_OUT,
    find_program,
    hide_variable,
    processes_of,
    run,
)


def test_output_is_kept_in_the_log_and_its_tail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    finished = run(["bash", "-c", "echo out; echo err >&2; exit 3"], cwd=tmp_path, log=log)
    assert (finished.returncode, finished.tail) == (3, ("out", "err"))
    assert log.read_text() == "$ bash -c 'echo out; echo err >&2; exit 3'\nout\nerr\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert finished.last_words() == "out | err"
    assert finished.command_line.startswith(f"cd {tmp_path} && bash -c")


def test_a_secret_that_a_program_prints_is_blanked_out(tmp_path: Path) -> None:
    secret = Secret("hunter2hunter2")
    log = tmp_path / "log"
    finished = run(["echo", f"password: {secret.reveal()}"], cwd=tmp_path, log=log)
    assert finished.tail == ("password: ***",)
    assert log.read_text().splitlines()[1:] == ["password: ***"]


def test_control_characters_and_endless_lines_do_no_harm(tmp_path: Path) -> None:
    script = "import sys; sys.stdout.write('\\x1b[2J\\rx' + 'y' * 100000 + '\\n\\xff\\n')"
    finished = run([sys.executable, "-c", script], cwd=tmp_path)
    assert all(line.isprintable() and len(line) <= 8192 for line in finished.tail)


def test_this_tools_own_variables_stay_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZAION_IMAGEBUILD_API_URL", "x")
    monkeypatch.setenv("HIDDEN_TOKEN", "x")
    monkeypatch.setenv("OTHER", "kept")
    hide_variable("HIDDEN_TOKEN")
    finished = run(["env"], cwd=tmp_path, environ={"BOARDID": "3767"})
    names = {line.partition("=")[0] for line in finished.tail}
    assert {"OTHER", "BOARDID"} <= names
    assert not {"AZAION_IMAGEBUILD_API_URL", "HIDDEN_TOKEN"} & names


def test_a_program_gets_no_input(tmp_path: Path) -> None:
    assert run(["cat"], cwd=tmp_path).returncode == 0


def test_a_program_that_takes_too_long_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    script = "trap 'echo stopped; exit' INT; sleep 60 & echo $! > pid; wait"
    finished = run(["bash", "-c", script], cwd=tmp_path, timeout=0.5)
    assert finished.returncode == TIMED_OUT
    assert gone(int((tmp_path / "pid").read_text()))


@thorough
def test_a_daemon_that_holds_the_output_open_does_not_hold_the_build(tmp_path: Path) -> None:
    begin = time.monotonic()
    finished = run(["bash", "-c", "sleep 30 & echo $! > pid; echo done"], cwd=tmp_path)
    assert finished.tail == ("done",)
    assert time.monotonic() - begin < 20
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_an_interrupt_reaches_the_whole_group_and_is_waited_for(tmp_path: Path) -> None:
    script = "trap 'sleep 0.2; echo > cleaned; exit' INT; sleep 60 & echo $! > pid; wait"

    def interrupt() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(["bash", "-c", script], cwd=tmp_path)
    thread.join()
    assert (tmp_path / "cleaned").exists()
    assert gone(int((tmp_path / "pid").read_text()))


def test_an_interrupt_while_a_program_starts_leaves_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        signal.raise_signal(signal.SIGINT)  # before the caller has its hands on the child
        return started[0]

    monkeypatch.setattr("azaion_imagebuild.system.process.subprocess.Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(["sleep", "60"], cwd=tmp_path)
    assert gone(started[0].pid)


def gone(pid: int) -> bool:
    """Tell whether a process has ended (a zombie has)."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_a_program_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-program"):
        run(["no-such-program"], cwd=tmp_path)


@pytest.mark.parametrize(
    "name", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"]
)
def test_no_program_sees_the_token_of_a_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nor where this tool makes no trace: the variable may be another program's."""
    monkeypatch.setenv(name, "authorization=a-token")
    finished = run(["env"], cwd=tmp_path)
    assert finished.tail
    assert not any("a-token" in line for line in finished.tail)


def test_a_log_line_that_did_not_fit_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with appending(tmp_path / "log") as note:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        try:
            note("first")
            note("second")
            note("third")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        note("fourth")
        note("fifth")
    assert (tmp_path / "log").read_text().splitlines() == ["first", "seco", "fourth", "fifth"]


def test_a_program_is_found_where_only_roots_path_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_program("mke2fs") in ("/usr/sbin/mke2fs", "/sbin/mke2fs", None)
    monkeypatch.setattr(process, "_SYSTEM_PATH", str(tmp_path))
    own = tmp_path / "own"
    assert find_program("own") is None
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert find_program("own") == str(own)
    assert find_program("sh", tmp_path) is None


def test_running_processes_are_told_with_their_arguments() -> None:
    with subprocess.Popen(["sleep", "987"], stdout=subprocess.DEVNULL) as child:
        try:
            found = {each.pid: each.argv for each in processes_of()}
        finally:
            child.kill()
    assert found[child.pid][1:2] in (("987",), ())  # () before it has become sleep
    assert os.getpid() in found


def test_a_line_that_counts_is_kept_however_much_comes_after_it(tmp_path: Path) -> None:
    script = "echo early; echo done; for i in {1..300}; do echo $i; done"
    finished = run(["bash", "-c", script], cwd=tmp_path, is_telling=lambda line: line == "done")
    assert (finished.telling, finished.tail[0]) == (("done",), "101")


def test_the_end_of_an_endless_line_is_kept_and_so_is_one_without_an_end(tmp_path: Path) -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' .; printf 'all done'"
    (line,) = run(["bash", "-c", script], cwd=tmp_path).tail
    assert (line[:3], line[-9:], len(line) <= 8192) == ("...", ".all done", True)
    hung = run(["bash", "-c", "printf 'waiting for the target'; sleep 60"], cwd=tmp_path, timeout=1)
    assert (hung.returncode, hung.tail) == (TIMED_OUT, ("waiting for the target",))
