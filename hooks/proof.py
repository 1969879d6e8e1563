"""The proof: reads every file of the finished image back; first its identity, then the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from azaion_imagebuild import hookimpl
from azaion_imagebuild.model import (
    DEVICE_CONF,
    LUKS,
    Build,
    DeviceIdentity,
    FileEntry,
    Finding,
    Image,
    StagedFile,
)


@hookimpl
def verify_image(
    build: Build, identity: DeviceIdentity, staged: Sequence[StagedFile], image: Image
) -> list[Finding]:
    from azaion_imagebuild.l4t import firmware
    from azaion_imagebuild.proof import completeness  # imported late: `provision` does not need it
    from azaion_imagebuild.proof.identity import Expected, prove

    (conf,) = (each for each in staged if each.path == DEVICE_CONF)
    expected = Expected(
        email=build.email,
        owner=(conf.ownership.uid, conf.ownership.gid),
        password=identity.password,
        sha256=conf.sha256,
    )
    differences = [
        finding
        for path, entry in _device_confs(build, image)
        for finding in prove(entry, str(path), expected)
    ]
    if differences or build.stamps:
        return differences  # the base was proven when it was built
    left_out = firmware.built_findings(build.bsp_dir, build) if build.bsp_dir else ()
    return [*completeness.findings(build, image), *left_out]


def _device_confs(build: Build, image: Image) -> Iterator[tuple[Path, FileEntry | None]]:
    """Yield device.conf from each file, or from the staged rootfs if the image is encrypted."""
    from azaion_imagebuild import images
    from azaion_imagebuild.identity import device_conf
    from azaion_imagebuild.identity.placeholder import is_placeholder
    from azaion_imagebuild.images import indexed
    from azaion_imagebuild.images.zstd import largest_for
    from azaion_imagebuild.rootfs.tree import Rootfs

    if image.format == LUKS:
        with Rootfs(build.rootfs_dir) as rootfs:
            yield build.rootfs_dir, rootfs.read_file(DEVICE_CONF, device_conf.LONGEST)
        return
    largest = largest_for(build.settings.bsp.size)
    for path in image.files:
        if build.stamps:  # into a base, which was proven whole
            entry = indexed.read_file(path, DEVICE_CONF, device_conf.LONGEST)
        else:
            entry = images.read_file(path, DEVICE_CONF, device_conf.LONGEST, largest)
        if path in image.aside and (entry is None or is_placeholder(entry.data)):
            continue  # it holds no identity and reaches no device
        yield path, entry
