"""A fuzzer of the zstd reader: each case ends soon, in little memory, with an answer or an error.

usage: python fuzz/fuzz_zstd.py [--cases 1000000] [--jobs 2] [--seed 0]

Half of the cases are seeds with changed bytes, half are built from the format: frame headers,
blocks that unpack to much more (RLE), skippable frames, tar headers with other fields. What is
accepted is read a second way, by the library in one piece and our plain tar reader; both must
agree. It needs nothing that is not installed with the project.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from azaion_imagebuild.errors import OperatorError
from azaion_imagebuild.identity.placeholder import placeholder
from azaion_imagebuild.images import CorruptImage, open_filesystem
from azaion_imagebuild.images.locate import locate
from azaion_imagebuild.images.reframe import reframe
from azaion_imagebuild.images.tar import Tar
from azaion_imagebuild.images.zstd import MAGIC, frame_header, library, stored_at, stored_frame
from azaion_imagebuild.images.zstd_tar import ZstdTar
from azaion_imagebuild.model import DEVICE_CONF, GROUP, PASSWD, FileEntry

LARGEST = 1 << 22  # bytes that a case may unpack to
SLOW = 5.0  # seconds of processor time for one case
MEMORY = 1 << 30  # bytes of address space beyond what is there at the start
LIMIT = 4096  # bytes of a file that is read
REFRAMED = 500  # one accepted archive of so many is packed again
_PATHS = (DEVICE_CONF, PASSWD, GROUP, "usr/nowhere")
zstd: Any = library()


def archive(random: Random) -> bytes:
    """Return a small tar with most of what a reader looks at."""
    stream = io.BytesIO()
    names = [PASSWD, GROUP, "usr/file", DEVICE_CONF]
    random.shuffle(names)
    packing = random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=stream, mode="w", format=packing) as writer:
        for name in names:
            data = placeholder(512) if name == DEVICE_CONF else random.randbytes(40)
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode = len(data), 0o600
            if random.random() < 0.1:
                member.mtime = 1.5
            writer.addfile(member, io.BytesIO(data))
    return stream.getvalue()[: random.choice((4096, 10240))]


def packed(data: bytes, random: Random) -> bytes:
    """Pack as one frame, with some of the options that change a frame's header."""
    option = zstd.CompressionParameter
    packer = zstd.ZstdCompressor(options={
        option.checksum_flag: random.randrange(2),
        option.content_size_flag: random.randrange(2),
        option.compression_level: random.choice((-3, 1, 3)),
    })  # fmt: skip
    return bytes(packer.compress(data) + packer.flush())


def laid_out(data: bytes, random: Random) -> bytes:
    """Pack as several frames: compressed, stored, skippable."""
    parts, position = [], 0
    while position < len(data):
        size = random.choice((512, 1024, 3000, len(data)))
        part, position = data[position : position + size], position + size
        parts.append(stored_frame(part) if random.random() < 0.3 else packed(part, random))
        if random.random() < 0.1:
            parts.append(skippable(random.randrange(20), random))
    return b"".join(parts)


def skippable(size: int, random: Random) -> bytes:
    said = size if random.random() < 0.9 else random.getrandbits(32)
    return struct.pack("<II", 0x184D2A50 | random.randrange(16), said) + random.randbytes(size)


def frame(data: bytes, random: Random) -> bytes:
    """Build a frame by hand, of stored and repeated blocks; every other one has lies in it."""
    blocks = [
        (0, data),
        *[(random.choice((0, 1)), random.randbytes(1))] * random.choice((0, 1, 40)),
    ]
    body, size = b"", 0
    for number, (kind, content) in enumerate(blocks):
        said = random.choice((1, 4096, 131072)) if kind else len(content)
        size += said
        last = number == len(blocks) - 1
        body += (said << 3 | kind << 1 | last).to_bytes(3, "little") + content
    if random.random() < 0.5:  # a window of 128 KiB, or a size
        return (
            MAGIC + (b"\0\x38" if random.random() < 0.5 else struct.pack("<BI", 0xA0, size)) + body
        )
    flags = random.getrandbits(8) & random.choice((0xFF, 0xA0, 0x20, 0xE4))
    header = MAGIC + bytes([flags])
    header += b"" if flags & 0x20 else bytes([random.getrandbits(8)])
    header += random.randbytes((0, 1, 2, 4)[flags & 3])
    length = (1 if flags & 0x20 else 0, 2, 4, 8)[flags >> 6]
    said = size if random.random() < 0.7 else random.getrandbits(8 * length or 1)
    header += (said & ((1 << 8 * length) - 1)).to_bytes(length, "little")
    return header + changed(body, random)


def with_other_fields(data: bytes, random: Random) -> bytes:
    """Change some fields of tar headers, and make their checksums true again."""
    image = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        start = random.randrange(len(image) // 512) * 512
        field, size = random.choice(((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1),
                                     (157, 100), (257, 8), (265, 32), (345, 155)))  # fmt: skip
        value = random.choice((
            random.randbytes(size), bytes(size), b"7" * size, b"\xff" * size,
            b"./etc/azaion/device.conf".ljust(size, b"\0")[:size], b"LKxgS0125"[: size or 1],
        ))  # fmt: skip
        image[start + field : start + field + size] = value[:size].ljust(size, b"\0")
        header = image[start : start + 512]
        header[148:156] = b" " * 8
        image[start + 148 : start + 156] = f"{sum(header):06o}\0 ".encode()
    return bytes(image)


def changed(data: bytes, random: Random) -> bytes:
    """Change bytes anywhere: flip, set, cut, double, insert."""
    image = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(image) + 1)
        match random.randrange(6):
            case 0 if at < len(image):
                image[at] ^= 1 << random.randrange(8)
            case 1 if at < len(image):
                image[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del image[at:]
            case 3:
                image[at:at] = image[at : at + random.randrange(600)]
            case 4:
                image[at:at] = random.randbytes(random.randrange(8))
            case _:
                del image[at : at + random.randrange(1, 40)]
        if not image:
            break
    return bytes(image)


def filesystem() -> bytes | None:
    """Return a small ext4 image; None: this host has no mke2fs."""
    with tempfile.TemporaryDirectory() as folder:
        conf, image = Path(folder, "root", DEVICE_CONF), Path(folder, "image")
        conf.parent.mkdir(parents=True)
        conf.write_bytes(placeholder())
        argv = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-N", "16", "-d"]
        try:
            subprocess.run(
                [*argv, Path(folder, "root"), image, "128k"], check=True, capture_output=True
            )
        except OSError:
            return None
        return image.read_bytes()


def case(random: Random, archives: list[bytes], raw: bytes | None) -> bytes:
    """Return one input."""
    data = random.choice(archives)
    if raw is not None and random.randrange(60) == 0:
        return changed(packed(changed(raw, random), random), random)
    match random.randrange(8):
        case 0 | 1:
            return changed(packed(data, random), random)
        case 2 | 3:
            return changed(laid_out(data, random), random)
        case 4:
            return laid_out(with_other_fields(data, random), random)
        case 5:
            return packed(with_other_fields(data, random), random)
        case 6:
            cut = random.choice((0, 600, 2048, 4096))
            return packed(data[:cut], random) + frame(data[cut:], random)
        case _:
            frames = [random.choice((packed, laid_out))(data, random), frame(data[:600], random),
                      skippable(3, random), packed(b"", random)]  # fmt: skip
            random.shuffle(frames)
            return b"".join(frames[: random.randrange(1, 5)])


def judged(data: bytes, random: Random) -> str:
    """Read one input in every way; return what came of it.

    Raises:
        AssertionError: two readers do not agree.
    """
    try:
        found = open_filesystem(io.BytesIO(data), LARGEST)
        some = _PATHS if random.randrange(8) == 0 else _PATHS[:1]  # each costs a pass
        files = {path: _read(found.read_file, path) for path in some}
        entries = [*found.entries()]
    except (CorruptImage, OperatorError):
        if random.randrange(8) == 0:
            _located(data)
        return "refused"
    if not isinstance(found, ZstdTar):
        return "another format"
    unpacked = zstd.decompress(data)
    assert len(unpacked) <= LARGEST
    plain = Tar(io.BytesIO(unpacked))
    assert {path: _read(plain.read_file, path) for path in some} == files
    assert [*plain.entries()] == entries
    if random.randrange(4) == 0:
        _located(data, files[DEVICE_CONF])
    if random.randrange(REFRAMED) == 0:
        _packed_again(data, files)
        return "packed again"
    return "accepted"


def _read(read_file: Callable[[str, int], FileEntry | None], path: str) -> FileEntry | str | None:
    try:
        return read_file(path, LIMIT)
    except CorruptImage as error:
        if "archive" in str(error) or "by name" in str(error) or "bytes long" in str(error):
            return "refused"  # this file, not the archive
        raise


def _located(data: bytes, entry: FileEntry | str | None = None) -> None:
    with contextlib.suppress(CorruptImage):
        frame_header(data[:32])
        stored_at(data[:32], 0, 1)
    try:
        place = locate(io.BytesIO(data), DEVICE_CONF)
    except (CorruptImage, OperatorError):
        return
    if place is not None and isinstance(entry, FileEntry):
        found = b"".join(data[each.offset : each.offset + each.length] for each in place.ranges)
        assert found == entry.data


def _packed_again(data: bytes, files: dict[str, FileEntry | str | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "system.img")
        path.write_bytes(data)
        try:
            old = reframe(path, io.BytesIO(data), (0, 0), 512)
        except CorruptImage:
            assert path.read_bytes() == data
            return
        now = path.read_bytes()
        place = locate(io.BytesIO(now), DEVICE_CONF)
        assert place is not None
        assert place.size >= 512
        found = open_filesystem(io.BytesIO(now))
        for name, entry in files.items():
            if name != DEVICE_CONF or (old is None and isinstance(entry, FileEntry)):
                assert _read(found.read_file, name) == entry


def run(job: tuple[int, int]) -> tuple[Counter[str], float]:
    """Run some cases; return what came of them, and the longest processor time of one."""
    seed, cases = job
    used = _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    archives = [archive(Random(f"{seed}, {number}")) for number in range(100)]
    raw = filesystem()
    seen: Counter[str] = Counter()
    longest = 0.0
    for number in range(cases):
        random = Random(f"{seed}/{number}")
        data = case(random, archives, raw)
        began = time.process_time()
        try:
            seen[judged(data, random)] += 1
        except BaseException:
            Path(f"zstd-{seed}-{number}.case").write_bytes(data)
            print(f"seed {seed}, case {number}: kept as zstd-{seed}-{number}.case", file=sys.stderr)
            raise
        took = time.process_time() - began
        longest = max(longest, took)
        assert took < SLOW, f"seed {seed}, case {number}: {took:.1f} s"
    return seen, longest


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    """Run all cases, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    share = 2000
    jobs = [
        (options.seed + number, min(share, options.cases - number * share))
        for number in range(-(-options.cases // share))
    ]
    seen: Counter[str] = Counter()
    longest = 0.0
    with multiprocessing.Pool(options.jobs) as pool:
        for part, slowest in pool.imap_unordered(run, jobs):
            seen += part
            longest = max(longest, slowest)
            print(f"{sum(seen.values())} cases, {time.monotonic() - began:.0f} s", file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(
        f"{sum(seen.values())} cases in {time.monotonic() - began:.0f} s: {dict(seen)};"
        f" slowest {longest * 1000:.0f} ms of processor time, at most {peak} MiB resident"
    )


if __name__ == "__main__":
    main()
