"""Signals by the thousand, from a moment of a build on: a plug-in that sends them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from world import TOOL

STORM = """
import os, signal, threading, time
from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import ImageBuildError
def storm():
    while True:
        os.kill(os.getpid(), signal.{signal})
        time.sleep(0.0003)
def begin():
    threading.Thread(target=storm, daemon=True).start()
    time.sleep(0.01)
calls = []
def begin_at_call(number):
    calls.append(number)
    if len(calls) == number:
        begin()
"""
"""A plug-in that has the process signalled, from a moment on until it is gone."""


def plug_in(text: str, signal: str = "SIGTERM") -> None:
    """Put a plug-in with ``text`` into the site; its ``begin()`` begins the storm."""
    Path("site").mkdir(exist_ok=True)
    Path("site/storm.py").write_text(STORM.format(signal=signal) + text + "\n")
    Path("imagebuild.toml").write_text('[hooks]\ndirs = ["site"]\n')


def ended(*argv: object) -> tuple[int, Any, str]:
    """Run a command in a process that heeds signals; return its exit code, record and stderr."""
    done = subprocess.run(
        ["env", "--default-signal=INT,TERM,HUP", *TOOL, *map(str, argv), "--json"],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr
