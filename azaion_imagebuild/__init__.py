"""Identity for every Jetson: an image-build plug-in for NVIDIA L4T, with a hook per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pluggy import HookimplMarker

    hookimpl: HookimplMarker
    """Marks a plug-in's function as the implementation of a step (:mod:`.pipeline.hookspecs`)."""

__version__ = "0.1.0"


def __getattr__(name: str) -> HookimplMarker:
    # imported late: the command line must first move the caller's PYTHONPATH to the end
    if name != "hookimpl":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pluggy import HookimplMarker

    return HookimplMarker("azaion_imagebuild")
