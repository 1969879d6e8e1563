"""Identity for every Jetson: an image-build plug-in for NVIDIA L4T, with a hook per step.

What this module names is its plain Python interface (:mod:`.operations.python_api`), the error that
its functions raise, and ``hookimpl``, which marks a plug-in's function as the implementation of a
step (:mod:`.pipeline.hookspecs`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pluggy import HookimplMarker

    from .errors import OperatorError
    from .operations.python_api import build_image, provision, smoke, stamp, verify

    hookimpl: HookimplMarker

__version__ = "1.0.0"
__all__ = ["OperatorError", "build_image", "hookimpl", "provision", "smoke", "stamp", "verify"]


def __getattr__(name: str) -> Any:
    # imported late: the command line must first move the caller's PYTHONPATH to the end
    if name == "hookimpl":
        return import_module("pluggy").HookimplMarker("azaion_imagebuild")
    if name == "OperatorError":
        return import_module(".errors", __name__).OperatorError
    if name in __all__:
        return getattr(import_module(".operations.python_api", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
