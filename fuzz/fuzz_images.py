"""A fuzz target for the image readers: whatever the bytes, an answer or CorruptImage, soon.

usage: pip install atheris; python fuzz/fuzz_images.py CORPUS -max_total_time=60
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["azaion_imagebuild"]):
    from azaion_imagebuild.images import CorruptImage, open_filesystem
    from azaion_imagebuild.images.locate import locate

from azaion_imagebuild.identity.placeholder import placeholder
from azaion_imagebuild.model import DEVICE_CONF


def one_input(data: bytes) -> None:
    """Read device.conf out of the bytes, list them, and locate it: nothing but CorruptImage."""
    for read in (_read, _list, _locate):
        try:
            read(io.BytesIO(data))
        except CorruptImage:
            continue


def _read(stream: io.BytesIO) -> None:
    open_filesystem(stream).read_file(DEVICE_CONF, 65536)


def _list(stream: io.BytesIO) -> None:
    for _ in open_filesystem(stream).entries():
        continue


def _locate(stream: io.BytesIO) -> None:
    locate(stream, DEVICE_CONF)


def seeds(corpus: Path) -> None:
    """Put a small ext4 image and a small tar into the corpus, where it is empty."""
    corpus.mkdir(exist_ok=True)
    if any(corpus.iterdir()):
        return
    with tempfile.TemporaryDirectory() as name:
        conf = Path(name, DEVICE_CONF)
        conf.parent.mkdir(parents=True)
        conf.write_bytes(placeholder())
        ext4 = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-N", "16", "-d", name]
        subprocess.run([*ext4, corpus / "ext4", "128k"], check=True)
        subprocess.run(["tar", "-cf", corpus / "tar", "-C", name, "."], check=True)


if __name__ == "__main__":
    seeds(Path(sys.argv[1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
