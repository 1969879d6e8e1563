"""``IMAGE.sha1sum``, which NVIDIA's initrd flash writes beside its archives."""

from __future__ import annotations

import hashlib
from pathlib import Path

_READ_AT_ONCE = 1 << 20


def renew_sha1(image: Path) -> bool:
    """Rewrite ``IMAGE.sha1sum`` to match the image; return False if there is no such file.

    NVIDIA's initrd flash writes it beside the tar, and some releases may compare it. Reads the
    whole image, because a SHA-1 cannot be updated in part.
    """
    beside = image.with_name(image.name + ".sha1sum")
    if not beside.is_file():
        return False
    digest = hashlib.sha1(usedforsecurity=False)
    with image.open("rb") as stream:
        while block := stream.read(_READ_AT_ONCE):
            digest.update(block)
    rest = beside.read_text().partition(" ")[2]
    beside.write_text(f"{digest.hexdigest()}{f' {rest}' if rest else chr(10)}")
    return True
