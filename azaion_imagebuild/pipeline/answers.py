"""What plug-ins answered a step: collected, checked, and refused where it must stop the build."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pluggy

from ..errors import OperatorError, PreflightError, denied, is_denied, raise_for
from ..model import RECORD_FIELDS, Build, Finding, StagedFile
from . import events
from .attempt import Attempt
from .events import Watcher

_logger = logging.getLogger(__name__)
T = TypeVar("T")


def require_answer(step: str, answer: T | None) -> T:
    """Return the answer to a step that a build cannot do without.

    Raises:
        PreflightError: no plug-in answered.
    """
    if answer is None:
        raise PreflightError(
            f"no plug-in answered the step {step}",
            hint="azaion-imagebuild hooks lists the plug-ins; enable one that does this step",
        )
    return answer


def flatten(answers: Iterable[Sequence[T] | None]) -> Iterator[T]:
    """Yield what all plug-ins answered, one after the other."""
    for answer in answers:
        yield from answer or ()


def keep_staged(attempt: Attempt, answers: Iterable[object]) -> None:
    """Keep what plug-ins have staged, so that it is removed again, whatever else they answered.

    Raises:
        TypeError: one answered something else.
    """
    found: list[object] = []
    for answer in answers:
        if answer is not None:
            found += answer if isinstance(answer, Iterable) else [answer]
    attempt.staged = tuple(each for each in found if isinstance(each, StagedFile))
    if len(attempt.staged) < len(found):
        raise TypeError("a plug-in answered pre_flash with something that is not a StagedFile")


def refuse_errors(
    answers: Iterable[Sequence[Finding] | None], kind: type[OperatorError], watcher: Watcher
) -> None:
    """Show the warnings; raise one error of ``kind`` for all findings that stop the build."""
    findings = list(flatten(answers))
    for finding in findings:
        if finding.severity != "error":
            watcher(events.warned(finding))
    raise_for(findings, kind)


def add_fields(attempt: Attempt, step: str, answers: Iterable[object]) -> dict[str, Any]:
    """Add the fields that plug-ins answered a step with to the record; return them."""
    fields: dict[str, Any] = {}
    for answer in answers:
        fields |= _checked_fields(step, answer)
    attempt.extra |= fields
    return fields


def _checked_fields(step: str, answer: object) -> Mapping[str, Any]:
    if not isinstance(answer, Mapping):
        raise TypeError(f"a plug-in answered {step} with {type(answer).__name__}, not a mapping")
    if taken := set(RECORD_FIELDS) & set(answer):
        raise TypeError(f"a plug-in's answer to {step} would replace {', '.join(sorted(taken))}")
    try:
        json.dumps(answer, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"a plug-in's answer to {step} is not valid JSON: {error}") from None
    return answer


def try_all(caller: pluggy.HookCaller, **arguments: object) -> list[tuple[str, str]]:
    """Call every implementation, whatever the others raise; return the problems they had."""
    problems = []
    for impl in reversed(caller.get_hookimpls()):
        try:
            impl.function(*(arguments[name] for name in impl.argnames))
        except OperatorError as error:
            problems += list(error.problems)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if is_denied(error):
                problems.append(denied(error))
                continue
            _logger.exception("%s of the plug-in %s", caller.name, impl.plugin_name)
            message = f"{caller.name} of the plug-in {impl.plugin_name} failed: {error}"
            problems.append((message, "see the traceback above; look for what it left behind"))
    return problems


def problem_of_base(build: Build, problem: tuple[str, str]) -> tuple[str, str]:
    """Return message and hint of a base's problem without the serial that no device has.

    A hint that names it would open a gate for a device that does not exist.
    """
    message, _ = problem
    of_a_device = any(name in text for text in problem for name in (build.serial, build.email))
    if not build.is_base or not of_a_device:
        return problem
    for name in (build.serial, build.email):
        message = message.replace(name, "the base image")
    return message, "let the plug-in check devices in preflight, which is asked for each of them"
