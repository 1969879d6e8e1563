"""The promises of a plug-in for the step ``provision_identity``, as tests to inherit."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pluggy
import pytest
from msgspec import structs

from ..errors import ExitCode
from ..identity import device_conf
from ..identity.serial import email_for
from ..model import DEVICE_CONF, Build, DeviceIdentity, Shared
from ..pipeline import recipes as pipeline
from ..pipeline.shared import SharedResources
from ..sandbox import Accounts
from ..secret import Secret
from ..settings import PASSWORD_PATTERN, Settings
from .admin_api import (
    BROKEN,
    CUT_OFF,
    DRIPPING,
    ECHO,
    LOST_REPLY,
    NO_JSON,
    SILENT,
    SILENT_AFTERWARDS,
    SLOW,
    WEB_PAGE,
    AccountBook,
    FallibleAdminApi,
    Fault,
    redirects,
    refuses,
)
from .leaks import Shown
from .promises import Conformance, judge_error, unwatched
from .stations import MakeBuild

Provision = Callable[..., DeviceIdentity]
_TOKEN = "conformance-token"  # noqa: S105 - of no API
_IMPATIENT = 0.1  # seconds to wait for an answer that never comes
_REDIRECTS = [redirects(status) for status in (301, 302, 303, 307, 308)]
_REFUSALS = [refuses(status) for status in (400, 401, 403, 404, 422, 429, 500, 503)]
_UNTRUE = [WEB_PAGE, NO_JSON, CUT_OFF, BROKEN, SILENT, SILENT_AFTERWARDS, DRIPPING, refuses(409)]
_ECHOES = [ECHO, structs.replace(ECHO, name="echo with 400", status=400)]

which_request = pytest.mark.parametrize("after", [0, 1], ids=["first request", "second request"])


class ProvisionIdentityConformance(Conformance):
    """The promises of every source of identities.

    By default the plug-in finds the sandbox's admin API in ``build.settings.admin_api``. A source
    of another kind overrides ``accounts``, and ``settings`` where it is configured there.
    """

    serial: ClassVar[str] = "AZJN-0042"
    other_serial: ClassVar[str] = "AZJN-0043"
    odd_serial: ClassVar[str] = "LINE2-AZJN-00AB"

    @pytest.fixture
    def accounts(self, sandbox_accounts: Accounts) -> AccountBook:
        """The accounts of the plug-in's devices, for ``login`` and ``list``."""
        return sandbox_accounts

    @pytest.fixture
    def settings(self, sandbox_admin_api: FallibleAdminApi) -> Settings:
        """The settings of a site that uses the plug-in."""
        return _leading_to(Settings(), sandbox_admin_api.url)

    @pytest.fixture
    def provision(
        self,
        hook: pluggy.HookRelay,
        settings: Settings,
        sandbox_build: MakeBuild,
        shown: Shown,
    ) -> Provision:
        """Call the step for a serial, and ``activate_identity`` if its identity is pending.

        A build of a fleet has neither a BSP nor a rootfs.
        """

        def call(serial: str, shared: Shared | None = None, **api: Any) -> DeviceIdentity:
            changed = structs.replace(settings.admin_api, **api)
            chosen = structs.replace(settings, admin_api=changed)
            build = structs.replace(sandbox_build(serial, settings=chosen), shared=shared)
            return self.answered(
                "provision_identity", DeviceIdentity, lambda: _activated(hook, build), shown
            )

        return call

    def test_the_identity_is_the_serials_own(self, provision: Provision) -> None:
        for serial in (self.serial, self.other_serial, self.odd_serial):
            identity = provision(serial)
            assert (identity.serial, identity.email) == (serial, email_for(serial)), (
                "the identity must be of build.serial and build.email"
            )

    def test_the_password_is_a_secret_of_the_runbooks_form(
        self, provision: Provision, settings: Settings
    ) -> None:
        """An API may issue another form: ``settings`` then has its pattern."""
        identity = provision(self.serial)
        assert isinstance(identity.password, Secret), (
            "the password must be a Secret: nothing then prints it"
        )
        pattern = settings.device_conf.password_pattern
        assert re.fullmatch(pattern, identity.password.reveal()), (
            "the password must be 32 lower-case hexadecimal digits: identity.new_password()"
            if pattern == PASSWORD_PATTERN
            else f"the password must match [device_conf] password_pattern = {pattern!r}"
        )
        assert device_conf.unusable(identity) is None, "no device.conf can carry this password"

    def test_the_password_opens_the_account(
        self, provision: Provision, accounts: AccountBook
    ) -> None:
        _refuse_closed(provision(self.serial), accounts)

    def test_the_same_device_again_gets_a_new_password_and_no_second_account(
        self, provision: Provision, accounts: AccountBook
    ) -> None:
        first, second = provision(self.serial), provision(self.serial)
        _refuse_closed(second, accounts)
        _refuse_more_than(1, accounts)
        assert first.password != second.password, "a second time must give a new password"
        assert not accounts.login(first.email, first.password.reveal()), (
            "the old password still opens the account"
        )

    def test_an_account_that_exists_keeps_its_password_until_it_is_activated(
        self, hook: pluggy.HookRelay, settings: Settings, sandbox_build: MakeBuild,
        provision: Provision, accounts: AccountBook,
    ) -> None:  # fmt: skip
        """Only for a source whose identity is ``pending``."""
        first = provision(self.serial)
        build = sandbox_build(self.serial, settings=settings)
        new: DeviceIdentity = self.ended(lambda: hook.provision_identity(build=build))
        if new.pending is None:
            return
        assert accounts.login(first.email, first.password.reveal()), (
            "the identity is pending, but the account has lost its old password"
        )
        assert not accounts.login(new.email, new.password.reveal()), (
            "the identity is pending, but the account has its password already"
        )
        for _ in range(2):  # repeating it must be safe
            self.ended(lambda: _activate(hook, build, new))
            _refuse_closed(new, accounts)

    def test_it_says_whether_the_account_is_new(self, provision: Provision) -> None:
        first, second = provision(self.serial).enrolled, provision(self.serial).enrolled
        assert first == "created", f"a new account is 'created', not {first!a}"
        assert second == "updated", f"an account that exists is 'updated', not {second!a}"

    def test_another_device_keeps_its_account(
        self, provision: Provision, accounts: AccountBook
    ) -> None:
        first, other = provision(self.serial), provision(self.other_serial)
        assert first.password != other.password, "two devices must not share a password"
        _refuse_closed(first, accounts)
        _refuse_closed(other, accounts)
        _refuse_more_than(2, accounts)

    def test_a_fleet_of_threads_gives_each_device_its_own_account(
        self, provision: Provision, accounts: AccountBook
    ) -> None:
        """A fleet calls from several threads, each with a ``build.shared`` of its own."""
        found: list[DeviceIdentity | BaseException] = []

        def work(lane: int) -> None:
            with SharedResources() as shared:
                for number in range(3):
                    try:
                        found.append(provision(f"AZJN-1{lane}{number}", shared=shared))
                    except BaseException as error:
                        found.append(error)

        threads = [threading.Thread(target=work, args=(lane,)) for lane in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in found:
            if isinstance(each, BaseException):
                raise each
            _refuse_closed(each, accounts)
        assert len(accounts.list()) == 12, "twelve devices must have twelve accounts"

    def test_nothing_that_it_shows_or_leaves_holds_the_password(
        self, provision: Provision, shown: Shown
    ) -> None:
        passwords = [provision(self.serial).password.reveal() for _ in range(2)]
        shown.refuse(passwords)
        for name, value in os.environ.items():
            assert not any(each in value for each in passwords), (
                f"the password was found in ${name}"
            )

    def test_the_root_filesystem_is_not_its_business(
        self, hook: pluggy.HookRelay, settings: Settings, sandbox_build: MakeBuild,
        sandbox_rootfs: Path,
    ) -> None:  # fmt: skip
        before = _tree(sandbox_rootfs)
        build = sandbox_build(self.serial, settings=settings, rootfs_dir=sandbox_rootfs)
        self.ended(lambda: hook.provision_identity(build=build))
        assert _tree(sandbox_rootfs) == before, "only pre_flash writes into the rootfs"

    def test_the_runbooks_step_4_ends_well_with_it(
        self, pytestconfig: pytest.Config, settings: Settings, sandbox_build: MakeBuild,
        sandbox_rootfs: Path, accounts: AccountBook, shown: Shown,
    ) -> None:  # fmt: skip
        """The account and device.conf, as ``azaion-imagebuild provision`` makes them."""
        build = sandbox_build(self.serial, settings=settings, rootfs_dir=sandbox_rootfs)
        hook = self.with_the_others(pytestconfig.rootpath, "admin_api")
        record = self.ended(lambda: pipeline.provision(build, hook, unwatched))
        assert record.error is None, f"the build ends with: {record.error}"
        conf = sandbox_rootfs / DEVICE_CONF
        email, password = (line.partition("=")[2] for line in conf.read_text().splitlines())
        assert accounts.login(email, password), "device.conf does not open the account"
        shown.refuse([password], allowed=[conf])


class AdminApiConformance(ProvisionIdentityConformance):
    """The promises of a source that speaks HTTP: those above, and those of a bad day.

    For another contract than the runbook's, override ``admin_api``; for a plug-in that does not
    find its server by ``build.settings.admin_api.url``, override ``settings``.
    """

    @pytest.fixture
    def admin_api(self, sandbox_admin_api: FallibleAdminApi) -> FallibleAdminApi:
        """The server that the plug-in speaks to."""
        return sandbox_admin_api

    @pytest.fixture
    def settings(self, admin_api: FallibleAdminApi, tmp_path: Path) -> Settings:
        """The settings of a site that uses the plug-in."""
        token = tmp_path / "token"
        token.write_text(_TOKEN)
        token.chmod(0o600)
        return _leading_to(Settings(), admin_api.url, token_file=token)

    @which_request
    @pytest.mark.parametrize("fault", _REFUSALS, ids=str)
    def test_a_refusal_is_an_error_that_says_what_to_do(
        self, provision: Provision, admin_api: FallibleAdminApi, accounts: AccountBook,
        fault: Fault, after: int,
    ) -> None:  # fmt: skip
        outcome = self._outcome(provision, admin_api, fault, after=after)
        if isinstance(outcome, DeviceIdentity) and after:
            _refuse_closed(outcome, accounts)  # this contract needs only one request
        else:
            assert isinstance(outcome, Exception), "it treated a refusal as a success"
            judge_error(outcome, ExitCode.PROVISIONING)

    @which_request
    @pytest.mark.parametrize("fault", [*_UNTRUE, *_REDIRECTS], ids=str)
    def test_no_answer_is_believed_that_is_not_true(
        self, provision: Provision, admin_api: FallibleAdminApi, accounts: AccountBook,
        fault: Fault, after: int,
    ) -> None:  # fmt: skip
        """An identity is only returned when its password really opens the account."""
        outcome = self._outcome(provision, admin_api, fault, after=after)
        if isinstance(outcome, DeviceIdentity):
            _refuse_closed(outcome, accounts)
        else:
            judge_error(outcome, ExitCode.PROVISIONING)

    @which_request
    def test_a_reply_that_is_lost_once_locks_nobody_out(
        self, provision: Provision, admin_api: FallibleAdminApi, accounts: AccountBook, after: int
    ) -> None:
        """A retry must send the password that is returned in the end."""
        outcome = self._outcome(provision, admin_api, LOST_REPLY, after=after, times=1)
        if isinstance(outcome, DeviceIdentity):
            _refuse_closed(outcome, accounts)
        else:
            judge_error(outcome, ExitCode.PROVISIONING)

    @which_request
    @pytest.mark.parametrize("fault", [LOST_REPLY, SILENT_AFTERWARDS, refuses(503)], ids=str)
    def test_what_was_left_half_done_is_healed_by_the_same_call(
        self, provision: Provision, admin_api: FallibleAdminApi, accounts: AccountBook,
        fault: Fault, after: int,
    ) -> None:  # fmt: skip
        """A reply lost after the account was created is the worst case."""
        self._outcome(provision, admin_api, fault, after=after)
        admin_api.recovers()
        _refuse_closed(provision(self.serial), accounts)
        _refuse_more_than(1, accounts)

    @pytest.mark.parametrize("fault", [SILENT, DRIPPING], ids=str)
    def test_an_answer_that_never_comes_is_given_up(
        self, provision: Provision, admin_api: FallibleAdminApi, fault: Fault
    ) -> None:
        """After ``[admin_api] read_timeout``, or a limit of its own below ``patience``."""
        outcome = self._outcome(provision, admin_api, fault)
        assert isinstance(outcome, Exception), "it treated a missing answer as a success"
        judge_error(outcome, ExitCode.PROVISIONING)

    def test_a_slow_answer_is_waited_for(
        self, provision: Provision, admin_api: FallibleAdminApi, accounts: AccountBook
    ) -> None:
        admin_api.fails(SLOW)
        _refuse_closed(provision(self.serial), accounts)

    def test_an_api_that_is_not_there_is_an_error_that_says_what_to_do(
        self, provision: Provision, admin_api: FallibleAdminApi
    ) -> None:
        admin_api.goes_away()
        outcome = _outcome(provision, self.serial)
        assert isinstance(outcome, Exception), "it needs no API for an identity"
        judge_error(outcome, ExitCode.PROVISIONING)

    @pytest.mark.parametrize("fault", _REDIRECTS, ids=str)
    def test_a_redirect_takes_neither_password_nor_token_elsewhere(
        self, provision: Provision, admin_api: FallibleAdminApi, fault: Fault
    ) -> None:
        self._outcome(provision, admin_api, fault, with_password=True)
        for request in admin_api.elsewhere:
            told = f"{request.path} {request.headers} {request.body!r}"
            for secret in (*admin_api.passwords, _TOKEN):
                assert secret not in told, f"{request.method} took a secret where it was sent to"

    @pytest.mark.parametrize("fault", [*_ECHOES, *_REDIRECTS, NO_JSON, BROKEN, SILENT], ids=str)
    def test_no_failure_shows_the_password(
        self, provision: Provision, admin_api: FallibleAdminApi, shown: Shown, fault: Fault
    ) -> None:
        """Not even if the API sends the password back."""
        self._outcome(provision, admin_api, fault, with_password=True)
        assert admin_api.passwords, (
            "the kit saw no password in the requests: give FallibleAdminApi its password_field"
        )
        shown.refuse(admin_api.passwords)

    def test_the_password_goes_in_the_body_only(
        self, provision: Provision, admin_api: FallibleAdminApi
    ) -> None:
        """Addresses and headers are logged by servers and proxies, command lines by everybody."""
        for _ in range(2):
            password = provision(self.serial).password.reveal()
            for request in admin_api.requests:
                told = f"{request.path} {request.headers}"
                assert password not in told, f"the address of {request.method} has the password"
        assert not admin_api.seen_in_processes, (
            f"the password was found in {admin_api.seen_in_processes[0]}"
        )

    def _outcome(
        self,
        provision: Provision,
        admin_api: FallibleAdminApi,
        fault: Fault,
        *,
        after: int = 0,
        **when: Any,
    ) -> DeviceIdentity | Exception:
        """Call the step while the API fails, after ``after`` correct answers.

        The second request of the runbook's contract comes when the account exists.
        """
        if after:
            provision(self.serial)
        admin_api.fails(fault, after=after, **when)
        waits = fault.manner in ("stays silent", "drips")
        return _outcome(provision, self.serial, **({"read_timeout": _IMPATIENT} if waits else {}))


def _activated(hook: pluggy.HookRelay, build: Build) -> Any:
    """Return the identity of a build that flashes, activated if needed."""
    identity = hook.provision_identity(build=build)
    if isinstance(identity, DeviceIdentity) and identity.pending is not None:
        _activate(hook, build, identity)
        return structs.replace(identity, pending=None)
    return identity


def _activate(hook: pluggy.HookRelay, build: Build, identity: DeviceIdentity) -> None:
    assert any(hook.activate_identity(build=build, identity=identity)), (
        "the identity is pending, but activate_identity did not return True"
    )


def _outcome(provision: Provision, serial: str, **api: Any) -> DeviceIdentity | Exception:
    try:
        return provision(serial, **api)
    except Exception as error:
        return error


def _leading_to(settings: Settings, url: str, **more: Any) -> Settings:
    changed = structs.replace(settings.admin_api, url=url, retries=1, **more)
    return structs.replace(settings, admin_api=changed)


def _refuse_closed(identity: DeviceIdentity, accounts: AccountBook) -> None:
    """Fail the test unless the identity's password opens its account."""
    assert accounts.login(identity.email, identity.password.reveal()), (
        f"the password that was returned does not open the account {identity.email}"
    )


def _refuse_more_than(count: int, accounts: AccountBook) -> None:
    found = len(accounts.list())
    assert found == count, f"there are {found} accounts, not {count}"


def _tree(folder: Path) -> dict[Path, tuple[Any, ...]]:
    """Return what a change of anything in a folder would change, except times of reading."""
    seen = {}
    for path in folder.rglob("*"):
        at = path.lstat()
        seen[path] = (at.st_mode, at.st_uid, at.st_gid, at.st_size, at.st_mtime_ns)
    return seen
