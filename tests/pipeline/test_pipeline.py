"""The order of the steps, and what happens when one fails; every plug-in is a stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pluggy
import pytest
from world import EMAIL, SERIAL

from azaion_imagebuild import hookimpl
from azaion_imagebuild.errors import FlashError, ImageBuildError, ProvisioningError, StagingError
from azaion_imagebuild.ledger import Ledger
from azaion_imagebuild.model import (
    DEVICE_CONF,
    Build,
    DeviceIdentity,
    Finding,
    FlashResult,
    Image,
    Ownership,
    StagedFile,
)
from azaion_imagebuild.pipeline import hookspecs
from azaion_imagebuild.pipeline import recipes as pipeline
from azaion_imagebuild.pipeline.events import Event
from azaion_imagebuild.secret import Secret


class Steps:
    """Does every step in memory and remembers the order."""

    def __init__(self, image: Path) -> None:
        self.called: list[str] = []
        self.image = Image(path=image, format="ext4")

    @hookimpl
    def preflight(self) -> list[Finding]:
        self.called.append("preflight")
        return []

    @hookimpl
    def prepare(self) -> Ownership:
        self.called.append("prepare")
        return Ownership(uid=1, gid=2)

    @hookimpl
    def provision_identity(self) -> DeviceIdentity:
        self.called.append("provision_identity")
        return DeviceIdentity(
            serial=SERIAL, email=EMAIL, password=Secret("0" * 32), enrolled="created"
        )

    @hookimpl
    def pre_flash(self, ownership: Ownership) -> list[StagedFile]:
        self.called.append("pre_flash")
        return [StagedFile(path=DEVICE_CONF, mode=0o600, ownership=ownership)]

    @hookimpl
    def build_image(self) -> Image:
        self.called.append("build_image")
        return self.image

    @hookimpl
    def verify_image(self) -> list[Finding]:
        self.called.append("verify_image")
        return []

    @hookimpl
    def flash(self) -> FlashResult:
        self.called.append("flash")
        return FlashResult(device="board")

    @hookimpl
    def post_flash(self, result: FlashResult | None) -> dict[str, str]:
        self.called.append("post_flash")
        return {"extra": "yes"}

    @hookimpl
    def build_failed(self, error: BaseException) -> None:
        self.called.append(f"build_failed({type(error).__name__})")

    @hookimpl
    def cleanup(self) -> None:
        self.called.append("cleanup")


class Silent:
    """A watcher that remembers the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def __call__(self, event: Event) -> None:
        if event.name == "warning":
            self.warnings.append(event.message)


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    image = tmp_path / "image"
    image.write_bytes(b"image")
    return Steps(image)


@pytest.fixture
def build(make_build: Callable[..., Build], tmp_path: Path) -> Build:
    return make_build(tmp_path)


def run(build: Build, steps: Steps, *others: object) -> tuple[Any, Silent]:
    manager = pluggy.PluginManager("azaion_imagebuild")
    manager.add_hookspecs(hookspecs)
    for plugin in (steps, *others):
        manager.register(plugin)
    watcher = Silent()
    with Ledger(f"sqlite:///{build.log_dir}/ledger.sqlite3") as ledger:
        return pipeline.run(build, manager.hook, watcher, ledger), watcher


ALL = ["preflight", "prepare", "provision_identity", "pre_flash", "build_image", "verify_image"]


def test_the_steps_run_in_their_order(build: Build, steps: Steps) -> None:
    record, _ = run(build, steps)
    assert steps.called == [*ALL, "flash", "post_flash", "cleanup"]
    assert record.as_json()["flashed"] is True
    assert record.as_json()["extra"] == "yes"


@pytest.mark.parametrize("step", [*ALL, "flash", "post_flash"])
def test_whatever_step_fails_build_failed_and_cleanup_follow(
    build: Build, steps: Steps, step: str
) -> None:
    def fail(**_: object) -> None:
        raise FlashError("it broke", hint="repair it")

    other = type("Other", (), {step: hookimpl(_signature(step, fail))})()
    record, _ = run(build, steps, other)
    assert (record.outcome, record.step, record.exit_code) == ("failed", step, 7)
    assert steps.called[-2:] == ["build_failed(FlashError)", "cleanup"]
    assert "flash" not in steps.called or step in ("flash", "post_flash")
    json = record.as_json()
    assert (json["error"], json["hint"], json["exit_code"]) == ("it broke", "repair it", 7)


def test_who_must_know_of_a_credential_is_told_before_it_is_written_anywhere(
    build: Build, steps: Steps
) -> None:
    class Keeper:
        @hookimpl
        def pre_provision(self) -> None:
            steps.called.append("pre_provision")

        @hookimpl
        def post_provision(self, identity: DeviceIdentity) -> dict[str, str]:
            steps.called.append(f"post_provision({identity.email})")
            return {"vault": "slot 3"}

    record, _ = run(build, steps, Keeper())
    assert steps.called[:6] == [
        "preflight",
        "prepare",
        "pre_provision",
        "provision_identity",
        f"post_provision({EMAIL})",
        "pre_flash",
    ]
    assert record.as_json()["vault"] == "slot 3"


def test_no_device_gets_a_credential_that_somebody_could_not_be_told_of(
    build: Build, steps: Steps
) -> None:
    class Keeper:
        @hookimpl
        def post_provision(self) -> None:
            raise ProvisioningError("the vault is shut", hint="open it")

    record, _ = run(build, steps, Keeper())
    assert (record.step, record.exit_code) == ("provision_identity", 4)
    assert (record.enrolled, record.credential is None) == ("created", False)
    assert "pre_flash" not in steps.called


def test_what_a_new_credential_lacks_stops_it_before_the_account(
    build: Build, steps: Steps
) -> None:
    class Keeper:
        @hookimpl
        def pre_provision(self) -> list[Finding]:
            return [Finding(message="the vault is shut", hint="open it")]

    record, _ = run(build, steps, Keeper())
    assert (record.step, record.exit_code, record.enrolled) == ("preflight", 3, None)
    assert "provision_identity" not in steps.called
    assert record.ledger is None


@pytest.mark.parametrize("answer", [{"serial": "another"}, ["no mapping"]])
def test_fields_that_are_not_a_plug_ins_are_a_bug_of_it(
    build: Build, steps: Steps, answer: Any
) -> None:
    class Keeper:
        @hookimpl
        def post_provision(self) -> Any:
            return answer

    record, _ = run(build, steps, Keeper())
    assert record.exit_code == 70
    assert "post_provision" in record.as_json()["error"]


def _signature(step: str, function: Callable[..., None]) -> Callable[[Any], None]:
    def implementation(self: Any) -> None:
        function()

    return implementation


def test_a_difference_found_by_the_proof_stops_before_flashing(build: Build, steps: Steps) -> None:
    class Doubt:
        @hookimpl
        def verify_image(self) -> list[Finding]:
            return [Finding(message="another identity", hint="rebuild")]

    record, _ = run(build, steps, Doubt())
    assert record.exit_code == 8
    assert "flash" not in steps.called


def test_warnings_are_shown_and_stop_nothing(build: Build, steps: Steps) -> None:
    class Careful:
        @hookimpl
        def preflight(self) -> list[Finding]:
            return [Finding(message="careful", hint="look", severity="warning")]

    record, watcher = run(build, steps, Careful())
    assert (record.outcome, watcher.warnings) == ("done", ["careful"])


def test_every_clean_up_is_tried_whatever_others_raise(build: Build, steps: Steps) -> None:
    class Clumsy:
        @hookimpl
        def build_image(self) -> None:
            raise ImageBuildError("no image", hint="see the log")

        @hookimpl
        def build_failed(self) -> None:
            raise StagingError("device.conf is still there", hint="remove it")

        @hookimpl
        def cleanup(self) -> None:
            raise ValueError("oops")

    record, _ = run(build, steps, Clumsy())
    assert steps.called[-2:] == ["build_failed(ImageBuildError)", "cleanup"]
    assert record.exit_code == 6
    messages = [message for message, _ in record.error.problems]
    assert messages[:2] == ["no image", "device.conf is still there"]
    assert "oops" in messages[2]


def test_a_clean_up_that_fails_after_success_is_a_warning(build: Build, steps: Steps) -> None:
    class Clumsy:
        @hookimpl
        def cleanup(self) -> None:
            raise StagingError("a mount is left", hint="umount it")

    record, watcher = run(build, steps, Clumsy())
    assert (record.outcome, watcher.warnings) == ("done", ["a mount is left"])


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_bug_ends_in_the_record_after_cleaning_up(
    build: Build, steps: Steps, error: type[BaseException]
) -> None:
    class Bug:
        @hookimpl
        def build_image(self) -> None:
            raise error

    record, _ = run(build, steps, Bug())
    assert (record.exit_code, record.step) == (70, "build_image")
    assert "test_pipeline.py:" in record.error.message
    assert steps.called[-2:] == [f"build_failed({error.__name__})", "cleanup"]


def test_a_plug_in_cannot_replace_a_field_of_the_record(build: Build, steps: Steps) -> None:
    class Liar:
        @hookimpl
        def post_flash(self) -> dict[str, str]:
            return {"serial": "OTHER-1"}

    record, _ = run(build, steps, Liar())
    assert record.exit_code == 70
    assert "would replace serial" in record.error.message


def self_referring() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


NO_JSON = [{1, 2}, {(1, 2): 3}, float("nan"), Secret("a-password"), self_referring()]


@pytest.mark.parametrize("value", NO_JSON, ids=lambda each: type(each).__name__)
def test_what_a_plug_in_adds_to_the_record_is_json(build: Build, steps: Steps, value: Any) -> None:
    class Site:
        @hookimpl
        def post_flash(self) -> dict[str, Any]:
            return {"site": value}

    record, _ = run(build, steps, Site())
    assert (record.exit_code, record.step) == (70, "post_flash")
    assert "a plug-in's answer to post_flash is not valid JSON" in record.error.message
    assert json.dumps(record.as_json())
    assert record.as_json()["serial"] == SERIAL


def test_an_interrupt_ends_with_130_and_is_cleaned_up(build: Build, steps: Steps) -> None:
    class Impatient:
        @hookimpl
        def build_image(self) -> Iterator[None]:
            raise KeyboardInterrupt

    record, _ = run(build, steps, Impatient())
    assert (record.exit_code, record.step) == (130, "build_image")
    assert steps.called[-2:] == ["build_failed(KeyboardInterrupt)", "cleanup"]


def test_a_build_in_which_nobody_stages_device_conf_stops(build: Build, steps: Steps) -> None:
    class Idle(Steps):
        @hookimpl
        def pre_flash(self, ownership: Ownership) -> list[StagedFile]:
            return []

    record, _ = run(build, Idle(steps.image.path))
    assert (record.exit_code, record.step) == (5, "pre_flash")


def test_an_image_that_vanishes_is_a_verification_error(build: Build, steps: Steps) -> None:
    steps.image.path.unlink()
    record, _ = run(build, steps)
    assert (record.exit_code, record.step) == (8, "digest_image")
