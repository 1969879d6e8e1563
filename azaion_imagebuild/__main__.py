"""``python -m azaion_imagebuild``, and the console script."""

from __future__ import annotations

import contextlib
import gc
import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _search_python_path_last()
    try:
        from .system import signals

        signals.process_runs_one_command()
        with signals.taken():
            from .cli.main import run

            code = run(sys.argv[1:])
        signals.ignore_to_the_end()
    except BaseException as error:  # an interrupt during the import, or a second one at the end
        from .errors import is_interrupt

        if not is_interrupt(error):
            raise
        code = 130
    finally:
        _flush()
    gc.freeze()  # the process ends: no need to search for reference cycles
    sys.exit(code)


def _search_python_path_last() -> None:
    """Search PYTHONPATH last: its modules (ROS sets it) must not replace ours."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    foreign = {os.path.abspath(each) for each in given if each}  # noqa: PTH100 - pathlib is slow
    sys.path.sort(key=foreign.__contains__)


def _flush() -> None:
    """Flush the buffered output; drop it if nobody can read it.

    The interpreter flushes again and would replace the exit code with 120: a finished device must
    not look failed because the terminal went away.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
