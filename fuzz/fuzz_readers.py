"""Damaged input for every reader: whatever the bytes, an answer or an operator's error, and soon.

usage: python fuzz/fuzz_readers.py [--cases 1000000] [--seed 1] [--keep FOLDER] [READER ...]

Mutates valid inputs by a seed, needs no other library, and shares the cases among the readers. Ends
with 1 and keeps the input if a reader raises anything else, takes over 10 seconds or 512 MiB.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

import tar_making as tars
from image_making import mke2fs, sparse
from ledgers import entry, flashed

from azaion_imagebuild.admin_api.account_id import NoId, find_id
from azaion_imagebuild.admin_api.client import refuse
from azaion_imagebuild.config.loading import load
from azaion_imagebuild.errors import OperatorError
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.placeholder import is_placeholder, placeholder
from azaion_imagebuild.identity.serial import parse_serial
from azaion_imagebuild.identity.serial_list import expanded, read_list
from azaion_imagebuild.images import CorruptImage, indexed, open_filesystem
from azaion_imagebuild.images.ext4 import Ext4
from azaion_imagebuild.images.locate import locate
from azaion_imagebuild.images.magic import format_by_magic
from azaion_imagebuild.images.sparse import SparseReader
from azaion_imagebuild.images.tar import Tar
from azaion_imagebuild.l4t import chip_id, firmware, recovery_ids, releases, usb
from azaion_imagebuild.ledger import Ledger, chain
from azaion_imagebuild.ledger.entry import FIELDS, Entry, odd_values
from azaion_imagebuild.loader import diagnosis
from azaion_imagebuild.model import DEVICE_CONF, Build
from azaion_imagebuild.report import write_report
from azaion_imagebuild.rootfs.accounts import Accounts, UnknownAccount
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import BspSettings, DeviceConfSettings, Settings
from azaion_imagebuild.system.http import Reply

LIMIT = 65536
LONGEST = 10  # seconds
MEMORY = 512 << 20
EMAIL = "azaion-jetson-0042@azaion.com"
CONF = f"AZAION_DEVICE_EMAIL={EMAIL}\nAZAION_DEVICE_PASSWORD={'0123456789abcdef' * 2}\n".encode()
EXPECTED = (CorruptImage, OperatorError, NoId, UnknownAccount, device_conf.MalformedDeviceConf)


@dataclass(frozen=True)
class Reader:
    """Something that reads what others wrote."""

    read: Callable[[bytes], object]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    """What the format gives a meaning to."""
    weight: float = 1.0
    """The part of the cases that it gets."""


def fuzz(name: str, reader: Reader, cases: int, seed: int, keep: Path) -> int:
    """Run the cases of one reader; print what was seen and return the number of faults."""
    chance = random.Random(f"{name} {seed}")
    answered = faults = 0
    slowest, began = 0.0, time.monotonic()
    for number in range(cases):
        data = mutated(reader, chance)
        start = time.process_time()
        try:
            with limited():
                reader.read(data)
            answered += 1
        except EXPECTED:
            pass
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            faults += 1
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{seed}-{number}").write_bytes(data)
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(
                f"{name} case {number}: {error!r} at {where.filename}:{where.lineno}",
                file=sys.stderr,
            )
        slowest = max(slowest, time.process_time() - start)
    spent = time.monotonic() - began
    print(
        f"{name}: {cases} cases, seed {seed}: {answered} answered, {faults} faults, slowest"
        f" {slowest:.3f} s, {spent:.0f} s",
        flush=True,
    )
    return faults


class TooLong(BaseException):
    """A reader that does not come to an end."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Let a reader use some seconds of the processor, not of the clock."""

    def stop(*_: object) -> None:
        raise TooLong(f"over {LONGEST} s")

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


ODD = (
    b"",
    b"\0",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"=",
    b":",
    b",",
    b";",
    b'"',
    b"'",
    b"\\",
    b"-",
    b"..",
    b"/",
    b"%",
    b"#",
    b"[",
    b"]",
    b"{",
    b"}",
    b"<",
    b">",
    b"$",
    b"0",
    b"-1",
    b"9" * 30,
    b"1e999",
    b"NaN",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"\x1b[2J",
)
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(reader: Reader, chance: random.Random) -> bytes:
    """Return a valid input with one to six changes, or noise."""
    if chance.random() < 0.02:
        return chance.randbytes(chance.randrange(2000))
    data = bytearray(chance.choice(reader.seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        way = chance.randrange(9)
        if way == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif way == 1:
            data[at : at + chance.choice((0, 1, 2, 4))] = chance.choice(ODD)
        elif way == 2:
            data[at:at] = chance.choice(reader.words or ODD)
        elif way == 3:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice((*NUMBERS, chance.getrandbits(8 * width)))
            data[at : at + width] = (number & (256**width - 1)).to_bytes(width, "little")
        elif way == 4:
            del data[at : at + chance.choice((1, 2, 8, 64, 512))]
        elif way == 5:
            piece = data[at : at + chance.choice((1, 8, 64, 512))]
            data[at:at] = piece * chance.choice((1, 2, 50 if len(piece) < 64 else 2))
        elif way == 6:
            other = chance.choice(reader.seeds)
            start = chance.randrange(len(other) + 1)
            data[at : at + 64] = other[start : start + chance.choice((4, 64, 512))]
        elif way == 7:
            data[at : at + 4] = chance.choice(reader.words or ODD)
        elif chance.random() < 0.3:
            del data[at:]
    return bytes(data)


# Images


def image(data: bytes) -> None:
    """Do with an image all that is ever done; each of the four has its own chance to fail."""
    for read in (
        lambda stream: open_filesystem(stream).read_file(DEVICE_CONF, LIMIT),
        lambda stream: [None for _ in open_filesystem(stream).entries()],
        lambda stream: locate(stream, DEVICE_CONF),
    ):
        with contextlib.suppress(CorruptImage):
            read(io.BytesIO(data))


def listed(kind: Callable[[io.BytesIO], Any]) -> Callable[[bytes], None]:
    """Return a reader of one format, whatever the magic number says."""

    def read(data: bytes) -> None:
        filesystem = kind(io.BytesIO(data))
        for path in (DEVICE_CONF, "etc/passwd", "a/../b"):
            with contextlib.suppress(CorruptImage):
                filesystem.read_file(path, LIMIT)
        for _ in filesystem.entries():
            continue

    return read


def image_seeds(folder: Path) -> dict[str, list[bytes]]:
    """Make small images of every format."""
    conf = folder / "tree" / DEVICE_CONF
    conf.parent.mkdir(parents=True)
    conf.write_bytes(CONF)
    (folder / "tree/etc/passwd").write_text("root:x:0:0::/:/bin/sh\nazaion:x:1000:1000::/:/x\n")
    (folder / "tree/link").symlink_to("etc/azaion")
    formats = ["--format=gnu", "--format=posix --xattrs", "--format=ustar", "--format=oldgnu"]
    archives = []
    for options in formats:
        argv = ["tar", *options.split(), "--numeric-owner", "-cf", "-", "-C", folder / "tree", "."]
        archives.append(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout[:-8192])
    pax = tars.pax(tars.record(b"path", b"a"), tars.record(b"size", b"3"))
    archives.append(
        pax + tars.NEW_MEMBER + tars.long_name(b"x" * 120 + b"\0") + tars.NEW_MEMBER + tars.END
    )
    options = ["-t ext4 -b 1024 -N 16 -O ^has_journal", "-t ext2 -b 1024 -N 16 -I 128"]
    raws = [
        mke2fs(folder / f"raw-{n}", each, "128k", folder / "tree").read_bytes()
        for n, each in enumerate(options)
    ]
    return {"tar": archives, "ext4": raws, "sparse": [sparse(each) for each in raws]}


def summed(read: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Give every header of an archive a valid checksum before it is read."""

    def call(data: bytes) -> object:
        block = bytearray(data)
        for at in range(0, len(block) - 511, 512):
            if block[at + 257 : at + 262] == b"ustar":
                block[at + 148 : at + 156] = b" " * 8
                block[at + 148 : at + 156] = b"%06o\0 " % sum(block[at : at + 512])
        return read(bytes(block))

    return call


def zstd_readers(archives: list[bytes]) -> dict[str, Reader]:
    """Return a reader of compressed images, where the library and zstd(1) are there."""
    if shutil.which("zstd") is None:
        return {}
    with contextlib.suppress(ImportError):
        from azaion_imagebuild.images import zstd

        def unpacked(data: bytes) -> None:
            stream = zstd.Unpacked(io.BytesIO(data), largest=1 << 22)
            while stream.read(1 << 16):
                continue

        done = subprocess.run(
            ["zstd", "-q", "-c"], input=archives[0], capture_output=True, check=False
        )
        if done.returncode == 0:
            many = b"".join(
                subprocess.run(
                    ["zstd", "-q", "-c", *options], input=part, capture_output=True, check=True
                ).stdout
                for options, part in (
                    (["--no-check"], archives[0][:3000]),
                    (["-19"], archives[0][3000:]),
                )
            )
            words = (zstd.MAGIC, b"\x50\x2a\x4d\x18\x04\0\0\0abcd", b"\x01\0\0", b"\xfd\xff\xff")
            seeds = [done.stdout, many]
            return {
                "zstd": Reader(unpacked, seeds, words),
                "zstd image": Reader(image, seeds, words, 0.3),
            }
    return {}


# Texts


def in_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a reader of a file with these bytes."""

    def call(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return call


def accounts(data: bytes) -> None:
    passwd, _, group = data.partition(b"\n\n")
    found = Accounts.parse(passwd, group)
    found.resolve("root", None)
    found.resolve("azaion", "azaion")


def answer(data: bytes) -> None:
    """Judge the answers of an admin API and of a Loader."""
    reply = Reply(
        status=200 + 100 * (len(data) % 4), location=data[:80].decode("latin-1"), body=data
    )
    reply.excerpt()
    for judge in (diagnosis.of_health, diagnosis.of_login):
        failed = judge(reply, ("locked", "error"))
        assert failed is None or failed.message.isprintable()
    found = reply.json()
    for path in ("id", "items.id", "data.user.id"):
        with contextlib.suppress(NoId):
            account, _ = find_id(found, path, EMAIL, "email")
            assert not set(account) & set("/?#% \\")
    refuse(reply, (200,), "POST /users", "check it")


def serials(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    parse_serial(text)


def ranges(data: bytes) -> None:
    for count, _ in enumerate(expanded(data.decode("utf-8", "replace"))):
        if count > 1000:
            return


def jetsons(folder: Path) -> Callable[[bytes], object]:
    """Return a reader of what the kernel shows of USB devices and of a board's configuration."""
    device = folder / "sysfs/1-3"
    device.mkdir(parents=True)

    def call(data: bytes) -> None:
        parts = [*data.split(b"|"), b"", b"", b"", b"", b""]
        for name, part in zip(
            ("idVendor", "idProduct", "busnum", "devpath", "serial"), parts, strict=False
        ):
            (device / name).write_bytes(part)
        usb.no_device(folder / "sysfs")
        (folder / "board.conf").write_bytes(data)
        for each in usb.nvidia_devices(folder / "sysfs"):
            recovery_ids.mismatch(each.product, "board", folder, {})

    return call


def layouts(folder: Path) -> Callable[[bytes], object]:
    """Return a reader of the flash layout that flash.sh filled in, and of NVIDIA's texts."""
    tree = folder / "tree-of-bsp"
    (tree / "bootloader/cfg").mkdir(parents=True)
    (tree / "rootfs/etc").mkdir(parents=True)
    build = Build(
        serial="AZJN-0042",
        email=EMAIL,
        attempt="a",
        settings=Settings(bsp=BspSettings(board="board", partition_xml="bootloader/cfg/l.xml")),
        rootfs_dir=tree / "rootfs",
        bsp_dir=tree,
        log_dir=folder,
        stamps=False,
    )

    def call(data: bytes) -> None:
        (tree / firmware.BUILT_LAYOUT).write_bytes(data)
        (tree / "board.conf").write_bytes(data)
        (tree / "bootloader/cfg/l.xml").write_bytes(data)
        list(firmware.preflight_findings(tree, build))
        list(firmware.built_findings(tree, build))
        (tree / releases.RELEASE_FILE.join(("rootfs/", ""))).write_bytes(data)
        releases.release_name(tree / "rootfs")
        chip_id.read_chip_id(tree / firmware.BUILT_LAYOUT)

    return call


def notes(folder: Path) -> Callable[[bytes], object]:
    """Return a reader of the note beside a tar image."""
    image = folder / "system.img"
    image.write_bytes(tars.OLD_MEMBER + tars.END)
    indexed.read_file(image, DEVICE_CONF, LIMIT)
    (note,) = folder.glob(".system.img*")

    def call(data: bytes) -> None:
        note.write_bytes(data)
        note.chmod(0o600)
        found = indexed.read_file(image, DEVICE_CONF, LIMIT)
        assert found is not None
        assert found.data == tars.CONF

    return call


def note_seed(folder: Path) -> bytes:
    (note,) = folder.glob(".system.img*")
    return note.read_bytes()


def rows(data: bytes) -> None:
    """Look at a row with a value of any kind in any column."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(values, list):
        row = Entry(**dict(zip(FIELDS, [*values, *[None] * len(FIELDS)], strict=False)))
        if not odd_values(row):
            row.hash_after(1, "0" * 64)


def ledgers(folder: Path) -> tuple[Callable[[bytes], object], bytes]:
    """Return a reader of a SQLite file with damaged bytes, and a good one."""
    file = folder / "ledger.sqlite3"
    with Ledger(f"sqlite:///{file}") as ledger:
        ledger.write(entry("AZJN-0001"))
        ledger.write(flashed())
    good = file.read_bytes()

    def call(data: bytes) -> None:
        for beside in folder.glob("ledger.sqlite3*"):
            beside.unlink()
        file.write_bytes(data)
        with Ledger(f"sqlite:///{file}", create=False) as ledger:
            list(chain.check(ledger))
            list(ledger.attempts())

    return call, good


def records(folder: Path) -> Callable[[bytes], object]:
    """Return a reader of a fleet's records, as the report gets them from plug-ins and stations."""

    def call(data: bytes) -> None:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(found, list):
            fleet = {
                "records": [each for each in found if isinstance(each, dict)],
                "total": 3,
                "began": "2026-11-23T17:00:00Z",
                "ended": "2026-11-23T17:10:12Z",
                "seconds": 4.0,
                "outcome": "incomplete",
                "exit_code": 10,
                "sandbox": False,
                "command": "fleet",
            }
            write_report(folder, fleet)

    return call


RECORD = {
    "serial": "AZJN-0042",
    "email": EMAIL,
    "outcome": "failed",
    "step": "flash",
    "error": "no",
    "hint": "x",
    "exit_code": 7,
    "seconds": 1.5,
    "steps": {"flash": 1.0},
    "usb_instance": "1-3",
    "attempt": "a",
    "image": "a.img",
    "flashed": False,
    "log": "x.log",
    "at": "2026-11-23T17:00:00Z",
}
ROW = [getattr(flashed(), name) for name in FIELDS]
XML = (
    b'<partition_layout version="1"><device type="spi" instance="0">\n'
    b'<partition name="mb1" type="mb1_bootloader"><!-- x --><size> 512 </size>'
    b"<filename> mb1.bin </filename></partition>\n"
    b'<partition name="APP" type="data"><filename></filename></partition>\n'
    b"</device></partition_layout>\n"
    b'EMMC_CFG="l.xml";\nMB1FILE="bootloader/mb1.bin";\nsource "${LDK_DIR}/board.conf"\n'
    b"# R35 (release), REVISION: 3.1, GCID: 0\nBR_CID: 0x88021911644705DF1172C0D0121FF0C0\n"
)
TOML = (ROOT / "templates/imagebuild.toml").read_bytes()
TOML_SET = re.sub(rb"(?m)^# ?([a-z_]+ = )", rb"\1", TOML)


def readers(folder: Path) -> dict[str, Reader]:
    """Return every reader by its name; the files that they need are made in ``folder``."""
    seeds = image_seeds(folder)
    archives, raws, packed = seeds["tar"], seeds["ext4"], seeds["sparse"]
    disk = (
        bytes(446)
        + b"\0\0\0\0\x83\0\0\0\1\0\0\0\xff\0\0\0"
        + bytes(48)
        + b"\x55\xaaEFI PART"
        + bytes(4096)
    )
    lists = folder / "lists"
    lists.mkdir()
    note, (ledger, good) = notes(folder), ledgers(folder)
    settings = lambda path: load({}, {}, path)  # noqa: E731
    template = lambda path: device_conf.template_of(DeviceConfSettings(template=path))  # noqa: E731
    return {
        "tar": Reader(
            listed(Tar),
            archives,
            (b"ustar", b"x", b"L", b"K", b"g", b"25 path=etc/azaion/x\n"),
            3.0,
        ),
        "tar, valid sums": Reader(
            summed(listed(Tar)), archives, (b"ustar", b"x", b"L", b"S", b"\x80", b"\xff"), 3.0
        ),
        "ext4": Reader(listed(Ext4), raws, weight=0.4),
        "sparse": Reader(listed(lambda stream: Ext4(SparseReader(stream))), packed, weight=0.2),
        "image": Reader(image, [*archives, *raws, *packed], weight=0.2),
        "magic and disks": Reader(
            lambda data: format_by_magic(io.BytesIO(data)),
            [disk, *archives, *raws],
            (b"EFI PART", b"PK\x03\x04", b"\x1f\x8b", b"\x53\xef", b"LUKS\xba\xbe"),
            2.0,
        ),
        **zstd_readers(archives),
        "device.conf": Reader(
            device_conf.parse, [CONF, b"# x\n\n" + CONF], (b"AZAION_DEVICE_EMAIL=",), 4.0
        ),
        "placeholder": Reader(is_placeholder, [placeholder(), CONF], weight=0.5),
        "template": Reader(
            in_file(folder / "template", template),
            [b"AZAION_DEVICE_EMAIL=${email}\nAZAION_DEVICE_PASSWORD=${password}\n"],
            (b"${", b"}", b"${serial}", b"${email}"),
        ),
        "serial": Reader(serials, [b"AZJN-0042", b"a-b-c-1"], weight=4.0),
        "range": Reader(ranges, [b"AZJN-0001..AZJN-0100", b"A-1 .. A-9"], (b"..", b"0" * 99), 3.0),
        "serial list": Reader(
            in_file(lists / "l.txt", lambda path: read_list(str(path))),
            [b"AZJN-0001\nAZJN-0002..AZJN-0009\n# x\n", b"A-1\r\nA-2\rA-3"],
            (b"..", b"\r"),
        ),
        "CSV": Reader(
            in_file(lists / "l.csv", lambda path: read_list(str(path))),
            [b'serial,usb_instance\nAZJN-0001,1-3\n"AZJN-0002",\n'],
            (b'"', b"serial", b",", b"\r\n"),
        ),
        "settings": Reader(
            in_file(folder / "imagebuild.toml", settings),
            [TOML_SET, b'[serial]\npattern = "A-[0-9]+"\n[bsp]\nargs = ["-x"]\nboard = "b"\n'],
            (b"[", b'"""', b"= ", b"\n[hooks]\n", b"true", b"1979-05-27"),
            0.3,
        ),
        "API answer": Reader(
            answer,
            [
                b'{"id": 7, "email": "%s"}' % EMAIL.encode(),
                b'{"items": [{"id": "a-b"}]}',
                b'{"error": "not the resource api", "status": "error"}',
                b"<html>x</html>",
            ],
            (b"[" * 999, b'"id":', b"null", b"\\u0000", b"&#x30;", b"%30"),
        ),
        "accounts": Reader(
            accounts,
            [b"root:x:0:0::/:/bin/sh\nazaion:x:1000:1000::/:/x\n\nazaion:x:1000:\n"],
            (b":", b"4294967295", b"azaion:"),
            4.0,
        ),
        "flash layout": Reader(
            layouts(folder), [XML], (b"<partition", b"<!--", b"</partition>", b"<filename>"), 0.5
        ),
        "recovery id": Reader(
            jetsons(folder),
            [b"0955|7523|1|3|0", b"0955|7020|1|3|1421019123456\n"],
            (b"0955", b"|", b"+p3767", b"/p3767.conf.common"),
            0.5,
        ),
        "note of a tar": Reader(
            note, [note_seed(folder)], (b"null", b'"files"', b"1e9", b"{}"), 0.3
        ),
        "ledger row": Reader(
            rows, [json.dumps(ROW).encode()], (b"null", b"true", b"1e99", b'"x"', b"[]"), 3.0
        ),
        "ledger file": Reader(ledger, [good], weight=0.03),
        "records": Reader(
            records(folder / "report"),
            [json.dumps([RECORD, RECORD]).encode()],
            (b"null", b"NaN", b"1e99", b'"done"', b'"unknown"', b"[]", b"{}"),
            0.1,
        ),
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("readers", nargs="*", metavar="READER", help="default: all")
    options.add_argument("--cases", type=int, default=1_000_000, help="of all readers together")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", type=Path, default=Path("faults"))
    args = options.parse_args()
    secrets = [
        Secret("0123456789abcdef" * 2),
        Secret("token-that-nobody-sees"),
    ]  # answers are redacted
    keep = args.keep.absolute()
    logging.disable()  # warnings of labels that look odd
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)  # no imagebuild.toml of this folder counts
        known = readers(Path(name))
        if unknown := set(args.readers) - set(known):
            options.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        chosen = {each: known[each] for each in args.readers or known}
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        whole = sum(each.weight for each in chosen.values())
        faults = sum(
            fuzz(each, reader, max(1, round(args.cases * reader.weight / whole)), args.seed, keep)
            for each, reader in chosen.items()
        )
    del secrets
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
