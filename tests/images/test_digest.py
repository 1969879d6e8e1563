"""The digest of an image: fs-verity's, which holes cost nothing."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from azaion_imagebuild.errors import VerificationError
from azaion_imagebuild.images.digest import image_digest

GROUP = 128 * 4096  # bytes of data whose hashes fill one block
KNOWN = {  # bytes of random.Random(size) → what fsverity 1.5 printed
    0: "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
    1: "0edb82071407a15a5898b90f1e04344c59919fe110d15b66d62d9c56525687f5",
    4096: "16ad3fec8e3a330a6ab76a2a77e8887aeca515b046846b723551dae7c76c5141",
    4097: "c018eb3d709b7668cc72283bb7f1a785b039f549de3d5526581b08599dc5f128",
    GROUP: "9c1ebb6258016ce42ece00219bcce631c6bb8804c70bf4b135e9a3b1a92c1dd2",
    GROUP + 1: "cf3292ef2a818091a16cd982644cd686831129d9f6d4a661201b294c01bef00c",
    128 * GROUP + 5: "dac07cd6e3087d2fb24d36589add29387a231cc2e6364398c7ff4ec050a46d2c",
}


@pytest.mark.parametrize("size", KNOWN)
def test_the_digest_is_what_fsverity_prints(tmp_path: Path, size: int) -> None:
    image = tmp_path / "image"
    image.write_bytes(random.Random(size).randbytes(size))  # noqa: S311 - no secret
    assert image_digest(image) == KNOWN[size]


@pytest.mark.skipif(not shutil.which("fsverity"), reason="needs fsverity")
@pytest.mark.parametrize("seed", range(12))
def test_holes_are_digested_as_the_zeros_that_they_are(tmp_path: Path, seed: int) -> None:
    image = tmp_path / "image"
    chance = random.Random(seed)  # noqa: S311 - no secret
    with image.open("wb") as stream:
        stream.truncate(chance.randrange(1 << 26))
        for _ in range(chance.randrange(5)):
            stream.seek(chance.randrange(1 << 26))
            stream.write(chance.randbytes(chance.randrange(1 << 16)))
    said = subprocess.run(["fsverity", "digest", "--compact", image], check=True,
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    assert image_digest(image) == said


def test_a_copy_without_holes_has_the_same_digest(tmp_path: Path) -> None:
    image, copy = tmp_path / "image", tmp_path / "copy"
    with image.open("wb") as stream:
        stream.truncate(3 * GROUP + 777)
        stream.seek(2 * GROUP - 5)
        stream.write(b"some data")
    copy.write_bytes(image.read_bytes())
    assert image.stat().st_blocks < copy.stat().st_blocks, "no holes here"
    assert image_digest(image) == image_digest(copy)


def test_holes_are_not_read(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(55 << 30)
        stream.seek(20 << 30)
        stream.write(b"some data")
    reading = (
        "import sys; from pathlib import Path\n"
        "from azaion_imagebuild.images.digest import image_digest\n"
        "image_digest(Path(sys.argv[1]))\n"
        "print(open('/proc/self/io').read().split()[1])"
    )  # rchar: bytes that read(2) returned
    said = subprocess.run([sys.executable, "-c", reading, image], check=True,
                          capture_output=True, text=True, env=dict(os.environ)).stdout  # fmt: skip
    assert int(said) < 64 << 20, "more was read than Python's modules and one group of blocks"


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"cannot read the image .*nothing"):
        image_digest(tmp_path / "nothing")
