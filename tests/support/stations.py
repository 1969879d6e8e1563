"""A small factory: an admin API, a base, a PostgreSQL, stations as processes, and a virtual line.

The line is a site's plug-in that flashes into a file, one line each, and can be made to wait or to
fail by files in its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import azaion_imagebuild
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.serial import email_for
from azaion_imagebuild.ledger import Entry, Ledger
from azaion_imagebuild.ledger.chain import check
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.stations.status import Status, read_status

ROOT = Path(azaion_imagebuild.__file__).parent.parent
LINE = """
import os, time
from pathlib import Path
from azaion_imagebuild import hookimpl, images
from azaion_imagebuild.errors import FlashError, ProvisioningError
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.model import DEVICE_CONF, FlashResult

LINE = Path(__file__).parent

def note(name, text):
    line = os.open(LINE / name, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    os.write(line, (text + "\\n").encode())
    os.close(line)

def wait(step, build):
    note("reached", f"{step} {build.serial}")
    while (LINE / f"hold-{step}").exists():
        time.sleep(0.01)

@hookimpl(tryfirst=True)
def provision_identity(build):
    wait("provision", build)
    if (LINE / "refuse").exists():
        note("refused", build.serial)
        raise ProvisioningError("the API said no", hint="ask it why")

@hookimpl(tryfirst=True)
def verify_image(identity):
    note("passwords", identity.password.reveal())

@hookimpl(tryfirst=True)
def flash(build, image):
    note("flashed", f"{build.serial} {build.attempt}")
    wait("flash", build)
    if (LINE / "jam").exists():
        raise FlashError("the line is jammed", hint="look at it")
    time.sleep(0.02)
    conf = images.read_file(image.path, DEVICE_CONF, device_conf.LONGEST)
    (LINE / f"{build.serial}.conf").write_bytes(conf.data)
    return FlashResult(device="a virtual device")
"""


_at_work: dict[int, tuple[subprocess.Popen[str], str]] = {}
_MEANT = (0, 130)


@dataclass
class Factory:
    """Where stations work; the current folder is its folder."""

    url: str
    api_url: str
    base: Path
    line: Path = field(default_factory=lambda: Path.cwd() / "line")

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, open as long as the factory: many looks go through one connection."""
        return Ledger(self.url)

    def build(self, dead_after: float = 60.0, **station: Any) -> Factory:
        """Write the site's configuration."""
        self.line.mkdir(exist_ok=True)
        (self.line / "line.py").write_text(LINE)
        more = "".join(f"{name} = {value}\n" for name, value in station.items())
        Path("imagebuild.toml").write_text(
            f'[hooks]\ndirs = ["{self.line}"]\n[admin_api]\nurl = "{self.api_url}"\n'
            f'[ledger]\ndatabase = "{self.url}"\n[station]\ndead_after = {dead_after}\n{more}'
        )
        return self

    @contextlib.contextmanager
    def station(
        self,
        name: str,
        *argv: str,
        lanes: int = 2,
        base: bool = True,
        stdin: int = subprocess.DEVNULL,
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a station; it is killed at the end, if it is still there."""
        words = ["station", "--name", name, "--jobs", str(lanes)]
        words += ["--image", str(self.base)] if base else []
        log = Path(f"{name}.log").open("a")  # noqa: SIM115 - the process writes it
        process = subprocess.Popen(
            ["env", "--default-signal=INT,TERM,HUP", sys.executable, "-m", "azaion_imagebuild",
             *words, "--json", *argv],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )  # fmt: skip
        _at_work[process.pid] = (process, log.name)
        try:
            yield process
        finally:
            del _at_work[process.pid]
            log.close()
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()

    def kill(self, process: subprocess.Popen[str]) -> None:
        """End a station as a power cut does."""
        process.kill()
        process.wait()
        process.returncode = 0  # it was meant

    def stop(self, process: subprocess.Popen[str]) -> Any:
        """End a station as an operator does; return what it says of itself."""
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        return json.loads(out)

    def log(self, name: str) -> str:
        return Path(f"{name}.log").read_text()

    def hold(self, step: str) -> None:
        (self.line / f"hold-{step}").touch()

    def go_on(self, step: str) -> None:
        (self.line / f"hold-{step}").unlink()

    def noted(self, name: str) -> list[str]:
        path = self.line / name
        return path.read_text().splitlines() if path.exists() else []

    def flashed(self) -> Counter[str]:
        """Return how often each serial reached a device."""
        return Counter(line.split()[0] for line in self.noted("flashed"))

    def opens_its_account(self, accounts: Accounts, serial: str) -> bool:
        """Tell whether the device of a serial can log in with what it was flashed with."""
        conf = device_conf.parse((self.line / f"{serial}.conf").read_bytes())
        return conf.email == email_for(serial) and accounts.login(
            conf.email, conf.password.reveal()
        )

    def attempts(self) -> dict[str, Entry]:
        """Return the last row of each serial; the ledger must be whole."""
        assert list(check(self.ledger)) == []
        return {entry.serial: entry for _, entry, _ in self.ledger.rows()}

    def outcomes(self) -> Counter[str]:
        return Counter(entry.outcome for entry in self.attempts().values())

    def status(self) -> Status:
        """Return what `station status --json` prints."""
        return read_status(self.ledger)

    def is_idle(self) -> bool:
        return not any(each["waiting"] or each["running"] for each in self.status()["queues"])


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        for process, log in _at_work.values():
            said = f"{log}: {Path(log).read_text()[-2000:]}"
            assert process.poll() in (None, *_MEANT), f"ended with {process.returncode}: {said}"
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def serials(count: int) -> list[str]:
    return [f"AZJN-{number:04}" for number in range(1, count + 1)]
