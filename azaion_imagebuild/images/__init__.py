"""Filesystem images: their formats, and single files read out of them."""

from __future__ import annotations

from .formats import (
    Filesystem,
    format_of,
    image_format,
    open_filesystem,
    opened,
    opened_file,
    read_file,
    superblock,
)
from .stream import CorruptImage

__all__ = [
    "CorruptImage",
    "Filesystem",
    "format_of",
    "image_format",
    "open_filesystem",
    "opened",
    "opened_file",
    "read_file",
    "superblock",
]
