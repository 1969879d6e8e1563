"""The small worlds that the tests live in: a rootfs, an admin API, a BSP, the command line."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import postgres as servers
import pytest
from hypothesis import HealthCheck, settings
from msgspec import structs
from pyfakefs.fake_filesystem import FakeFilesystem
from serving import served
from world import EMAIL, SERIAL, Ran, Request, Run, Script, Tree, add_usb_device

from azaion_imagebuild.cli import main as cli
from azaion_imagebuild.cli.console import Console
from azaion_imagebuild.config.loading import load
from azaion_imagebuild.model import Build
from azaion_imagebuild.operations.image import build_base
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.sandbox.admin_api import admin_api
from azaion_imagebuild.sandbox.bsp import create_bsp, create_rootfs, service_user
from azaion_imagebuild.settings import Settings

# No time limit of Hypothesis's: a test may take long on a busy machine.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

pytest_plugins = ["azaion_imagebuild.testing", "pytester"]


# A background job of a shell ignores these, and so would every tool that a test interrupts.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

# An installed tool has its bytecode. Without it every process that a test starts would compile the
# package again, and every worker the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# The sandbox's scripts ask the PATH for python3: a shim there (pyenv's) costs more than they do.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three for two cores: a test waits for the processes it starts a fifth of its time."""
    cores = os.cpu_count() or 1
    return cores + (cores + 1) // 2


LONG = (
    "test_plugins_page.py::test_the_pages_package_installs",
    "test_packaging.py",
    "test_docs.py::test_what_a_page_shows",
    "test_stations.py::test_three_stations",
    "test_stations.py::test_a_signal_lets",
    "test_conformance.py::test_every_test_of_the_kit",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest: at the end, one worker would wait for the other."""
    items.sort(key=lambda item: not any(each in item.nodeid for each in LONG))


def pytest_collection_finish() -> None:
    """No collection of garbage looks again at what stays to the end."""
    gc.collect()
    gc.freeze()


ALIEN = {"PYTHONUNBUFFERED", "PYTHONPATH", "PYTHONHOME"}
"""Variables of the machine that an operator does not have, and that hide faults."""


@pytest.fixture(autouse=True)
def a_world_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration, state or proxy of this machine reaches a test, and none of its NFS.

    Passwords cost little: nothing is guarded by those of a test.
    """
    monkeypatch.setattr(Accounts, "cost", 2)
    for name in list(os.environ):
        if name in ALIEN or name.startswith("AZAION_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin:/sbin")  # e2fsprogs
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture(params=["fake", "real"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    """An empty-ish rootfs, once under pyfakefs and once for real: same bodies, both worlds."""
    if request.param == "fake":
        fs: FakeFilesystem = request.getfixturevalue("fs")
        path = Path("/srv/rootfs")
        fs.create_dir(path)
    else:
        path = tmp_path / "rootfs"
        path.mkdir()
    (path / "etc").mkdir()
    uid, gid = os.geteuid(), os.getegid()
    (path / "etc/passwd").write_text(
        f"root:x:0:0::/root:/bin/sh\nazaion:x:{uid}:{gid}::/:/bin/false\n"
    )
    (path / "etc/group").write_text(f"root:x:0:\nazaion:x:{gid}:\n")
    os.utime(path / "etc", ns=(10**18, 10**18))
    return Tree(path=path, fake=request.param == "fake")


@pytest.fixture
def rootfs_dir(tmp_path: Path) -> Path:
    """The sandbox's rootfs in miniature, with the service user ``azaion``."""
    path = tmp_path / "rootfs"
    create_rootfs(path, service_user())
    return path


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up sysfs in which one Orin Nano waits in recovery mode, beside a keyboard."""
    path = tmp_path / "sysfs"
    add_usb_device(path, "1-3", "0955", "7523")
    add_usb_device(path, "1-4", "046d", "c31c")
    (path / "usb1").mkdir()
    monkeypatch.setenv("AZAION_IMAGEBUILD_BSP_SYSFS_USB", str(path))
    return path


@pytest.fixture
def bsp(tmp_path: Path, sysfs: Path) -> Path:
    """A reference Linux_for_Tegra with a virtual device in recovery mode."""
    path = create_bsp(tmp_path / "bsp" / "Linux_for_Tegra")
    (tmp_path / "bsp" / "device.img").touch()
    return path


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return Accounts(tmp_path / "accounts.sqlite3")


@pytest.fixture
def api_url(accounts: Accounts) -> Iterator[str]:
    """The embedded admin API, for real, on a port of its own."""
    with admin_api(accounts) as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """A real PostgreSQL; whoever wants it empty calls its ``empty``."""
    server = servers.started()
    yield server
    server.stop("immediate")
    shutil.rmtree(server.folder)


@pytest.fixture
def scripted() -> Iterator[Script]:
    """A real HTTP server on port 0 that answers what a test tells it to."""
    script = Script(url="")

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.requests.append(Request(self.command, self.path, dict(self.headers), body))
            answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            status, headers, content = answer
            if content is None:
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        with served(server):
            yield script


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line in this process."""

    def call(*argv: object) -> Ran:
        capsys.readouterr()
        code = cli.run([str(each) for each in argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Ran(code, out, err)

    return call


@pytest.fixture
def make_build(tmp_path: Path) -> Callable[..., Build]:
    """Make a Build with some settings changed: ``section__name=value``."""

    def make(rootfs_dir: Path, bsp_dir: Path | None = None, **changes: Any) -> Build:
        settings = Settings()
        for place, value in changes.items():
            section, _, name = place.partition("__")
            part = structs.replace(getattr(settings, section), **{name: value})
            settings = structs.replace(settings, **{section: part})
        log_dir = tmp_path / "log"
        log_dir.mkdir(exist_ok=True)
        return Build(
            serial=SERIAL,
            email=EMAIL,
            attempt="test",
            settings=settings,
            rootfs_dir=rootfs_dir,
            bsp_dir=bsp_dir,
            log_dir=log_dir,
            stamps=bsp_dir is not None and settings.image.inject == "stamp",
            packed_for=settings.bsp.massflash,
        )

    return make


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a placeholder, built once for all stations."""
    folder = tmp_path_factory.mktemp("base")
    flags = {("build", "state_dir"): str(folder / "state"), ("device_conf", "owner"): "azaion"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin:/sbin")  # e2fsprogs
        record = build_base(load(flags, {}, None), Console(None), folder / "base.img")
    assert record.error is None
    return folder / "base.img"
