"""The placeholder: a device.conf of fixed size and without a credential, to be stamped over."""

from __future__ import annotations

from ..errors import UsageError
from ..settings import LARGEST_DEVICE_CONF, PLACEHOLDER_SIZE

_MARK = b"# azaion-imagebuild placeholder: no identity has been stamped into this image.\n"
INVALID = b"#"
"""The first byte of an unfinished device.conf: it turns the first credential into a comment."""


def placeholder(size: int = PLACEHOLDER_SIZE) -> bytes:
    """Return a placeholder: the mark, then newlines."""
    return _MARK.ljust(size, b"\n")


def is_placeholder(data: bytes) -> bool:
    """Tell whether this file is an unstamped placeholder."""
    return data.startswith(_MARK[:40])


def _enough(rendered: bytes) -> int:
    """Return a size in whole sectors with room for this content and a somewhat longer one."""
    sectors = -(-(len(rendered) + PLACEHOLDER_SIZE // 2) // PLACEHOLDER_SIZE)
    return min(LARGEST_DEVICE_CONF, sectors * PLACEHOLDER_SIZE)


def padded(rendered: bytes, size: int) -> bytes:
    """Return a rendered device.conf, padded with newlines to ``size`` bytes.

    Raises:
        UsageError: it is longer, or does not begin with a credential: a file whose first byte is
            not written yet would then already be an identity.
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
