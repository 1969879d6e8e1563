"""Plug-ins with one mistake each; ``fails`` names the tests of the kit that must find it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import requests
from msgspec import structs

from azaion_imagebuild import hookimpl
from azaion_imagebuild.admin_api.client import AdminApi
from azaion_imagebuild.errors import FlashError, ProvisioningError
from azaion_imagebuild.identity.serial import new_password
from azaion_imagebuild.l4t.flashing import flash_method
from azaion_imagebuild.model import Build, DeviceIdentity, FlashResult, Image, Pending
from azaion_imagebuild.secret import Secret

HINT = "look at the admin API"
_logger = logging.getLogger(__name__)


class WrongIdentity:
    """Enrolls as the shipped plug-in does; what differs below is the mistake."""

    fails: ClassVar[tuple[str, ...]] = ()
    patience: ClassVar[float] = 60.0

    @hookimpl
    def provision_identity(self, build: Build) -> DeviceIdentity:
        return self.enroll(build)

    def enroll(self, build: Build) -> DeviceIdentity:
        with AdminApi(build.settings.admin_api) as api:
            return api.enroll(build.serial, build.email, self.password())

    def password(self) -> Secret:
        return new_password()


class WrongClient(WrongIdentity):
    """The same by requests, as written in a hurry; right except for what differs below."""

    timeout: ClassVar[float | None] = 20.0
    redirects: ClassVar[bool] = False

    def enroll(self, build: Build) -> DeviceIdentity:
        password = new_password()
        body = {"email": build.email, "password": password.reveal()}
        try:
            reply = self.send(build, "POST", "/users", {**body, "role": "CompanionPC"})
            enrolled = "updated" if reply.status_code == 409 else "created"
            if reply.status_code == 409:
                reply = self.send(build, "PATCH", "/users/password", body)
        except requests.RequestException:
            raise ProvisioningError("the admin API is not there", hint=HINT) from None
        self.judge(reply)
        return self.answer(build, password, enrolled)

    def send(self, build: Build, method: str, path: str, body: Any) -> requests.Response:
        limit = self.timeout and min(self.timeout, build.settings.admin_api.read_timeout)
        url = f"{build.settings.admin_api.url}{path}"
        return requests.request(
            method, url, json=body, timeout=limit, allow_redirects=self.redirects
        )

    def judge(self, reply: requests.Response) -> None:
        if reply.status_code not in (200, 201, 204) or reply.text.startswith("<"):
            raise ProvisioningError("the admin API refused", hint=HINT)

    def answer(self, build: Build, password: Secret, enrolled: Any) -> DeviceIdentity:
        return DeviceIdentity(
            serial=build.serial, email=build.email, password=password, enrolled=enrolled
        )


class AnotherAccount(WrongIdentity):
    """Names accounts in its own way."""

    fails = ("test_the_identity_is_the_serials_own",)

    def enroll(self, build: Build) -> DeviceIdentity:
        with AdminApi(build.settings.admin_api) as api:
            return api.enroll(build.serial, f"{build.serial}@azaion.com", new_password())


class WeakPassword(WrongIdentity):
    fails = ("test_the_password_is_a_secret_of_the_runbooks_form",)

    def password(self) -> Secret:
        return Secret("Changeme-1")


class PlainPassword(WrongClient):
    fails = ("test_the_password_is_a_secret_of_the_runbooks_form",)

    def answer(self, build: Build, password: Secret, enrolled: Any) -> DeviceIdentity:
        plain: Any = password.reveal()
        return super().answer(build, plain, enrolled)


class TwoPasswords(WrongClient):
    """Returns another password than it has sent."""

    fails = (
        "test_the_password_opens_the_account",
        "test_the_runbooks_step_4_ends_well_with_it",
    )

    def answer(self, build: Build, password: Secret, enrolled: Any) -> DeviceIdentity:
        return super().answer(build, new_password(), enrolled)


class NoUpdate(WrongClient):
    """Takes an account that exists for a job that is done."""

    fails = (
        "test_the_same_device_again_gets_a_new_password_and_no_second_account",
        "test_what_was_left_half_done_is_healed_by_the_same_call[lost reply-first request]",
    )

    def send(self, build: Build, method: str, path: str, body: Any) -> requests.Response:
        reply = super().send(build, method, path, body)
        if reply.status_code == 409:
            reply.status_code = 200
        return reply


class OnceOnly(WrongClient):
    """Refuses an account that exists."""

    fails = (
        "test_the_same_device_again_gets_a_new_password_and_no_second_account",
        "test_what_was_left_half_done_is_healed_by_the_same_call[lost reply-first request]",
    )

    def send(self, build: Build, method: str, path: str, body: Any) -> requests.Response:
        reply = super().send(build, method, path, body)
        if reply.status_code == 409:
            raise ProvisioningError("the account exists", hint="delete it")
        return reply


class NewPasswordForEachTry(WrongIdentity):
    """Tries again with another password, and returns the first one."""

    fails = (
        "test_a_reply_that_is_lost_once_locks_nobody_out[first request]",
        "test_a_reply_that_is_lost_once_locks_nobody_out[second request]",
    )

    def enroll(self, build: Build) -> DeviceIdentity:
        settings = structs.replace(build.settings.admin_api, retries=0)
        first = new_password()
        with AdminApi(settings) as api:
            try:
                return api.enroll(build.serial, build.email, first)
            except ProvisioningError:
                found = api.enroll(build.serial, build.email, new_password())
                return structs.replace(found, password=first)


class FirstSegment(WrongIdentity):
    """Derives the account from the serial in its own way, not the runbook's."""

    fails = ("test_the_identity_is_the_serials_own",)

    def enroll(self, build: Build) -> DeviceIdentity:
        email = f"azaion-jetson-{build.serial.split('-')[1].lower()}@azaion.com"
        with AdminApi(build.settings.admin_api) as api:
            return api.enroll(build.serial, email, new_password())


class AlwaysNew(WrongClient):
    fails = ("test_it_says_whether_the_account_is_new",)

    def answer(self, build: Build, password: Secret, enrolled: Any) -> DeviceIdentity:
        return super().answer(build, password, "created")


class OnePassword(WrongIdentity):
    """Gives every device the same password."""

    fails = ("test_another_device_keeps_its_account",)

    def password(self) -> Secret:
        return Secret("0123456789abcdef" * 2)


class PendingInNameOnly(WrongIdentity):
    """Changes the password at once, and says that it will do so later."""

    fails = ("test_an_account_that_exists_keeps_its_password_until_it_is_activated",)

    def enroll(self, build: Build) -> DeviceIdentity:
        return structs.replace(super().enroll(build), pending=Pending(plugin="this one"))

    @hookimpl
    def activate_identity(self) -> bool:
        return True


class SharedState(WrongIdentity):
    """Keeps the build of one thread where another one finds it."""

    fails = ("test_a_fleet_of_threads_gives_each_device_its_own_account",)

    def enroll(self, build: Build) -> DeviceIdentity:
        self.build = build
        time.sleep(0.01)
        return super().enroll(self.build)


class NeedsARootfs(WrongIdentity):
    """Expects a rootfs, which a build of a fleet has not."""

    fails = ("test_a_fleet_of_threads_gives_each_device_its_own_account",)

    def enroll(self, build: Build) -> DeviceIdentity:
        (build.rootfs_dir / "etc/passwd").read_text()
        return super().enroll(build)


SHOWS = "test_nothing_that_it_shows_or_leaves_holds_the_password"


class Prints(WrongIdentity):
    fails = (SHOWS,)

    def password(self) -> Secret:
        password = new_password()
        sys.stdout.write(f"password {password.reveal()}\n")
        return password


class Logs(WrongIdentity):
    fails = (SHOWS,)

    def password(self) -> Secret:
        password = new_password()
        _logger.debug("password %s", password.reveal())
        return password


class LeavesAFile(WrongIdentity):
    fails = (SHOWS,)

    def password(self) -> Secret:
        password = new_password()
        with tempfile.NamedTemporaryFile("w", delete=False) as stream:
            stream.write(password.reveal())
        return password


class SetsAVariable(WrongIdentity):
    fails = (SHOWS, "test_the_password_goes_in_the_body_only")

    def enroll(self, build: Build) -> DeviceIdentity:
        try:
            return super().enroll(build)
        finally:
            self.forget.append("DEVICE_PASSWORD")

    forget: ClassVar[list[str]] = []

    def password(self) -> Secret:
        password = new_password()
        os.environ["DEVICE_PASSWORD"] = password.reveal()
        return password


class StagesToo(WrongIdentity):
    """Writes into the root filesystem, as pre_flash should."""

    fails = ("test_the_root_filesystem_is_not_its_business",)

    def enroll(self, build: Build) -> DeviceIdentity:
        with contextlib.suppress(OSError):
            (build.rootfs_dir / "etc/hostname").write_text(build.serial)
        return super().enroll(build)


class RaisesItsLibrarysErrors(WrongClient):
    fails = (
        "test_a_refusal_is_an_error_that_says_what_to_do[HTTP 500-first request]",
        "test_a_refusal_is_an_error_that_says_what_to_do[HTTP 401-second request]",
        "test_an_api_that_is_not_there_is_an_error_that_says_what_to_do",
    )

    def enroll(self, build: Build) -> DeviceIdentity:
        try:
            return super().enroll(build)
        except ProvisioningError:
            raise requests.HTTPError("500 Server Error") from None


class NoHint(WrongClient):
    fails = ("test_a_refusal_is_an_error_that_says_what_to_do[HTTP 403-first request]",)

    def judge(self, reply: requests.Response) -> None:
        if not reply.ok:
            raise ProvisioningError("refused", hint="")


class Deaf(WrongClient):
    """Never looks at the status."""

    fails = (
        "test_a_refusal_is_an_error_that_says_what_to_do[HTTP 422-first request]",
        "test_a_refusal_is_an_error_that_says_what_to_do[HTTP 404-second request]",
        "test_no_answer_is_believed_that_is_not_true[redirect 302-first request]",
    )

    def judge(self, reply: requests.Response) -> None:
        pass


class Gullible(WrongClient):
    """Takes the login page of a guest network for an account."""

    fails = (
        "test_no_answer_is_believed_that_is_not_true[web page-first request]",
        "test_no_answer_is_believed_that_is_not_true[web page-second request]",
    )

    def judge(self, reply: requests.Response) -> None:
        if not reply.ok:
            raise ProvisioningError("the admin API refused", hint=HINT)


class Patient(WrongClient):
    """Waits without a time limit."""

    fails = ("test_an_answer_that_never_comes_is_given_up[no answer]",)
    timeout = None
    patience = 1.0


class PatientWithDrips(WrongClient):
    """Has a time limit for each read, and none for the whole."""

    fails = ("test_an_answer_that_never_comes_is_given_up[dripping answer]",)
    patience = 1.0

    def send(self, build: Build, method: str, path: str, body: Any) -> requests.Response:
        url = f"{build.settings.admin_api.url}{path}"  # a busy machine drips slowly, too
        return requests.request(method, url, json=body, timeout=self.timeout)


class Hasty(WrongClient):
    fails = ("test_a_slow_answer_is_waited_for",)
    timeout = 0.1


class FollowsRedirects(WrongClient):
    fails = (
        "test_a_redirect_takes_neither_password_nor_token_elsewhere[redirect 307]",
        "test_no_answer_is_believed_that_is_not_true[redirect 307-first request]",
        "test_no_answer_is_believed_that_is_not_true[redirect 302-second request]",
    )
    redirects = True


class QuotesTheAnswer(WrongClient):
    fails = ("test_no_failure_shows_the_password[echo of the request]",)

    def judge(self, reply: requests.Response) -> None:
        if not reply.ok:
            raise ProvisioningError(f"the admin API says {reply.text}", hint=HINT)


class KeepsTheRequestInItsCause(WrongClient):
    """The message is clean; the chained exception, which a traceback shows, is not."""

    fails = ("test_no_failure_shows_the_password[broken connection]",)

    def send(self, build: Build, method: str, path: str, body: Any) -> requests.Response:
        try:
            return super().send(build, method, path, body)
        except requests.RequestException as error:
            cause = RuntimeError(f"while sending {body}: {error}")
            raise ProvisioningError("the connection broke", hint=HINT) from cause


class InTheAddress(WrongClient):
    fails = ("test_the_password_goes_in_the_body_only",)

    def send(self, build: Build, method: str, path: str, body: Any) -> requests.Response:
        build_url = build.settings.admin_api.url
        requests.get(f"{build_url}/health?trace={body['password']}", timeout=20)
        return super().send(build, method, path, body)


class OnACommandLine(WrongClient):
    """Has another program send the request, as with curl -d."""

    fails = ("test_the_password_goes_in_the_body_only",)

    def send(self, build: Build, method: str, path: str, body: Any) -> requests.Response:
        other = subprocess.Popen(["/bin/sh", "-c", "sleep 30; :", body["password"]])
        try:
            return super().send(build, method, path, body)
        finally:
            other.kill()
            other.wait()


IDENTITIES: list[type[WrongIdentity]] = [
    AnotherAccount, FirstSegment, WeakPassword, PlainPassword, TwoPasswords, NoUpdate, OnceOnly,
    NewPasswordForEachTry, AlwaysNew, OnePassword, PendingInNameOnly, SharedState, NeedsARootfs,
    Prints, Logs, LeavesAFile, SetsAVariable, StagesToo,
    RaisesItsLibrarysErrors, NoHint, Deaf, Gullible, Patient, PatientWithDrips, Hasty,
    FollowsRedirects, QuotesTheAnswer, KeepsTheRequestInItsCause, InTheAddress, OnACommandLine,
]  # fmt: skip


class WrongFlash:
    """Flashes as the shipped plug-in does; what differs below is the mistake."""

    fails: ClassVar[tuple[str, ...]] = ()
    patience: ClassVar[float] = 60.0

    @hookimpl
    def flash(self, build: Build, image: Image) -> FlashResult | None:
        return self.write(build, image)

    def write(self, build: Build, image: Image) -> FlashResult | None:
        return flash_method(build, tree_of(build)).flash(build)


def tree_of(build: Build) -> Path:
    assert build.bsp_dir is not None
    return build.bsp_dir


def device_of(build: Build) -> Path:
    return tree_of(build).parent / "device.img"


class AnswersNothing(WrongFlash):
    fails = ("test_it_says_which_device_it_wrote",)

    def write(self, build: Build, image: Image) -> FlashResult | None:
        super().write(build, image)
        return None


class Nameless(WrongFlash):
    fails = ("test_it_says_which_device_it_wrote",)

    def write(self, build: Build, image: Image) -> FlashResult | None:
        super().write(build, image)
        return FlashResult(device="")


class WritesALittleMore(WrongFlash):
    """Changes what it has written: a serial number, a label."""

    fails = ("test_the_device_holds_exactly_the_proven_image",)

    def write(self, build: Build, image: Image) -> FlashResult | None:
        result = super().write(build, image)
        with device_of(build).open("r+b") as stream:
            stream.seek(1024 + 120)  # the label of an ext4
            stream.write(b"AZAION")
        return result


class Remembers(WrongFlash):
    """Writes the image of the first device to all of them."""

    fails = ("test_the_next_device_gets_its_own_image",)

    def write(self, build: Build, image: Image) -> FlashResult | None:
        kept = tree_of(build).parent / "kept.img"
        if not kept.exists():
            shutil.copyfile(image.path, kept)
        shutil.copyfile(kept, device_of(build))
        return FlashResult(device="bench")


class ChangesTheImage(WrongFlash):
    fails = ("test_the_image_stays_as_it_was",)

    def write(self, build: Build, image: Image) -> FlashResult | None:
        result = super().write(build, image)
        image.path.touch()
        return result


class Believes(WrongFlash):
    """Says that it has flashed, whatever has happened."""

    fails = (
        "test_an_image_that_is_gone_is_a_flash_error",
        "test_a_writer_that_fails_is_a_flash_error[it fails]",
        "test_a_whole_build_ends_with_a_device_that_can_log_in",
    )

    def write(self, build: Build, image: Image) -> FlashResult | None:
        return FlashResult(device="bench")


class ExitCodeOnly(WrongFlash):
    """Believes an exit code of 0."""

    fails: ClassVar[tuple[str, ...]] = (
        "test_a_writer_that_fails_is_a_flash_error[it writes nothing and ends with 0]",
    )

    def write(self, build: Build, image: Image) -> FlashResult | None:
        bsp = build.settings.bsp
        argv = ["./flash.sh", "-r", bsp.board, bsp.rootdev]
        self.call(argv, build)
        return FlashResult(device="bench")

    def call(self, argv: list[str], build: Build) -> None:
        environ = {**os.environ, "USER": "root"}
        limit = build.settings.build.script_timeout
        silent = subprocess.DEVNULL
        try:
            done = subprocess.run(argv, cwd=tree_of(build), env=environ, timeout=limit,
                                  stdout=silent, stderr=silent, check=False)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            raise FlashError("the writer failed", hint="look at it") from None
        if done.returncode:
            raise FlashError("the writer failed", hint="look at it")


class LeavesGrandchildren(ExitCodeOnly):
    """Stops the script, and nothing that the script has started."""

    fails = (
        "test_a_writer_that_hangs_is_stopped_with_all_that_it_started",
        "test_an_interrupt_stops_the_writer_and_all_that_it_started",
    )


class RaisesItsLibrarysErrorsWhenFlashing(ExitCodeOnly):
    fails = (
        "test_a_writer_that_fails_is_a_flash_error[it is not there]",
        "test_a_writer_that_fails_is_a_flash_error[it is killed]",
    )

    def call(self, argv: list[str], build: Build) -> None:
        subprocess.run(argv, cwd=tree_of(build), check=True)


class GivesUpForGood(WrongFlash):
    """Never forgets a failure."""

    fails = ("test_after_a_failure_the_same_call_again_ends_well",)

    def write(self, build: Build, image: Image) -> FlashResult | None:
        mark = tree_of(build).parent / "failed"
        if mark.exists():
            raise FlashError("it has failed before", hint="another device")
        try:
            return super().write(build, image)
        except FlashError:
            mark.touch()
            raise


class LeavesAProcess(WrongFlash):
    fails = ("test_no_process_is_left",)
    left: ClassVar[list[int]] = []

    def write(self, build: Build, image: Image) -> FlashResult | None:
        result = super().write(build, image)
        self.left.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ))
        return result


class KeepsACopy(WrongFlash):
    fails = (SHOWS,)

    def write(self, build: Build, image: Image) -> FlashResult | None:
        shutil.copyfile(image.path, Path(tempfile.gettempdir(), "last.img"))
        return super().write(build, image)


class WritesTooEarly(WrongFlash):
    """Begins to write while the image is still looked at, and without being asked to."""

    fails = (
        "test_an_image_that_is_changed_after_its_proof_reaches_no_device",
        "test_with_flash_0_no_device_is_written",
    )

    @hookimpl
    def verify_image(self, build: Build, image: Image) -> None:
        shutil.copyfile(image.path, device_of(build))


FLASHES: list[type[WrongFlash]] = [
    AnswersNothing, Nameless, WritesALittleMore, Remembers, ChangesTheImage, Believes, ExitCodeOnly,
    LeavesGrandchildren, RaisesItsLibrarysErrorsWhenFlashing, GivesUpForGood, LeavesAProcess,
    KeepsACopy, WritesTooEarly,
]  # fmt: skip


def clear_up() -> None:
    """End and forget what the plug-ins have left."""
    for pid in LeavesAProcess.left:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    LeavesAProcess.left.clear()
    os.environ.pop("DEVICE_PASSWORD", None)
