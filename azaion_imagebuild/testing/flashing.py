"""The promises of a plug-in for the step ``flash``, as tests to inherit."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import pluggy
import pytest
from msgspec import structs

from .. import hookimpl
from ..errors import ExitCode
from ..images.digest import image_digest
from ..l4t.bsp import LinuxForTegra
from ..ledger import Ledger
from ..model import BuildRecord, FlashResult, Image
from ..pipeline import recipes as pipeline
from ..sandbox import Accounts
from ..settings import BspSettings, Settings
from .admin_api import FallibleAdminApi
from .leaks import Shown
from .processes import children, end, ended_soon, pids_in
from .promises import Conformance, judge_error, unwatched
from .stations import FlashableImage, MakeBuild, MakeImage, credentials_on, first_difference

Flash = Callable[..., FlashResult]
_HANGS = (
    'echo $$ > "{pids}.new"; sleep 600 & echo $! >> "{pids}.new"; mv "{pids}.new" "{pids}"; wait'
)
_FAILURES = {
    "it fails": "echo 'Error: probing the target board failed.'; exit 1",
    "it is killed": "kill -KILL $$",
    "it writes nothing and ends with 0": "exit 0",
    "it is not there": None,
}


class FlashConformance(Conformance):
    """The promises of everything that writes the proven image to a device.

    By default the plug-in flashes with NVIDIA's script of the sandbox's BSP. One with its own
    writer overrides ``device``, the file to write to, and ``other_writer``.
    """

    method: ClassVar[str] = "flash"
    """``[bsp] method`` by which the image is built: ``flash`` or ``initrd``."""

    @pytest.fixture
    def device(self, sandbox_device: Path) -> Path:
        """The file that the plug-in writes in place of a device; it is there, and empty."""
        return sandbox_device

    @pytest.fixture
    def settings(self) -> Settings:
        """The settings of a site that uses the plug-in."""
        if self.method == "initrd":
            layout = "tools/kernel_flash/flash_l4t_external.xml"
            bsp = BspSettings(
                method="initrd", external_device="nvme0n1p1", partition_xml=layout, size=None
            )
            return structs.replace(Settings(), bsp=bsp)
        return Settings()

    def other_writer(
        self, flashable: FlashableImage, script: str | None
    ) -> AbstractContextManager[None]:
        """Replace the program that writes by a shell script, while the context lasts.

        Without a script the program is missing.
        """
        assert flashable.build.bsp_dir is not None
        return replaced(LinuxForTegra(flashable.build.bsp_dir).script(flashable.build), script)

    @pytest.fixture
    def flashable(
        self, device: Path, sandbox_image: MakeImage, settings: Settings
    ) -> FlashableImage:
        """A proven image, and a device for it."""
        return sandbox_image(settings=settings)

    @pytest.fixture
    def flash(self, hook: pluggy.HookRelay, shown: Shown) -> Flash:
        """Call the step."""

        def call(flashable: FlashableImage) -> FlashResult:
            build, image = flashable.build, flashable.image
            return self.answered(
                "flash", FlashResult, lambda: hook.flash(build=build, image=image), shown
            )

        return call

    def test_the_device_holds_exactly_the_proven_image(
        self, flash: Flash, flashable: FlashableImage, device: Path
    ) -> None:
        flash(flashable)
        difference = first_difference(flashable.image, device)
        assert difference is None, f"the device is not what was proven: {difference}"

    def test_the_next_device_gets_its_own_image(
        self, flash: Flash, flashable: FlashableImage, device: Path, sandbox_image: MakeImage,
        settings: Settings,
    ) -> None:  # fmt: skip
        """Nothing of the previous device is kept: no image, no decision."""
        flash(flashable)
        other = sandbox_image("AZJN-0043", settings=settings)
        flash(other)
        difference = first_difference(other.image, device)
        assert difference is None, f"the second device is not what was proven: {difference}"

    def test_it_says_which_device_it_wrote(self, flash: Flash, flashable: FlashableImage) -> None:
        device = flash(flashable).device
        assert device.strip(), "FlashResult.device is empty: the record then names no device"
        assert device.isprintable(), f"FlashResult.device is not one plain line: {device!a}"

    def test_the_image_stays_as_it_was(self, flash: Flash, flashable: FlashableImage) -> None:
        """The core stops a build whose image was written to: nobody knows what the device got."""
        before = _fingerprints(flashable.image)
        flash(flashable)
        assert _fingerprints(flashable.image) == before, "the plug-in changed the image"

    def test_an_image_that_is_gone_is_a_flash_error(
        self, flash: Flash, flashable: FlashableImage
    ) -> None:
        for path in flashable.image.files:
            path.unlink()
        judge_error(_refused(flash, flashable), ExitCode.FLASH)

    @pytest.mark.parametrize("script", _FAILURES.values(), ids=_FAILURES)
    def test_a_writer_that_fails_is_a_flash_error(
        self, flash: Flash, flashable: FlashableImage, script: str | None
    ) -> None:
        """Exit code 0 alone proves nothing: NVIDIA's scripts end with it over bad images."""
        with self.other_writer(flashable, script):
            judge_error(_refused(flash, flashable), ExitCode.FLASH)

    def test_after_a_failure_the_same_call_again_ends_well(
        self, flash: Flash, flashable: FlashableImage, device: Path
    ) -> None:
        with self.other_writer(flashable, _FAILURES["it fails"]):
            _refused(flash, flashable)
        flash(flashable)
        difference = first_difference(flashable.image, device)
        assert difference is None, f"the device is not what was proven: {difference}"

    def test_a_writer_that_hangs_is_stopped_with_all_that_it_started(
        self, flash: Flash, flashable: FlashableImage, tmp_path: Path
    ) -> None:
        """After ``[build] script_timeout``, or a limit of its own below ``patience``."""
        pids = tmp_path / "pids"
        hasty = _with_time_limit(flashable, 1.0)
        with self.other_writer(hasty, _HANGS.format(pids=pids)):
            error = _refused(flash, hasty)
        judge_error(error, ExitCode.FLASH)
        _refuse_running(pids, "after its time limit")

    def test_an_interrupt_stops_the_writer_and_all_that_it_started(
        self, hook: pluggy.HookRelay, flashable: FlashableImage, tmp_path: Path
    ) -> None:
        pids = tmp_path / "pids"
        with (
            self.other_writer(flashable, _HANGS.format(pids=pids)),
            interrupted_when(pids, self.patience),
            pytest.raises(KeyboardInterrupt),
        ):
            hook.flash(build=flashable.build, image=flashable.image)
        _refuse_running(pids, "after an interrupt")

    def test_no_process_is_left(self, flash: Flash, flashable: FlashableImage) -> None:
        before = children()
        flash(flashable)
        left = children() - before
        assert not left, f"child processes are left: {sorted(left)}"

    def test_nothing_that_it_shows_or_leaves_holds_the_password(
        self, flash: Flash, flashable: FlashableImage, device: Path, shown: Shown
    ) -> None:
        """Not even a copy of the image, which has it inside."""
        flash(flashable)
        allowed = [*flashable.image.files, device]
        shown.refuse([flashable.identity.password.reveal()], allowed=allowed)

    def test_a_whole_build_ends_with_a_device_that_can_log_in(
        self, whole_build: WholeBuild, device: Path, sandbox_accounts: Accounts
    ) -> None:
        record = whole_build()
        assert record.error is None, f"the build ends with: {record.error}"
        assert record.flashed is not None, "the record says that nothing was flashed"
        found = credentials_on(device)
        assert found is not None, "the device carries no identity"
        assert sandbox_accounts.login(found.email, found.password.reveal()), (
            "the identity on the device opens no account"
        )

    def test_an_image_that_is_changed_after_its_proof_reaches_no_device(
        self, whole_build: WholeBuild, device: Path
    ) -> None:
        before = image_digest(device)
        record = whole_build(also=_Saboteur())
        assert record.exit_code == ExitCode.VERIFICATION, "the build went on"
        assert image_digest(device) == before, "the device was written before the image was proven"

    def test_with_flash_0_no_device_is_written(self, whole_build: WholeBuild, device: Path) -> None:
        before = image_digest(device)
        record = whole_build(flash=False)
        assert record.error is None, f"the build ends with: {record.error}"
        assert image_digest(device) == before, "the device was written although FLASH=0"

    @pytest.fixture
    def whole_build(
        self, pytestconfig: pytest.Config, settings: Settings, device: Path,
        sandbox_build: MakeBuild, sandbox_bsp: Path, sandbox_admin_api: FallibleAdminApi,
    ) -> WholeBuild:  # fmt: skip
        """Run every step of a build in the sandbox, ``flash`` with the plug-in."""

        def build(*, flash: bool = True, also: object = None) -> BuildRecord:
            changed = structs.replace(
                settings,
                build=structs.replace(settings.build, flash=flash),
                admin_api=structs.replace(settings.admin_api, url=sandbox_admin_api.url),
            )
            made = sandbox_build(settings=changed, bsp_dir=sandbox_bsp)
            hook = self.with_the_others(pytestconfig.rootpath, also=also)

            def run() -> BuildRecord:
                with Ledger("sqlite://") as ledger:
                    return pipeline.run(made, hook, unwatched, ledger)

            return self.ended(run)

        return build


WholeBuild = Callable[..., BuildRecord]


class _Saboteur:
    """Another program that writes into an image after it was proven."""

    @hookimpl(trylast=True)
    def verify_image(self, image: Image) -> None:
        for path in image.files:
            with path.open("r+b") as stream:
                stream.write(bytes(512))


@contextlib.contextmanager
def replaced(program: Path, script: str | None) -> Iterator[None]:
    """Replace a program by a shell script, or remove it, while the context lasts."""
    aside = program.with_name(program.name + ".aside")
    program.rename(aside)
    if script is not None:
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)
    try:
        yield
    finally:
        aside.replace(program)


@contextlib.contextmanager
def interrupted_when(sign: Path, patience: float) -> Iterator[None]:
    """Send this process a SIGINT when a file appears, as Ctrl-C would.

    If the call continues, the processes whose numbers are in the file are killed: the test then
    fails instead of hanging.
    """
    over = threading.Event()

    def interrupt() -> None:
        deadline = time.monotonic() + patience
        while not sign.exists() and time.monotonic() < deadline:
            if over.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGINT)
        if not over.wait(patience):
            end(pids_in(sign))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


def _with_time_limit(flashable: FlashableImage, seconds: float) -> FlashableImage:
    settings = flashable.build.settings
    limited = structs.replace(settings.build, script_timeout=seconds)
    changed = structs.replace(settings, build=limited)
    return structs.replace(flashable, build=structs.replace(flashable.build, settings=changed))


def _refused(flash: Flash, flashable: FlashableImage) -> Exception:
    """Return the error of the step; fail the test if there is none."""
    try:
        result = flash(flashable)
    except Exception as error:
        return error
    pytest.fail(f"it says that it wrote {result.device!a}, but it cannot have")


def _refuse_running(pids: Path, when: str) -> None:
    """Fail the test if the writer was never started, or goes on."""
    assert pids_in(pids), "the writer was never started: other_writer has to be overridden"
    ended = ended_soon(pids_in(pids))
    end(pids_in(pids))
    assert ended, f"a process of the writer goes on {when}"


def _fingerprints(image: Image) -> dict[Path, tuple[Any, ...]]:
    """Return the content of an image's files, and what changes with every write to them."""
    found = {}
    for path in image.files:
        at = path.stat()
        found[path] = (at.st_ino, at.st_size, at.st_mtime_ns, image_digest(path))
    return found
