"""Damaged images, read by us and by e2fsprogs, GNU tar and libsparse: what is proven reads alike.

usage: python fuzz/differential.py [--cases 10000] [--seed 1] [--keep FOLDER] [ext4|tar|sparse ...]

Ends with 1 and keeps the image of each case in which `verify` has nothing against an image that
the other reader sees otherwise, or in which a raw image and its sparse twin get different proofs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

import tar_making as tars
from image_making import (
    DONT_CARE,
    FILL,
    RAW,
    Chunk,
    Counted,
    SparseLayout,
    call,
    debugfs,
    mke2fs,
    seen_by_debugfs,
)

from azaion_imagebuild import images
from azaion_imagebuild.errors import VerificationError
from azaion_imagebuild.images.ext4 import Ext4
from azaion_imagebuild.model import DEVICE_CONF, FileEntry
from azaion_imagebuild.operations.verify import verify
from azaion_imagebuild.sandbox.bsp import create_rootfs, service_user
from azaion_imagebuild.settings import DeviceConfSettings

SERIAL = "AZJN-0042"
CONF = b"AZAION_DEVICE_EMAIL=azaion-jetson-0042@azaion.com\nAZAION_DEVICE_PASSWORD=%s\n"
LIMIT = 4 << 20
READ = (DEVICE_CONF, "etc/passwd", "etc/group")
"""What a proof goes by."""
VARIANTS = (
    "-t ext4 -b 1024 -O ^has_journal",
    "-t ext4 -b 4096 -O ^has_journal",
    "-t ext4 -b 1024 -O ^has_journal,^metadata_csum",
    "-t ext4 -b 1024 -O ^has_journal,^metadata_csum,uninit_bg,^64bit -I 128",
    "-t ext4 -b 2048 -O ^has_journal,metadata_csum_seed",
    "-t ext4 -b 1024 -J size=1",
    "-t ext2 -b 1024 -I 128",
    "-t ext3 -b 1024 -J size=1",
)
PACKINGS = ("--format=gnu", "--format=posix --xattrs", "--format=ustar", "--format=oldgnu")
TELLING = (
    0,
    1,
    2,
    3,
    4,
    5,
    8,
    11,
    12,
    0xFF,
    0x1000,
    0x8000,
    0xF30A,
    0xFFFF,
    0x80000000,
    0xFFFFFFFF,
)
INODE_FIELDS = [
    "mode",
    "uid",
    "gid",
    "size",
    "links_count",
    "blocks",
    "flags",
    "dtime",
    "ctime",
    "generation",
    "file_acl",
    "dir_acl",
    "extra_isize",
    "projid",
    "block[0]",
    "block[1]",
    "block[2]",
    "block[3]",
    "block[4]",
    "block[5]",
    "block[12]",
    "block[13]",
]
SUPER_FIELDS = [
    "inodes_count",
    "blocks_count",
    "first_data_block",
    "log_block_size",
    "blocks_per_group",
    "inodes_per_group",
    "state",
    "errors",
    "rev_level",
    "first_ino",
    "inode_size",
    "feature_compat",
    "feature_incompat",
    "feature_ro_compat",
    "journal_inum",
    "last_orphan",
    "desc_size",
    "min_extra_isize",
    "want_extra_isize",
    "creator_os",
    "log_groups_per_flex",
    "checksum_type",
    "encryption_level",
    "mmp_block",
    "mount_count",
]


class Difference(Exception):
    """A proven image that another reader sees otherwise."""


class Unpackable(Exception):
    """A proven archive that tar unpacks as we read it, and then ends with an error."""


def make_tree(folder: Path) -> Path:
    """Make the rootfs that every image is made of: the sandbox's, a device.conf, and some more."""
    create_rootfs(folder, service_user())
    conf = folder / DEVICE_CONF
    conf.parent.mkdir()
    conf.write_bytes(CONF % (b"0123456789abcdef" * 2))
    conf.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(conf, service_user(), service_user())
    (folder / "etc/os-release").symlink_to("../usr/lib/os-release")
    os.link(folder / "etc/hostname", folder / "etc/name")
    (folder / "opt/many").mkdir()
    for number in range(40):
        (folder / f"opt/many/{number:02}-a-rather-long-name").touch()
    return folder


def is_proven(image: Path) -> bool:
    """Tell whether `verify` has nothing against an image."""
    try:
        return not verify(image, SERIAL, DeviceConfSettings()).findings
    except VerificationError:
        return False


def read_by_us(image: Path) -> dict[str, FileEntry | None]:
    return {path: images.read_file(image, path, LIMIT) for path in READ}


def refuse_other(image: Path, raw: Path) -> None:
    """Compare what we read from a proven image with e2fsck and debugfs on ``raw``."""
    call("e2fsck", "-fn", raw)
    ours = read_by_us(image)
    there = [path for path in READ if "not found" not in debugfs(raw, f"stat /{path}")]
    theirs = seen_by_debugfs(raw, there)
    for path in READ:
        if ours[path] != theirs.get(path):
            raise Difference(f"{path}: {ours[path]}, and debugfs reads {theirs.get(path)}")


# ext4: damage a raw image; its sparse twin must get the same proof


def ext4_cases(folder: Path, tree: Path, chance: random.Random) -> Iterator[tuple[Path, bool]]:
    """Yield an image after the other and whether it was proven."""
    bases = [
        mke2fs(folder / f"base-{number}", options, "1M", tree)
        for number, options in enumerate(VARIANTS)
    ]
    contents = [base.read_bytes() for base in bases]
    places = [_places(data) for data in contents]
    raw, twin = folder / "raw", folder / "twin"
    for number in itertools.count():
        which = number % len(bases)
        if chance.random() < 0.4:
            shutil.copy(bases[which], raw)
            _change(raw, chance)
        else:
            raw.write_bytes(_damaged(contents[which], places[which], chance))
        if raw.stat().st_size > 1 << 26:  # by fallocate of debugfs; too large to be packed here
            continue
        proven = is_proven(raw)
        if proven:
            refuse_other(raw, raw)
        make_twin(raw, twin, chance)
        if is_proven(twin) != proven:
            raise Difference(f"raw: proven {proven}, its sparse twin: {not proven}")
        if proven and read_by_us(twin) != read_by_us(raw):
            raise Difference("raw and sparse twin hold different files")
        yield raw, proven


def _places(data: bytes) -> list[tuple[int, int]]:
    """Return what our reader goes by: (offset, length)."""
    import io

    stream = Counted(io.BytesIO(data))
    filesystem = Ext4(stream)
    for path in READ:
        filesystem.read_file(path, LIMIT)
    for _ in filesystem.entries():
        continue
    return sorted({place for place in stream.ranges if place[1]})


def _damaged(data: bytes, places: list[tuple[int, int]], chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        start, length = chance.choice(places)
        kind = chance.choice("BHII")
        width = struct.calcsize(kind)
        at = start + chance.randrange(max(1, length // width)) * width
        way = chance.random()
        if way < 0.6:
            number = chance.choice(TELLING) if chance.random() < 0.5 else chance.getrandbits(32)
            struct.pack_into("<" + kind, changed, at, number & (256**width - 1))
        elif way < 0.8:
            changed[at] ^= 1 << chance.randrange(8)
        elif way < 0.9:  # a block of metadata in the place of another one
            other, _ = chance.choice(places)
            changed[start : start + 1024] = data[other : other + 1024].ljust(1024, b"\0")
        else:
            at = chance.randrange(len(data) // 1024) * 1024
            changed[at : at + 1024] = bytes(1024)
    length = len(data)
    if chance.random() < 0.05:
        length = chance.randrange(1, len(data) // 4096) * 4096
    return bytes(changed[:length])


def _change(raw: Path, chance: random.Random) -> None:
    """Have debugfs change fields, with valid checksums; it may crash over what it wrote."""
    commands = "\n".join(_changes(chance)) + "\n"
    call("debugfs", "-w", "-f", "-", raw, stdin=commands, fine=range(-64, 256))


def _changes(chance: random.Random) -> list[str]:
    """Return commands that put odd values into fields of inodes and of the superblock."""
    commands = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        number = chance.choice((*TELLING, 1 << chance.randrange(32), chance.getrandbits(32)))
        place = chance.choice((*READ, "etc", "etc/azaion", "", "<7>", "<8>", "<11>"))
        place = place if place.startswith("<") else f"/{place}"
        commands.append(
            chance.choice(
                (
                    f"sif {place} {chance.choice(INODE_FIELDS)} {number}",
                    f"sif {place} {chance.choice(INODE_FIELDS)} {number}",
                    f"ssv {chance.choice(SUPER_FIELDS)} {number}",
                    f"set_bg 0 {chance.choice(BG_FIELDS)} {number}",
                    f"rm {place}",
                    f"ln /{chance.choice(READ)} /etc/azaion/{number}",
                    f"clri {place}",
                    f"unlink {place}",
                    f"ea_set {place} user.x {number}",
                    f"fallocate {place} 0 {number % 9}",
                    f"punch {place} 0 {number % 3}",
                )
            )
        )
    return commands


BG_FIELDS = (
    "inode_table",
    "block_bitmap",
    "inode_bitmap",
    "flags",
    "free_inodes_count",
    "itable_unused",
)


def make_twin(raw: Path, twin: Path, chance: random.Random) -> None:
    """Pack a raw image as Android sparse, by libsparse or in pieces of any length."""
    if chance.random() < 0.3 and shutil.which("img2simg"):
        call("img2simg", raw, twin)
    else:
        twin.write_bytes(layout_of(raw.read_bytes(), chance).packed())


def layout_of(raw: bytes, chance: random.Random, block: int = 4096) -> SparseLayout:
    """Cut a raw image into chunks: of data, of one word, of nothing."""
    chunks: list[Chunk] = []
    pieces = [raw[at : at + block].ljust(block, b"\0") for at in range(0, len(raw), block)]
    while pieces:
        size = 1
        while size < len(pieces) and chance.random() < 0.8:
            size += 1
        data = b"".join(pieces[:size])
        del pieces[:size]
        if data == data[:4] * (len(data) // 4):
            empty = not data.strip(b"\0") and chance.random() < 0.7
            chunks.append(Chunk(DONT_CARE, size) if empty else Chunk(FILL, size, data[:4]))
        else:
            chunks.append(Chunk(RAW, size, data))
    return SparseLayout(block=block, chunks=tuple(chunks))


# sparse: damage what packs the image


def sparse_cases(folder: Path, tree: Path, chance: random.Random) -> Iterator[tuple[Path, bool]]:
    """Yield an image after the other and whether it was proven."""
    base = mke2fs(folder / "base", VARIANTS[0], "1M", tree).read_bytes()
    image, raw = folder / "sparse", folder / "expanded"
    while True:
        image.write_bytes(_damaged_sparse(layout_of(base, chance), chance))
        proven = is_proven(image)
        if proven:
            raw.unlink(missing_ok=True)
            call("simg2img", image, raw)
            refuse_other(image, raw)
        yield image, proven


def _damaged_sparse(layout: SparseLayout, chance: random.Random) -> bytes:
    chunks = list(layout.chunks)
    for _ in range(chance.choice((0, 0, 1, 2))):  # true to the format, of another image
        at = chance.randrange(len(chunks))
        other = chance.randrange(len(chunks))
        way = chance.randrange(4)
        if way == 0:
            chunks[at], chunks[other] = chunks[other], chunks[at]
        elif way == 1:
            chunks[at] = Chunk(DONT_CARE, chunks[at].blocks)
        elif way == 2:
            chunks[at] = Chunk(FILL, chunks[at].blocks, chance.randbytes(4))
        else:
            chunks.insert(at, Chunk(DONT_CARE, 0))
    data = bytearray(SparseLayout(block=layout.block, chunks=tuple(chunks)).packed())
    starts = [0]
    for chunk in chunks:
        starts.append((starts[-1] or 28) + 12 + len(chunk.payload))
    starts[1:1] = [28]
    for _ in range(chance.choice((0, 1, 1, 2))):
        at = chance.choice(starts[:-1]) + chance.randrange(12)
        data[at] = chance.choice((0, 1, 12, 28, 0x10, 0xC1, 0xC2, 0xC3, 0xC4, 0xFF, data[at] ^ 1))
    way = chance.random()
    if way < 0.1:
        del data[chance.randrange(28, len(data)) :]
    elif way < 0.2:
        data += chance.randbytes(chance.choice((1, 12, 4096)))
    return bytes(data)


# tar: change members, with true checksums and without


def tar_cases(folder: Path, tree: Path, chance: random.Random) -> Iterator[tuple[Path, bool]]:
    """Yield an archive after the other and whether it was proven."""
    bases = []
    for options in PACKINGS:
        archive = folder / "base"
        call("tar", *options.split(), "--numeric-owner", "-cpf", archive, "-C", tree, ".")
        bases.append(_members(archive.read_bytes()))
    image = folder / "system.img"
    for number in itertools.count():
        image.write_bytes(_damaged_tar(list(bases[number % len(bases)]), chance))
        proven = is_proven(image)
        if proven:
            _compare_with_tar(image, folder / "unpacked")
        yield image, proven


def _members(archive: bytes) -> list[bytes]:
    """Return the members of an undamaged archive, each its header, data and padding."""
    members, at = [], 0
    while archive[at : at + 512].strip(b"\0"):
        size = int(archive[at + 124 : at + 135], 8)
        end = at + 512 + -(-size // 512) * 512
        members.append(archive[at:end])
        at = end
    return members


def _damaged_tar(members: list[bytes], chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(members))
        if chance.random() < 0.5:  # one that the proof goes by
            known = [
                n
                for n, each in enumerate(members)
                if any(path.encode() in each[:100] for path in READ)
            ]
            at = chance.choice(known or [at])
        way = chance.randrange(8)
        if way == 0:
            members.insert(chance.randrange(len(members) + 1), members[at])
        elif way == 1:
            del members[at]
        elif way == 2:
            members.append(members.pop(at))
        elif way in (3, 4):
            members.insert(chance.choice((at, len(members))), _odd_member(chance))
        else:
            members[at] = _odd_header(members[at], chance)
        if not members:
            break
    data = bytearray(b"".join(members) + bytes(1024))
    way = chance.random()
    if way < 0.05:
        del data[chance.randrange(len(data)) :]
    elif way < 0.1:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif way < 0.15:
        data += b"".join(members[-2:]) + bytes(1024)  # behind the end
    return bytes(data)


NAMES = [
    name.encode()
    for name in (*tars.NAMES, *READ, "etc/azaion/../azaion/device.conf", "./etc", "..")
]
KINDS = (*b"0012222555xxxLKgXSD67", 0, 255)


def _odd_member(chance: random.Random) -> bytes:
    name = chance.choice((b"", b"./", b"/", b"././")) + chance.choice(NAMES)
    kind = bytes([chance.choice(KINDS)])
    if kind in b"xgX":
        return tars.pax(
            *(_odd_record(chance, name) for _ in range(chance.choice((1, 1, 2)))), kind=kind
        )
    if kind in b"LK":
        return tars.long_name(name + b"\0", kind)
    if kind in b"12":
        return tars.link(name, chance.choice(tars.TARGETS).encode(), kind)
    data = CONF % (chance.choice((b"f" * 32, b"f" * 31))) if kind == b"0" else b""
    return tars.member(name, data, kind, at_100=b"%07o" % chance.choice((0o600, 0o755, 0o4600)))


def _odd_record(chance: random.Random, name: bytes) -> bytes:
    key = chance.choice(
        (
            b"path",
            b"size",
            b"uid",
            b"gid",
            b"linkpath",
            b"mtime",
            b"uname",
            b"GNU.sparse.name",
            b"SCHILY.xattr.user.x",
            b"SCHILY.acl.access",
        )
    )
    value = chance.choice((name, b"0", b"1000", b"86", b"-1", b"99999999999", b"azaion", b"1e3"))
    return tars.record(key, value)


def _odd_header(member: bytes, chance: random.Random) -> bytes:
    block = bytearray(member[:512])
    at, width = chance.choice(
        (
            (0, 100),
            (100, 8),
            (108, 8),
            (116, 8),
            (124, 12),
            (136, 12),
            (156, 1),
            (157, 100),
            (257, 8),
            (265, 32),
            (297, 32),
            (345, 155),
        )
    )
    if chance.random() < 0.5:
        place = at + chance.randrange(width)
        block[place] = chance.choice((0, 32, 47, 46, 48, 49, 55, 56, 128, 255, block[place] ^ 1))
    else:
        raw = chance.choice(
            (
                chance.choice(NAMES),
                b"%07o" % 0o600,
                b"%07o" % 1000,
                b"0",
                b"",
                b"\x80",
                b"ustar  \0",
                b"ustar\x0000",
                b"azaion",
                b"root",
            )
        )
        block[at : at + width] = raw[:width].ljust(width, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + member[512:]


def _compare_with_tar(image: Path, out: Path) -> None:
    """Unpack a proven archive as NVIDIA's script on the device does, and compare."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    done = subprocess.run(
        ["tar", "--xattrs", "-xpf", image, "-C", out],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    for path, ours in read_by_us(image).items():
        status = (out / path).lstat() if (out / path).exists() else None
        if ours is None and status is None:
            continue
        if ours is None or status is None or (out / path).is_symlink():
            raise Difference(f"{path}: {ours}, and tar unpacks {status}: {done.stderr}")
        theirs = FileEntry(
            data=(out / path).read_bytes(),
            mode=status.st_mode & 0o7777,
            uid=status.st_uid,
            gid=status.st_gid,
        )
        if os.geteuid() != 0:
            theirs = FileEntry(data=theirs.data, mode=theirs.mode, uid=ours.uid, gid=ours.gid)
        if ours != theirs:
            raise Difference(f"{path}: {ours}, and tar unpacks {theirs}: {done.stderr}")
    if done.returncode:  # its flash fails, and says so
        raise Unpackable(done.stderr)


RUNS = {"ext4": ext4_cases, "tar": tar_cases, "sparse": sparse_cases}
SHARE = {"ext4": 0.5, "tar": 0.3, "sparse": 0.2}


def run(kind: str, cases: int, seed: int, keep: Path, verbose: bool = True) -> int:
    """Run the cases of one kind; print what was seen and return the number of differences."""
    seen: Counter[str] = Counter()
    chance = random.Random(f"{kind} {seed}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = make_tree(folder / "tree")
        found = RUNS[kind](folder, tree, chance)
        while seen.total() < cases:
            try:
                _, proven = next(found)
                seen["proven" if proven else "refused"] += 1
            except Unpackable as error:
                seen["proven, tar complains"] += 1
                found = RUNS[kind](folder, tree, chance)
                if verbose:
                    print(f"{kind} case {seen.total()}: {error}", file=sys.stderr)
            except (Difference, AssertionError) as error:
                seen["DIFFERENT"] += 1
                print(f"{kind} case {seen.total()}: {error}", file=sys.stderr)
                _keep(folder, keep / f"{kind}-{seed}-{seen.total()}")
                found = RUNS[kind](folder, tree, chance)
    print(f"{kind}: {cases} cases, seed {seed}: {dict(sorted(seen.items()))}")
    return seen["DIFFERENT"]


def _keep(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ("raw", "twin", "sparse", "expanded", "system.img"):
        if (folder / name).exists():
            shutil.copy(folder / name, target)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("kinds", nargs="*", choices=[*RUNS, []], metavar="ext4|tar|sparse")
    options.add_argument("--cases", type=int, default=10_000, help="of all kinds together")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", type=Path, default=Path("differences"))
    args = options.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # e2fsprogs
    kinds = args.kinds or list(RUNS)
    whole = sum(SHARE[kind] for kind in kinds)
    found = [
        run(kind, round(args.cases * SHARE[kind] / whole), args.seed, args.keep) for kind in kinds
    ]
    return 1 if sum(found) else 0


if __name__ == "__main__":
    sys.exit(main())
