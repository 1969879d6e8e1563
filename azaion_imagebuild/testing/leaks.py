"""Where a password may not be seen: output, logs, errors, left-over files."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from pathlib import Path

import pytest

from ..errors import chain_of
from ..l4t.cleanup import files_with_secret
from ..secret import Secret

_SHORTEST_PASSWORD = 6  # a shorter text may be anywhere by chance


class Shown:
    """All that a plug-in shows while it works."""

    def __init__(self, capture: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capture = capture
        self._folder = folder
        self._printed = ""
        self._log = _Log()
        self._errors: list[BaseException] = []

    def raised(self, error: BaseException) -> None:
        """Remember an error that the plug-in raised."""
        self._errors.append(error)

    def refuse(self, passwords: Iterable[str], *, allowed: Iterable[Path] = ()) -> None:
        """Fail the test if one of the passwords was shown, or is in a file.

        ``allowed`` are the files that must hold it: the image, the device.
        """
        out, err = self._capture.readouterr()
        self._printed += out + err
        places = {
            "its output (stdout, stderr)": self._printed,
            "its log": "\n".join(self._log.lines),
            "its exception": "\n".join(map(_all_of, self._errors)),
        }
        kept = {path.resolve() for path in allowed}
        for password in {each for each in passwords if len(each) >= _SHORTEST_PASSWORD}:
            for place, text in places.items():
                if password.lower() in text.lower():
                    pytest.fail(f"the password was found in {place}")
            for path in files_with_secret(self._folder, Secret(password), 0.0):
                if path.resolve() not in kept:
                    pytest.fail(f"the password was left in the file {path}")

    def __enter__(self) -> Shown:
        self._levels = [logger.level for logger in _LOGGERS]
        for logger in _LOGGERS:
            logger.addHandler(self._log)
            logger.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *error: object) -> None:
        for logger, level in zip(_LOGGERS, self._levels, strict=True):
            logger.removeHandler(self._log)
            logger.setLevel(level)


# The second one does not always pass its records on to the first.
_LOGGERS = (logging.getLogger(), logging.getLogger("azaion_imagebuild"))


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def _all_of(error: BaseException) -> str:
    """Return the whole text of an error, with its causes, arguments and attributes."""
    told = ["".join(traceback.format_exception(error))]
    for each in chain_of(error):
        told += [repr(each.args), repr(vars(each))]
    return "\n".join(told)
