"""A small test bench: a reference BSP, a file as the device, and images for it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from msgspec import Struct, structs

from ..errors import VerificationError
from ..identity.device_conf import LONGEST, DeviceConf, MalformedDeviceConf, parse
from ..identity.serial import new_password
from ..images import CorruptImage, Filesystem, opened, read_file
from ..images.sparse import SparseReader
from ..images.stream import Readable
from ..l4t.flashing import flash_method
from ..model import DEVICE_CONF, Build, DeviceIdentity, FileEntry, Image
from ..rootfs import staging
from ..system.process import run

_BLOCK = 4096
_WINDOW = 256 * _BLOCK
_LONGEST_FILE = 1 << 20


class FlashableImage(Struct, frozen=True, kw_only=True):
    """An image for the step ``flash``, and the identity in it."""

    build: Build
    image: Image
    identity: DeviceIdentity


MakeBuild = Callable[..., Build]
MakeImage = Callable[..., FlashableImage]


def build_image(build: Build) -> FlashableImage:
    """Build an image with a new identity, by the reference scripts."""
    assert build.bsp_dir is not None, "an image needs a BSP"
    identity = DeviceIdentity(
        serial=build.serial, email=build.email, password=new_password(), enrolled="created"
    )
    staged = staging.stage(build, identity, staging.clear_stale(build))
    try:
        image = flash_method(build, build.bsp_dir).build_image(build)
    finally:
        staging.unstage(build, (staged,))
    return FlashableImage(build=build, image=image, identity=identity)


class Bakery:
    """Images that are built once and copied for each test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._baked: dict[str, tuple[Path, FlashableImage]] = {}

    def image(self, build: Build) -> FlashableImage:
        """Return a new image in the BSP of ``build``, which has none yet."""
        assert build.bsp_dir is not None, "an image needs a BSP"
        key = f"{build.serial} {build.settings.bsp}"
        if key not in self._baked:
            baked = build_image(build)
            kept = self._folder / str(len(self._baked))
            _copy(build.bsp_dir, kept)
            self._baked[key] = kept, baked
            return baked
        kept, baked = self._baked[key]
        assert baked.build.bsp_dir is not None
        _copy(kept, build.bsp_dir)
        return FlashableImage(
            build=build,
            image=_moved(baked.image, baked.build.bsp_dir, build.bsp_dir),
            identity=baked.identity,
        )


def _copy(source: Path, target: Path) -> None:
    argv = ["cp", "-a", "--sparse=always", "--no-target-directory", str(source), str(target)]
    copied = run(argv, cwd=source)
    assert copied.returncode == 0, copied.last_words()


def _moved(image: Image, source: Path, target: Path) -> Image:
    def moved(paths: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(target / path.relative_to(source) for path in paths)

    (path,) = moved((image.path,))
    return structs.replace(image, path=path, also=moved(image.also), aside=moved(image.aside))


def first_difference(image: Image, device: Path) -> str | None:
    """Return how the device's filesystem differs from the proven image; None: it does not.

    A raw or sparse image is compared block by block; its blocks of zeros may be anything on the
    device, because a sparse image does not write them. A tar becomes a new filesystem on the
    device: there, every file is compared, with owner and mode.
    """
    try:
        if image.format == "tar":
            return _different_file(image.path, device)
        with image.path.open("rb") as proven, device.open("rb") as written:
            stream = SparseReader(proven) if image.format == "sparse" else proven
            return _different_block(stream, written)
    except (OSError, VerificationError) as error:
        return f"it cannot be read: {error}"


def credentials_on(device: Path) -> DeviceConf | None:
    """Return the credentials on a device, or None if a Loader could not use them."""
    try:
        entry = read_file(device, DEVICE_CONF, LONGEST)
        return parse(entry.data) if entry else None
    except (VerificationError, MalformedDeviceConf):
        return None


def _different_block(proven: Readable, written: Readable) -> str | None:
    proven.seek(0)
    written.seek(0)
    zeros, offset = bytes(_BLOCK), 0
    while wanted := proven.read(_WINDOW):
        found = written.read(len(wanted)) or b""
        if found != wanted:
            for at in range(0, len(wanted), _BLOCK):
                block = wanted[at : at + _BLOCK]
                if block not in (found[at : at + _BLOCK], zeros):
                    return f"the block at {offset + at} is not the proven one"
        offset += len(wanted)
    return None


def _different_file(proven: Path, device: Path) -> str | None:
    with opened(proven) as wanted, opened(device) as found:
        both = chain(wanted.entries(), found.entries())
        paths = {each.path for each in both} - {"lost+found"}
        for path in sorted(paths):
            if _file(wanted, path) != _file(found, path):
                return f"/{path} is not the proven one"
    return None


def _file(filesystem: Filesystem, path: str) -> FileEntry | None:
    try:
        return filesystem.read_file(path, _LONGEST_FILE)
    except CorruptImage:
        return None  # a folder, a link
