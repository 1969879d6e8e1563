"""``python -m azaion_imagebuild``, and the console script."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        from .cli.main import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while that is imported, or once more at its end
        code = 130
    gc.freeze()  # the end of the process gives everything back: looking for cycles is in vain
    sys.exit(code)


if __name__ == "__main__":
    main()
