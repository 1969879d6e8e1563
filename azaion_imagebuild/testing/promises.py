"""What the tests of every step share: calling a plug-in as a build would, judging its errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pluggy
import pytest

from ..errors import ExitCode, OperatorError
from ..pipeline.plugins import add_plugin, no_plugins, shipped_plugins
from .leaks import Shown

T = TypeVar("T")
NAME = "the plug-in under test"


class Conformance:
    """A plug-in, and calls of it. The class's name keeps pytest from collecting it."""

    plugin: ClassVar[Any]
    """The plug-in: a module, an object, or the path of its file (relative to pytest's rootdir)."""
    patience: ClassVar[float] = 60.0
    """Seconds after which a call of the plug-in counts as endless."""

    @pytest.fixture(autouse=True)
    def _alone(self, sandbox_environment: Path) -> None:
        """No setting of this host reaches the plug-in."""

    @pytest.fixture
    def hook(self, pytestconfig: pytest.Config) -> pluggy.HookRelay:
        """The plug-in, and no other, as the core calls it."""
        manager = no_plugins()
        add_plugin(manager, self._found(pytestconfig.rootpath), NAME)
        return manager.hook

    @pytest.fixture
    def shown(self, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Shown]:
        """What the plug-in shows of itself."""
        with Shown(capfd, tmp_path) as shown:
            yield shown

    def with_the_others(
        self, rootdir: Path, *instead_of: str, also: object = None
    ) -> pluggy.HookRelay:
        """Return the plug-in together with the shipped ones that it does not replace."""
        manager = shipped_plugins(instead_of)  # ignore what else is installed on this host
        if also is not None:
            add_plugin(manager, also, f"beside {NAME}")
        add_plugin(manager, self._found(rootdir), NAME)
        return manager.hook

    def _found(self, rootdir: Path) -> Any:
        found = getattr(self, "plugin", None)
        if found is None:
            pytest.fail(f"{type(self).__name__} names no plug-in: plugin = …")
        return rootdir / found if isinstance(found, str | Path) else found

    def ended(self, call: Callable[[], T]) -> T:
        """Return or raise the result of a call; an endless one fails the test."""
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append((call(), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.patience)
        if not outcome:
            pytest.fail(f"the plug-in did not come back within {self.patience} s")
        answer, error = outcome[0]
        if error is not None:
            raise error
        result: T = answer
        return result

    def answered(self, step: str, kind: type[T], call: Callable[[], object], shown: Shown) -> T:
        """Return the answer of a step, which must be of ``kind``; remember an error."""
        try:
            answer = self.ended(call)
        except Exception as error:
            shown.raised(error)
            raise
        assert isinstance(answer, kind), (
            f"{step} answered with {type(answer).__name__}, not {kind.__name__}"
        )
        return answer


def judge_error(error: BaseException, wanted: ExitCode) -> None:
    """Fail the test unless an error is one that an operator can act on, with its exit code."""
    if not isinstance(error, OperatorError):
        pytest.fail(
            f"the operator would see a bug (exit 70), not what is wrong: {type(error).__name__};"
            " raise an OperatorError with a hint instead"
        )
    code = error.exit_code
    assert code == wanted, f"a {type(error).__name__} ends with {code}, not with {int(wanted)}"
    for message, hint in error.problems:
        for text, what in ((message, "message"), (hint, "hint")):
            assert text.strip(), f"the error has an empty {what}"
            assert text.isprintable(), f"the {what} is more than one plain line: {text!a}"


def unwatched(event: object) -> None:
    """Ignore an event."""
