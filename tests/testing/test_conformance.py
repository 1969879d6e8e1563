"""Our own plug-ins keep the promises that the kit asks of everybody's; wrong ones are found out."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy  # noqa: F401 - what an inner run of pytester imports first, it takes away again
import wrong_plugins
from thorough import one_of
from wrong_plugins import WrongFlash, WrongIdentity

import azaion_imagebuild
from azaion_imagebuild import hookimpl
from azaion_imagebuild.identity.serial import new_password
from azaion_imagebuild.model import Build, DeviceIdentity
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.settings import Settings
from azaion_imagebuild.shipped import shipped
from azaion_imagebuild.testing import (
    AdminApiConformance,
    FlashConformance,
    ProvisionIdentityConformance,
)

Wrong = type[WrongIdentity] | type[WrongFlash]


class TestAdminApi(AdminApiConformance):
    plugin = shipped("hooks") / "admin_api.py"


class TestFlashSh(FlashConformance):
    plugin = shipped("hooks") / "flash.py"


class TestInitrdFlash(FlashConformance):
    plugin = shipped("hooks") / "flash.py"
    method = "initrd"


class Drawer:
    """A source of identities without any HTTP: the accounts lie in a file."""

    @hookimpl
    def provision_identity(self, build: Build) -> DeviceIdentity:
        accounts, password = Accounts(Path(os.environ["SITE_ACCOUNTS"])), new_password()
        new = accounts.create(build.email, password.reveal(), "CompanionPC")
        if not new:
            accounts.set_password(build.email, password.reveal())
        return DeviceIdentity(
            serial=build.serial, email=build.email, password=password,
            enrolled="created" if new else "updated",
        )  # fmt: skip


class TestDrawer(ProvisionIdentityConformance):
    plugin = Drawer()

    @pytest.fixture
    def settings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
        monkeypatch.setenv("SITE_ACCOUNTS", str(tmp_path / "accounts.sqlite3"))
        return Settings()


@pytest.fixture
def cleared_up() -> Iterator[None]:
    yield
    wrong_plugins.clear_up()


@pytest.mark.usefixtures("cleared_up")
@pytest.mark.parametrize(
    ("kit", "wrong"),
    one_of(
        [(AdminApiConformance, wrong_plugins.IDENTITIES), (FlashConformance, wrong_plugins.FLASHES)]
    ),
)
def test_every_test_of_the_kit_finds_a_plug_in_that_breaks_its_promise(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, kit: type, wrong: Sequence[Wrong]
) -> None:
    monkeypatch.setattr("azaion_imagebuild.testing.processes._SOON", 0.5)
    lines = ["import wrong_plugins", f"from azaion_imagebuild.testing import {kit.__name__}"]
    for each in wrong:
        lines += [
            f"class Test{each.__name__}({kit.__name__}):",
            f"    plugin = wrong_plugins.{each.__name__}()",
            f"    patience = {each.patience}",
        ]
    path = pytester.makepyfile(test_wrong="\n".join(lines))
    nodes = [f"{path.name}::Test{each.__name__}::{test}" for each in wrong for test in each.fails]
    # Nobody reads the tracebacks: an ordinary one is made without parsing the source.
    ran = pytester.inline_run("-p", "azaion_imagebuild.testing", "--tb=native", *nodes)
    outcome = {
        report.nodeid: report.outcome
        for report in ran.getreports("pytest_runtest_logreport")
        if report.when == "call" or report.outcome == "failed"
    }
    assert {node: outcome.get(node) for node in nodes} == dict.fromkeys(nodes, "failed")
    tried = {name.partition("[")[0] for each in wrong for name in each.fails}
    assert tried == {name for name in dir(kit) if name.startswith("test_")}


def test_nothing_but_the_kit_needs_pytest() -> None:
    names = [
        each.name
        for each in pkgutil.walk_packages(azaion_imagebuild.__path__, "azaion_imagebuild.")
        if not each.name.startswith(("azaion_imagebuild.testing", "azaion_imagebuild.__main__"))
        and ".migrations" not in each.name
    ]
    assert len(names) > 60
    code = (
        "import sys, importlib; sys.modules['pytest'] = None\n"
        f"for name in {names}: importlib.import_module(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
