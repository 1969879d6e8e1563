"""What is told of a build while it runs: stderr as JSON, a log file for each attempt, a trace."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving import served
from thorough import one_of, thorough
from world import SERIAL, TOOL, Run, outcomes, replace_script

from azaion_imagebuild.config.loading import load
from azaion_imagebuild.pipeline import events
from azaion_imagebuild.sandbox import Sandbox

STEPS = ["preflight", "prepare", "provision_identity", "pre_flash", "build_image", "verify_image",
         "digest_image", "flash", "post_flash"]  # fmt: skip
WARNS = """
import logging
from azaion_imagebuild import hookimpl
@hookimpl
def verify_image(build, identity):
    log = logging.getLogger(__name__)
    log.warning("%s has %s", build.serial, identity.password.reveal())
    log.debug("as a detail")
"""
FAILS = """
from azaion_imagebuild import hookimpl
@hookimpl
def pre_flash(build, identity):
    raise ValueError(identity.password.reveal())
"""


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    found = Sandbox(tmp_path / "state/azaion-imagebuild/sandbox")
    found.create(1.0)
    return found


def plugin(text: str) -> None:
    """Add a site's plug-in to the configuration of this folder."""
    Path("plugins").mkdir()
    Path("plugins/site.py").write_text(text)
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["plugins"]\n')


def told(text: str) -> list[dict[str, Any]]:
    """Return the events of a log in which every line is a JSON object."""
    return [json.loads(line) for line in text.splitlines()]


# Each attempt has a log file.


def test_an_attempts_log_tells_its_story_for_this_user_only(run: Run) -> None:
    ran = run("image", "--serial", SERIAL, "--json")
    assert ran.code == 0, ran.err
    log = Path(ran.json["log"])
    assert log.parent.name == ran.json["attempt"]
    assert (log.stat().st_mode & 0o777, log.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    lines = log.read_text().splitlines()
    assert f"attempt {ran.json['attempt']}" in lines[0]
    assert lines[-1].endswith(
        f"s  DONE in the SANDBOX: {SERIAL} in {ran.json['seconds']:.1f} s"[1:]
    )
    ended = [line.split()[2] for line in lines if " info " in line][1:-1]
    assert ended == STEPS
    assert all(line[:4].isdigit() and line[23] == "Z" for line in lines)  # when, in UTC


def test_a_bug_and_what_plug_ins_log_stand_there_without_the_password(
    run: Run, sandbox: Sandbox
) -> None:
    plugin(WARNS + FAILS)
    ran = run_failing(run)
    text = Path(ran["log"]).read_text()
    assert f"FAILED {SERIAL} at pre_flash (exit 70)" in text
    assert "error   a bug in " in text
    assert "    Traceback (most recent call last):" in text
    assert "ValueError: ***" in text


def run_failing(run: Run) -> Any:
    """Build with a plug-in that has a bug; return the record."""
    process = subprocess.run(
        [*TOOL, "image", "--serial", SERIAL, "--json"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 70, process.stderr
    record = json.loads(process.stdout)
    assert f"log: {record['log']}\n" in process.stderr
    return record


def test_a_log_line_whose_arguments_do_not_fit_stops_no_build(run: Run) -> None:
    plugin(WARNS.replace("log.debug(", 'log.info("%d", "one"); log.debug("%d", "two"); log.debug('))
    ran = run("image", "--serial", SERIAL, "--json")
    assert ran.code == 0, ran.err
    for text in (Path(ran.json["log"]).read_text(), ran.err):
        assert "site.py:8 logs a line that cannot be formatted: TypeError(" in text
    assert "debug   as a detail" in Path(ran.json["log"]).read_text()


def test_what_a_plug_in_logs_is_redacted(run: Run) -> None:
    plugin(WARNS)
    ran = run("image", "--serial", SERIAL, "--json")
    text = Path(ran.json["log"]).read_text()
    assert f"warning {SERIAL} has ***" in text
    assert "debug   as a detail" in text
    assert f"warning: {SERIAL} has ***" in ran.err


def test_an_attempt_that_is_refused_has_a_log_too(run: Run, tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    ran = run("provision", "--serial", SERIAL, "--api-url", "http://127.0.0.1:9",
              "--rootfs-dir", rootfs, "--json")  # fmt: skip
    assert ran.code == 3
    text = Path(ran.json["log"]).read_text()
    for error, hint in zip(ran.errors, ran.hints, strict=True):
        assert f"error   {error.removeprefix('error: ')} ({hint})" in text


def test_a_log_that_cannot_be_opened_stops_no_build(
    run: Run, tmp_path: Path, rootfs_dir: Path, api_url: str
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    ran = run("provision", "--serial", SERIAL, "--api-url", api_url,
              "--rootfs-dir", rootfs_dir, "--json")  # fmt: skip
    assert (ran.code, ran.json["log"]) == (0, None)
    assert "warning: this attempt has no log file: cannot make the log folder" in ran.err


def test_no_umask_opens_the_state_folder(run: Run, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ran = run("image", "--serial", SERIAL, "--json")
    finally:
        os.umask(before)
    assert (ran.code, ran.json["log"] is None) == (0, False), ran.err
    log = Path(ran.json["log"])
    for folder in log.parents[: len(log.relative_to(tmp_path).parts) - 1]:
        assert folder.stat().st_mode & 0o777 == 0o700, folder


def test_each_device_of_a_fleet_has_its_own_log(run: Run) -> None:
    plugin(WARNS)
    ran = run("fleet", "AZJN-0001..AZJN-0004", "--out", "out", "--jobs", "2", "--json")
    assert set(outcomes(ran).values()) == {"done"}, ran.err
    logs = {each["serial"]: Path(each["log"]).read_text() for each in ran.json["records"]}
    for serial, text in logs.items():
        assert f"warning {serial} has ***" in text
        assert not [other for other in logs if other != serial and other in text]


def test_a_scripts_own_output_is_in_its_own_log(run: Run, sandbox: Sandbox) -> None:
    replace_script(sandbox.bsp / "flash.sh", 'echo "a word of flash.sh"; ./flash.sh.real "$@"\n')
    ran = run("image", "--serial", SERIAL, "--json")
    log = Path(ran.json["log"])
    assert "a word of flash.sh" not in log.read_text()
    assert "a word of flash.sh" in log.with_name("flash.log").read_text()


# stderr for a program.


@pytest.mark.parametrize("way", one_of(["flag", "variable", "file"]))
def test_every_line_is_an_event(run: Run, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--log-format", "json"] if way == "flag" else []
    if way == "variable":
        monkeypatch.setenv("AZAION_IMAGEBUILD_LOG_FORMAT", "json")
    if way == "file":
        Path("imagebuild.toml").write_text('[log]\nformat = "json"\n')
    ran = run("image", "--serial", SERIAL, "--json", *flags)
    seen = told(ran.err)
    assert [each["step"] for each in seen if each["event"] == "step"] == STEPS
    assert {each["serial"] for each in seen if each["event"] != "exit"} == {SERIAL}
    assert seen[-2] == seen[-2] | ran.json | {"event": "finished", "level": "info"}
    assert (seen[-1]["event"], seen[-1]["exit_code"]) == ("exit", 0)
    assert told(Path(ran.json["log"]).read_text())[-1]["event"] == "finished"


def test_a_failure_is_an_event_with_its_hint_and_the_exit_code(run: Run) -> None:
    ran = run("image", "--serial", "AZJN-0042; rm -rf /", "--log-format=json")
    error, end = told(ran.err)
    assert (error["event"], error["level"]) == ("error", "error")
    assert "is not a serial" in error["message"]
    assert "scan the label again" in error["hint"]
    assert (end["event"], end["exit_code"], ran.code) == ("exit", 2, 2)


def test_an_interrupt_before_anything_has_begun_shows_no_traceback() -> None:
    """While modules are imported, which is most of the first tenth of a second."""
    program = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *more):\n"
        "        if name == 'azaion_imagebuild.cli.main': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from azaion_imagebuild.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_line_that_cannot_be_parsed_is_told_in_the_form_that_it_asks_for(run: Run) -> None:
    ran = run("image", "--log-format", "json", "--no-such-flag")
    assert [each["event"] for each in told(ran.err)] == ["error", "exit"]


def test_a_fleets_devices_are_events(run: Run) -> None:
    ran = run("fleet", "AZJN-0001..AZJN-0003", "--out", "out", "--log-format", "json")
    devices = [each for each in told(ran.err) if each["event"] == "device"]
    assert sorted(each["serial"] for each in devices) == ["AZJN-0001", "AZJN-0002", "AZJN-0003"]
    assert {each["outcome"] for each in devices} == {"done"}


@pytest.mark.parametrize(("step", "code"), one_of([("post_provision", 70), ("cleanup", 0)]))
def test_a_panic_in_a_plug_in_is_a_bug_like_any_other(run: Run, step: str, code: int) -> None:
    """A Rust extension's is no Exception."""
    plugin(
        "from azaion_imagebuild import hookimpl\n"
        "class Panic(BaseException): pass\n"
        f"@hookimpl\ndef {step}(build):\n    raise Panic('index out of bounds')\n"
    )
    done = call("image", "--serial", SERIAL, "--json", "--log-format", "json")
    assert done.returncode == code, done.stderr
    seen, record = told(done.stderr), json.loads(done.stdout)
    problems = [each["message"] for each in seen if each["event"] in ("warning", "error")]
    assert any("index out of bounds" in each for each in problems)
    assert (seen[-1]["event"], seen[-1]["exit_code"]) == ("exit", code)
    (row,) = json.loads(run("ledger", "list", "--json").out)
    assert row["outcome"] == record["outcome"]


def test_a_field_of_a_plug_in_does_not_hide_what_an_event_is(run: Run) -> None:
    plugin(
        "from azaion_imagebuild import hookimpl\n"
        "@hookimpl\n"
        "def post_flash(build):\n"
        "    return {'event': 'x', 'level': 'debug', 'message': 'm', 'time': 1, 'site': 'north'}\n"
    )
    ran = run("image", "--serial", SERIAL, "--json", "--log-format", "json")
    end = told(ran.err)[-2]
    assert (end["event"], end["level"], end["site"]) == ("finished", "info", "north")
    assert end["message"].startswith("DONE in the SANDBOX")
    assert end["time"].endswith("Z")


def test_what_a_plug_in_prints_or_warns_of_is_an_event_without_the_password(run: Run) -> None:
    plugin(
        "import sys, threading, warnings\n"
        "from azaion_imagebuild import hookimpl\n"
        "def fail(text): raise ValueError(text)\n"
        "@hookimpl\n"
        "def post_flash(identity):\n"
        "    password = identity.password.reveal()\n"
        "    print('printed', password, end='\\x1b[31m\\n')\n"
        "    print('without', 'end', end='', file=sys.stderr)\n"
        "    print(' of line', file=sys.stderr)\n"
        "    warnings.warn(f'warned {password}')\n"
        "    thread = threading.Thread(target=fail, args=[password])\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "    print('last', end='')\n"
    )
    for form in ("json", "text"):
        done = call("image", "--serial", SERIAL, "--json", "--log-format", form)
        lines = done.stderr.splitlines()
        if form == "json":
            lines = [each["message"] for each in told(done.stderr)]
        assert done.returncode == 0, lines
        shown = "printed ***" + ("\\x1b[31m" if form == "text" else "\x1b[31m")
        assert {shown, "without end of line", "ValueError: ***", "last"} <= set(lines)
        assert any(each.endswith("UserWarning: warned ***") for each in lines)
        assert len(done.stdout.splitlines()) == 1


def test_of_many_rotated_devices_an_error_names_its_own(run: Run) -> None:
    assert run("image", "--serial", SERIAL).code == 0
    plugin(FAILS.replace("pre_flash", "post_provision"))
    done = call("rotate", "--all-older-than", "0d", "--out", "new", "--log-format", "json")
    (error,) = [each for each in told(done.stderr) if each["event"] == "error"]
    assert (done.returncode, error["serial"]) == (10, SERIAL), done.stderr
    assert error["attempt"]


def test_what_plug_ins_log_in_a_fleet_is_known_by_its_device(run: Run) -> None:
    plugin(WARNS)
    ran = run("fleet", "AZJN-0001..AZJN-0003", "--out", "out", "--log-format", "json")
    logged = [each for each in told(ran.err) if each["message"].endswith(" has ***")]
    assert len(logged) == 3
    assert all(each["message"] == f"{each['serial']} has ***" for each in logged)
    assert all(each["attempt"] for each in logged)


def test_what_would_command_a_terminal_or_break_a_line_is_escaped() -> None:
    event = events.said("a\x1b[31m\nb\u202e", "warning", traceback="Trace\n  in\x07\n")
    text, line = event.as_text(0.0), event.as_json(0.0)
    assert text.splitlines() == [
        "1970-01-01T00:00:00.000Z warning a\\x1b[31m\\nb\\u202e", "    Trace", "      in\\x07",
    ]  # fmt: skip
    assert line.isascii()
    assert len(line.splitlines()) == 1


# A trace.


class Collector:
    """An OTLP/HTTP server that keeps the spans it gets."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.paths: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.resource: dict[str, Any] = {}
        self.spans: list[Any] = []

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.paths.add(path)
        self.headers.append(headers)
        self.bodies.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = values(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += scope.spans


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.take(self.path, dict(self.headers), body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        with served(server):
            yield found


def call(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TOOL, *argv], env=os.environ | environ, capture_output=True, text=True, check=False
    )


def test_a_trace_has_a_span_for_each_step_and_no_secret(
    collector: Collector, sandbox: Sandbox
) -> None:
    replace_script(sandbox.bsp / "flash.sh", 'env > spied; ./flash.sh.real "$@"\n')
    done = call("image", "--serial", SERIAL, "--json",
                AZAION_IMAGEBUILD_OTLP_ENDPOINT=f"{collector.url}/",
                OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20a-token",
                OTEL_RESOURCE_ATTRIBUTES="factory=north")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    root = next(span for span in collector.spans if not span.parent_span_id)
    steps = [span for span in collector.spans if span.parent_span_id == root.span_id]
    steps.sort(key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in steps] == STEPS
    assert len(collector.spans) == len(STEPS) + 1
    assert all(span.end_time_unix_nano <= root.end_time_unix_nano for span in steps)
    said = values(root.attributes)
    for name in ("serial", "attempt", "outcome", "image_sha256", "flashed"):
        assert said[f"azaion.{name}"] == record[name]
    assert collector.paths == {"/v1/traces"}
    assert collector.headers[0]["authorization"] == "Basic a-token"
    assert collector.resource["service.name"] == "azaion-imagebuild"
    assert collector.resource["factory"] == "north"
    assert "a-token" not in (sandbox.bsp / "spied").read_text()


@thorough
def test_a_failed_step_is_seen_in_the_trace(collector: Collector) -> None:
    plugin(FAILS)
    done = call("image", "--serial", SERIAL, AZAION_IMAGEBUILD_OTLP_ENDPOINT=collector.url)
    assert done.returncode == 70, done.stderr
    failed = {span.name: span.status.message for span in collector.spans if span.status.code == 2}
    assert set(failed) == {"attempt", "pre_flash"}
    assert "ValueError: ***" in failed["pre_flash"]
    assert values(collector.spans[-1].attributes)["azaion.exit_code"] == 70


@thorough
def test_a_collector_that_is_away_stops_nothing() -> None:
    done = call("image", "--serial", SERIAL, AZAION_IMAGEBUILD_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    *_, end, told = done.stderr.splitlines()
    assert end.startswith(f"DONE in the SANDBOX: {SERIAL}")
    assert told.startswith("warning: the trace: Failed to export")


def hostile(answer: bytes, pause: float) -> Callable[[socket.socket], None]:
    def answers(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            read_request(connection)  # or what is left of it would break the connection
            for byte in answer:
                connection.sendall(bytes([byte]))
                time.sleep(pause)

    return answers


def read_request(connection: socket.socket) -> None:
    with connection.makefile("rb") as stream:
        headers = dict(line.lower().split(b": ", 1) for line in iter(stream.readline, b"\r\n")
                       if b": " in line)  # fmt: skip
        stream.read(int(headers[b"content-length"]))


@thorough
@pytest.mark.parametrize(
    ("answer", "pause", "said"),
    [
        (b"HTTP/1.1 200 ok\r\nContent-Length: 99\r\n\r\n" + b"a" * 99, 0.3, "too long to answer"),
        (b"HTTP/1.1 401 no a-token\r\nContent-Length: 0\r\n\r\n", 0, "401, reason: no ***"),
    ],
    ids=["drips", "sends-the-token-back"],
)
def test_a_hostile_collector_neither_holds_the_end_nor_shows_the_token(
    answer: bytes, pause: float, said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        threading.Thread(target=hostile(answer, pause), args=[listening], daemon=True).start()
        done = call("image", "--serial", SERIAL, "--log-format", "json",
                    AZAION_IMAGEBUILD_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
                    OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20a-token")  # fmt: skip
    assert done.returncode == 0, done.stderr
    *_, finished, warning, end = told(done.stderr)
    assert said in warning["message"]
    assert (finished["event"], end["event"]) == ("finished", "exit")
    assert end["seconds"] < finished["seconds"] + 10


def test_without_the_extra_there_is_a_warning_and_no_trace(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setenv("AZAION_IMAGEBUILD_OTLP_ENDPOINT", "http://127.0.0.1:9")
    ran = run("image", "--serial", SERIAL)
    assert ran.code == 0
    assert (
        f"hint: {shlex.quote(sys.executable)} -m pip install 'azaion-imagebuild[otel]'" in ran.err
    )


def test_doctor_tells_that_the_extra_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setenv("AZAION_IMAGEBUILD_OTLP_ENDPOINT", "http://127.0.0.1:9")
    ran = run("doctor")
    assert "warning: no trace is made" in ran.err
    assert "OK: ready to build with the SANDBOX" in ran.err


@pytest.mark.parametrize("endpoint", ["collector:4318", "http://user:pass@127.0.0.1:4318", ""])
@pytest.mark.parametrize("command", [("image", "--serial", SERIAL), ("doctor",)])
def test_an_endpoint_that_is_no_url_is_a_usage_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, endpoint: str, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AZAION_IMAGEBUILD_OTLP_ENDPOINT", endpoint)
    ran = run(*command)
    assert ran.code == 2
    (error,) = ran.errors
    assert error.startswith("error: AZAION_IMAGEBUILD_OTLP_ENDPOINT")
    assert "user:pass" not in ran.err


def test_the_path_that_a_collectors_manual_shows_may_stand_there() -> None:
    for url in (
        "http://collector:4318",
        "http://collector:4318/",
        "http://collector:4318/v1/traces",
    ):
        settings = load({("log", "otlp_endpoint"): url}, {}, None)
        assert settings.log.otlp_endpoint == "http://collector:4318"


@thorough
@pytest.mark.parametrize("name", ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_BSP_SCHEDULE_DELAY"])
def test_a_wrong_variable_of_opentelemetry_stops_nothing(collector: Collector, name: str) -> None:
    environ = {name: "-1", "AZAION_IMAGEBUILD_OTLP_ENDPOINT": collector.url}
    done = call("image", "--serial", SERIAL, **environ)
    assert done.returncode == 0, done.stderr
    assert "warning: no trace is made: " in done.stderr
    assert "hint: fix or unset OpenTelemetry's variables" in done.stderr


@thorough
def test_a_text_that_utf8_cannot_hold_does_not_lose_the_trace(collector: Collector) -> None:
    plugin(FAILS.replace("identity.password.reveal()", "'/srv/\\udcff'"))
    done = call("image", "--serial", SERIAL, AZAION_IMAGEBUILD_OTLP_ENDPOINT=collector.url,
                AZAION_IMAGEBUILD_STATION="S\udcfe")  # fmt: skip
    assert done.returncode == 70, done.stderr
    (root,) = [span for span in collector.spans if not span.parent_span_id]
    assert "ValueError: /srv/\\udcff" in root.status.message
    assert values(root.attributes)["azaion.station"] == "S\\udcfe"
