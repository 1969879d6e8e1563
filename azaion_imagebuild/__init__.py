"""Identity for every Jetson: an image-build plug-in for NVIDIA L4T, with a hook per step."""

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("azaion_imagebuild")
"""Marks a plug-in's function as the implementation of a step (:mod:`.pipeline.hookspecs`)."""
