"""The placeholder: a device.conf of fixed size that no Loader can log in with, to be stamped."""

from __future__ import annotations

from ..errors import UsageError
from ..settings import LARGEST_DEVICE_CONF, PLACEHOLDER_SIZE

_MARK = b"# azaion-imagebuild placeholder: no identity has been stamped into this image.\n"
INVALID = b"#"
"""The first byte of a device.conf that is being written: its first credential is a comment."""


def placeholder(size: int = PLACEHOLDER_SIZE) -> bytes:
    """Return a placeholder: the mark, then newlines."""
    return _MARK.ljust(size, b"\n")


def is_placeholder(data: bytes) -> bool:
    """Tell whether no identity was stamped into this file."""
    return data.startswith(_MARK[:40])


def _enough(rendered: bytes) -> int:
    """Return a size with room for this and for a somewhat longer one, in whole sectors."""
    sectors = -(-(len(rendered) + PLACEHOLDER_SIZE // 2) // PLACEHOLDER_SIZE)
    return min(LARGEST_DEVICE_CONF, sectors * PLACEHOLDER_SIZE)


def padded(rendered: bytes, size: int) -> bytes:
    """Return a rendered device.conf, filled up with newlines to ``size`` bytes.

    Raises:
        UsageError: it is longer, or it does not begin with a credential: only then is a file whose
            first byte is not yet written no identity.
    """
    if len(rendered) > size:
        raise UsageError(
            f"device.conf has {len(rendered)} bytes, but in the image there is room for {size}",
            hint=f"set [image] placeholder_size to {_enough(rendered)} and rebuild the base"
            " (azaion-imagebuild base), or shorten the template or what the API issues",
        )
    if not rendered.startswith(b"AZAION_DEVICE_"):
        raise UsageError(
            "the template of device.conf does not begin with a credential",
            hint="put AZAION_DEVICE_EMAIL=${email} on its first line: stamping relies on it",
        )
    return rendered.ljust(size, b"\n")
