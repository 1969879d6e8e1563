"""The parts of the sandbox as pytest fixtures, each test with its own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..identity.serial import email_for
from ..model import Build
from ..sandbox import Accounts
from ..sandbox.bsp import create_bsp, create_rootfs, service_user
from ..settings import ENV_PREFIX, Settings
from .admin_api import FallibleAdminApi
from .stations import Bakery, FlashableImage, MakeBuild, MakeImage, build_image

SERIAL = "AZJN-0042"


@pytest.fixture
def sandbox_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide this host's settings, proxies, home and temporary folder; use a new working folder."""
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for variable, name in (("HOME", "home"), ("TMPDIR", "tmp"), ("XDG_STATE_HOME", "state")):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it remembers TMPDIR
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def sandbox_accounts(tmp_path: Path) -> Accounts:
    """The accounts of an admin API; ``login`` tells whether a password opens one."""
    accounts = Accounts(tmp_path / "accounts.sqlite3")
    accounts.cost = 2  # the passwords of a test guard nothing
    return accounts


@pytest.fixture
def sandbox_admin_api(sandbox_accounts: Accounts) -> Iterator[FallibleAdminApi]:
    """A real server of the runbook's admin API, on a free port; ``fails`` makes it fail."""
    with FallibleAdminApi(sandbox_accounts) as api:
        yield api


@pytest.fixture
def sandbox_rootfs(tmp_path: Path) -> Path:
    """A small root filesystem with the service user ``azaion``."""
    path = tmp_path / "rootfs"
    create_rootfs(path, service_user())
    return path


@pytest.fixture
def sandbox_bsp(tmp_path: Path) -> Path:
    """A reference Linux_for_Tegra, whose scripts build real images and flash a file."""
    return create_bsp(tmp_path / "station" / "Linux_for_Tegra")


@pytest.fixture
def sandbox_device(sandbox_bsp: Path) -> Path:
    """The file that the scripts of ``sandbox_bsp`` flash: a device in recovery mode, empty."""
    path = sandbox_bsp.parent / "device.img"
    path.touch(mode=0o600)
    return path


@pytest.fixture
def sandbox_build(tmp_path: Path, sandbox_environment: Path) -> MakeBuild:
    """Make a Build: ``sandbox_build(serial, settings=…, rootfs_dir=…, bsp_dir=…)``."""

    def make(
        serial: str = SERIAL,
        *,
        settings: Settings | None = None,
        rootfs_dir: Path | None = None,
        bsp_dir: Path | None = None,
    ) -> Build:
        chosen = settings or Settings()
        fallback = bsp_dir / "rootfs" if bsp_dir else Path(os.devnull)
        return Build(
            serial=serial,
            email=email_for(serial),
            attempt="conformance",
            settings=chosen,
            rootfs_dir=rootfs_dir or fallback,
            bsp_dir=bsp_dir,
            log_dir=tmp_path / "logs" / serial,
            began=time.time(),
            sandbox=True,
            flash=chosen.build.flash,
            stamps=bsp_dir is not None and chosen.image.inject == "stamp",
            packed_for=chosen.bsp.massflash,
        )

    return make


@pytest.fixture(scope="session")
def _sandbox_bakery(tmp_path_factory: pytest.TempPathFactory) -> Bakery:
    """The source of the first image of each test for ``sandbox_image``."""
    return Bakery(tmp_path_factory.mktemp("bakery"))


@pytest.fixture
def sandbox_image(
    sandbox_bsp: Path, sandbox_build: MakeBuild, _sandbox_bakery: Bakery
) -> MakeImage:
    """Build an image in ``sandbox_bsp``: ``sandbox_image(serial, settings=…)``.

    The step ``flash`` gets such an image: built by the reference scripts, with an identity in it. A
    second one in the same test replaces it.
    """
    made = 0

    def make(serial: str = SERIAL, *, settings: Settings | None = None) -> FlashableImage:
        nonlocal made
        made += 1
        build = sandbox_build(serial, settings=settings, bsp_dir=sandbox_bsp)
        return _sandbox_bakery.image(build) if made == 1 else build_image(build)

    return make
