"""Stamping images of 1 to 64 GB, beside the floor of the disk and what a user would do instead.

One run, in turn: our stamp and its proof (raw, Android sparse, at the first size a tar), the bare
write of the same 512 bytes, debugfs, a loop mount (as root), guestfish (where installed), building
the image again, and whole processes. The images are sparse files that hold a tree of real files.

With ``--tars`` only tars are stamped, of so many files each: walked through, and remembered; with
``--packed`` those that zstd packed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from msgspec import structs

from azaion_imagebuild import images
from azaion_imagebuild.identity import device_conf
from azaion_imagebuild.identity.placeholder import padded, placeholder
from azaion_imagebuild.identity.serial import email_for
from azaion_imagebuild.images import indexed, tar_index
from azaion_imagebuild.images.sha1sum import renew_sha1
from azaion_imagebuild.images.slot import ensure_packed_slot
from azaion_imagebuild.images.stamp import opened_for_stamping
from azaion_imagebuild.images.version import Version
from azaion_imagebuild.model import DEVICE_CONF, DEVICE_CONF_MODE, FileEntry
from azaion_imagebuild.operations import stamp as stamps
from azaion_imagebuild.proof.identity import Expected, prove
from azaion_imagebuild.sandbox.bsp import TREE
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import PLACEHOLDER_SIZE, Settings

os.environ["PATH"] += ":/usr/sbin:/sbin"
os.environ["LIBGUESTFS_BACKEND"] = "direct"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed tool has its bytecode

SERIAL = "AZJN-0042"
EMAIL = email_for(SERIAL)
PASSWORD = "00112233445566778899aabbccddeeff"
_CONF = f"AZAION_DEVICE_EMAIL={EMAIL}\nAZAION_DEVICE_PASSWORD={PASSWORD}\n"
DATA = padded(_CONF.encode(), PLACEHOLDER_SIZE)
OWNER = (os.getuid(), os.getgid())
NEEDED = 8 << 30  # bytes of free disk; the images are mostly holes

STAMP, SPARSE = "stamp + proof, raw", "stamp + proof, sparse"
TAR_FIRST, TAR = "stamp + proof, tar, first", "stamp + proof, tar, remembered"
TAR_FIRST_ALL, TAR_ALL = "stamp(), owner too, tar, first", "stamp(), owner too, tar, remembered"
SHA1 = "renewing system.img.sha1sum"
WRITE, REWRITE = "write alone, over a placeholder", "write alone, over an identity"
FSYNC, FDATASYNC = "floor: pwrite + fsync", "floor: pwrite + fdatasync"
DEBUGFS, MOUNT = "debugfs: rm, write, sif", "loop mount, cp, umount"
GUESTFISH, REBUILD = "guestfish upload", "rebuild: mke2fs -d"
TOOL, SCRIPT = "process: azaion-imagebuild stamp", "process: Python script, loop mount"
SCRIPT_TOO = "process: the same, with our imports"
BARE, IMPORTS = "process: python -c pass", "process: python -c 'import' of our modules"
OUR_IMPORTS = "import azaion_imagebuild.cli.commands.stamp, azaion_imagebuild.operations.stamp"
STARTS = {BARE: "pass", IMPORTS: OUR_IMPORTS}
SETTLED = 0.01  # seconds: the file's time changes with the next write, as for a single stamp

LOOP_SCRIPT = """
import shutil, subprocess, sys
image, conf, folder, path = sys.argv[1:]
subprocess.run(["mount", "-o", "loop", image, folder], check=True)
try:
    shutil.copy(conf, f"{folder}/{path}")
finally:
    subprocess.run(["umount", folder], check=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to put the identity into an image."""

    name: str
    rounds: int
    run: Callable[[], float]
    """Returns its seconds; what it has to prepare is not in them."""
    image: Path | None = None
    """Holds ``before`` before each round, untimed, and must be proven after it."""
    before: bytes = placeholder()


def main() -> None:
    """Measure, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 64], help="in GB")
    parser.add_argument("--fast-rounds", type=int, default=201, help="of ours and of the floor")
    parser.add_argument("--rounds", type=int, default=31, help="of debugfs and the loop mount")
    parser.add_argument("--slow-rounds", type=int, default=21, help="of processes and the tar")
    parser.add_argument("--rebuilds", type=int, default=3)
    parser.add_argument("--files", type=int, default=20_000, help="in the tree")
    parser.add_argument("--tars", type=int, nargs="+", metavar="FILES", help="nothing but tars")
    parser.add_argument("--packed", action="store_true", help="the tars by zstd")
    parser.add_argument("--from", dest="source", type=Path, default=Path("/usr"), metavar="FOLDER",
                        help="whose smaller files are copied")  # fmt: skip
    options = parser.parse_args()
    if shutil.disk_usage(".").free < NEEDED:
        sys.exit(f"less than {NEEDED >> 30} GB of disk are free here")
    cases: dict[int, list[Case]] = {}
    with tempfile.TemporaryDirectory(dir=".", prefix="stamp-") as name:
        folder = Path(name).resolve()
        if options.tars:
            print(table(measure(prepare_tars(folder, options)), "files"))
            return
        make_tree(folder / "tree", options.source, options.files)
        for size in options.sizes:
            own = folder / f"{size}"
            own.mkdir()
            cases[size] = prepare(own, folder / "tree", size, options, with_tar=not cases)
        times = measure(cases)
    print(table(times))
    print(ratios(times))


def make_tree(tree: Path, source: Path, files: int) -> None:
    """Copy the first ``files`` small files of ``source``; add a placeholder, passwd and group."""
    small = (
        Path(parent, name)
        for parent, folders, names in os.walk(source)
        for name in ordered(folders, names)
        if is_small(Path(parent, name))
    )
    copied = size = 0
    for path in islice(small, files):
        target = tree / path.relative_to("/" if path.is_absolute() else ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        copied, size = copied + 1, size + path.stat().st_size
    if copied < files:
        sys.exit(f"{source} holds {copied} small files only: give another folder by --from")
    conf = tree / DEVICE_CONF
    conf.parent.mkdir(parents=True)
    conf.write_bytes(placeholder())
    conf.chmod(DEVICE_CONF_MODE)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    print(f"the tree: {copied:,} files of {source}, {size / 1e6:.0f} MB")


def ordered(folders: list[str], names: list[str]) -> list[str]:
    """Return the names in order; os.walk() then takes the folders in order too."""
    folders.sort()
    return sorted(names)


def is_small(path: Path) -> bool:
    """Tell if it is a readable regular file of up to 16 KB."""
    return not path.is_symlink() and path.is_file() and path.stat().st_size <= 16384


def prepare(
    folder: Path, tree: Path, size: int, options: argparse.Namespace, *, with_tar: bool
) -> list[Case]:
    """Make the images of one size; return what to measure on them."""
    raw, sparse, tar, conf = (folder / name for name in ("raw", "sparse", "tar", "conf"))
    conf.touch(0o600)
    conf.write_bytes(DATA)
    (folder / "mounted").mkdir()
    make_ext4(tree, raw, size)
    mksparse = [sys.executable, f"{TREE}/bootloader/mksparse", "--fillpattern=0"]
    run([*mksparse, str(raw), str(sparse)])
    if with_tar:
        pack(tree, tar)
    os.sync()  # or the first rounds would wait for these images to be written
    print(f"{size} GB: {raw.stat().st_blocks * 512 / 1e6:.0f} MB of data in the raw image,"
          f" {sparse.stat().st_size / 1e6:.0f} MB in the sparse one")  # fmt: skip
    print(f"{size} GB: peak memory of Python's allocations, raw {memory(raw):.3f} MB,"
          f" sparse {memory(sparse):.3f} MB"
          f"{f', tar {memory(tar):.3f} MB' if with_tar else ''}")  # fmt: skip

    fast, quick, slow = options.fast_rounds, options.rounds, options.slow_rounds
    cases = [
        Case(name=STAMP, rounds=fast, image=raw, run=lambda: timed(lambda: stamp(raw))),
        Case(name=SPARSE, rounds=fast, image=sparse, run=lambda: timed(lambda: stamp(sparse))),
        Case(name=WRITE, rounds=fast, image=raw, run=lambda: write(raw)),
        Case(name=REWRITE, rounds=fast, image=raw, run=lambda: write(raw), before=DATA),
        Case(name=FSYNC, rounds=fast, image=raw, run=lambda: floor(raw, os.fsync)),
        Case(name=FDATASYNC, rounds=fast, image=raw, run=lambda: floor(raw, os.fdatasync)),
    ]
    if with_tar:
        cases += of_tar(tar, fast, slow)
    tool = Path(sys.executable).with_name("azaion-imagebuild")
    commands = {
        DEBUGFS: (quick, ["debugfs", "-w", "-f", str(debugfs_script(folder)), str(raw)]),
        TOOL: (slow, [str(tool), "stamp", str(raw), "--serial", SERIAL, "--device-conf", str(conf),
                      "--owner", str(OWNER[0]), "--state-dir", str(folder / "state")]),
    }  # fmt: skip
    if os.geteuid() == 0:
        copied = [str(conf), str(folder / "mounted"), DEVICE_CONF]
        for name, script in ((SCRIPT, LOOP_SCRIPT), (SCRIPT_TOO, OUR_IMPORTS + LOOP_SCRIPT)):
            commands[name] = slow, [sys.executable, "-c", script, str(raw), *copied]
        mount = lambda: timed(lambda: mount_and_copy(raw, conf, folder / "mounted"))  # noqa: E731
        cases.append(Case(name=MOUNT, rounds=quick, image=raw, run=mount))
    else:
        print("not root: no loop mount")
    if shutil.which("guestfish"):
        there = f"/{DEVICE_CONF}"
        upload = f"run : mount /dev/sda / : upload {conf} {there} : chmod 0600 {there}".split()
        commands[GUESTFISH] = 3, ["guestfish", "--format=raw", "-a", str(raw), *upload]
    else:
        print("guestfish is not installed")
    for name, (rounds, command) in commands.items():
        run_it = lambda command=command: timed(lambda: run(command))  # noqa: E731
        cases.append(Case(name=name, rounds=rounds, image=raw, run=run_it))
    for name, code in STARTS.items():
        start = lambda code=code: timed(lambda: run([sys.executable, "-c", code]))  # noqa: E731
        cases.append(Case(name=name, rounds=slow, run=start))
    rebuild = lambda: timed(lambda: make_ext4(tree, folder / "rebuilt", size))  # noqa: E731
    cases.append(Case(name=REBUILD, rounds=options.rebuilds, run=rebuild))
    return cases


def prepare_tars(folder: Path, options: argparse.Namespace) -> dict[int, list[Case]]:
    """Make tars of some numbers of files; return what to measure on them, by that number."""
    cases: dict[int, list[Case]] = {}
    conf = folder / "conf"
    conf.touch(0o600)
    conf.write_bytes(DATA)
    for files in options.tars:
        own = folder / f"{files}"
        make_tree(own / "tree", options.source, files)
        image = own / "system.img"
        pack(own / "tree", image)
        shutil.rmtree(own / "tree")
        if options.packed:
            pack_by_zstd(image)
        image.with_name("system.img.sha1sum").touch()
        print(f"{files} files: {image.stat().st_size / 1e6:.0f} MB of tar,"
              f" peak memory of Python's allocations {memory(image):.3f} MB")  # fmt: skip
        cases[files] = [
            *of_tar(image, options.fast_rounds, options.slow_rounds),
            *of_command(image, conf, options.fast_rounds, options.slow_rounds),
            floor_of(image, options.fast_rounds),
        ]
    os.sync()
    return cases


def pack(tree: Path, tar: Path) -> None:
    """Pack the tree as NVIDIA's initrd flash does."""
    run(["tar", "--xattrs", "--numeric-owner", "-cpf", str(tar), "-C", str(tree), "."])
    flush(tar)


def pack_by_zstd(tar: Path) -> None:
    """Pack the archive as R36.4 does, and then again, as when it becomes a base."""
    packed = tar.with_name("packed")
    run(["zstd", "-q", "-T0", str(tar), "-o", str(packed)])
    packed.replace(tar)
    with opened_for_stamping(tar, 0, lambda path, fd: ensure_packed_slot(path, fd, OWNER)):
        pass
    flush(tar)


def of_tar(tar: Path, fast: int, slow: int) -> list[Case]:
    """Return the cases of a stamp and its proof: walked through, and remembered."""
    again = lambda: timed(lambda: stamp(tar))  # noqa: E731
    return [
        Case(name=TAR_FIRST, rounds=slow, image=tar, run=lambda: forgotten(tar, again)),
        Case(name=TAR, rounds=fast, image=tar, run=again),
    ]


def of_command(tar: Path, conf: Path, fast: int, slow: int) -> list[Case]:
    """Return the cases of all that the command ``stamp`` does in its process, and of a SHA-1."""
    owner = structs.replace(Settings().device_conf, owner=str(OWNER[0]))
    settings = structs.replace(Settings(), device_conf=owner)
    image = tar.with_name("of-command")
    shutil.copy(tar, image)  # without a .sha1sum
    call = lambda: timed(lambda: command(image, conf, settings))  # noqa: E731
    return [
        Case(name=TAR_FIRST_ALL, rounds=slow, image=image, run=lambda: forgotten(image, call)),
        Case(name=TAR_ALL, rounds=fast, image=image, run=call),
        Case(name=SHA1, rounds=slow, run=lambda: timed(lambda: renewed(tar))),
    ]


def floor_of(image: Path, rounds: int) -> Case:
    """Return the case of the bare write."""
    return Case(name=FSYNC, rounds=rounds, image=image, run=lambda: floor(image, os.fsync))


def command(image: Path, conf: Path, settings: Settings) -> None:
    """Do what the command does, with given credentials: owner, place, stamp and proof."""
    stamps.stamp_given(image, SERIAL, settings, conf)


def forgotten(image: Path, again: Callable[[], float]) -> float:
    """Time it as if it were the first time."""
    tar_index.forget(image)
    return again()


def renewed(image: Path) -> None:
    """Make the SHA-1 beside the image true."""
    now = Version.of(image)
    unknown = structs.replace(now, size=-1)  # nothing is kept of it: all is read
    assert renew_sha1(image, now.size, unknown, now)


def make_ext4(tree: Path, image: Path, size: int) -> None:
    """Build a raw image of ``size`` GB that holds the tree; what is there already is replaced."""
    image.unlink(missing_ok=True)
    run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(image), f"{size}G"])
    flush(image)  # an image to be flashed is on the disk


def measure(cases: dict[int, list[Case]]) -> dict[int, dict[str, float]]:
    """Run the cases in turn, each on all sizes; return the median seconds by size and name."""
    names = [case.name for case in next(iter(cases.values()))]
    in_turn = [
        (size, case)
        for name in names
        for size, of_size in cases.items()
        for case in of_size
        if case.name == name
    ]
    times: dict[tuple[int, str], list[float]] = {}
    for number in range(max(case.rounds for _, case in in_turn)):
        for size, case in in_turn:
            if number < case.rounds:
                times.setdefault((size, case.name), []).append(once(case))
    return {
        size: {case.name: statistics.median(times[size, case.name]) for case in of_size}
        for size, of_size in cases.items()
    }


def once(case: Case) -> float:
    """Run a case once, between what is not timed."""
    if case.image is None:
        return case.run()
    with opened_for_stamping(case.image, 0) as image:
        image.write(case.before)
    flush(case.image)
    time.sleep(SETTLED)
    seconds = case.run()
    check(case.image)
    return seconds


def flush(path: Path) -> None:
    """Write all of a file to the disk."""
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)


def stamp(path: Path) -> None:
    """Do ours: find, write and prove."""
    with opened_for_stamping(path, 0) as image:
        image.write(DATA)
    check(path, indexed.read_file)


def check(
    path: Path, read: Callable[[Path, str, int], FileEntry | None] = images.read_file
) -> None:
    """Prove that the image carries the identity; nothing that is remembered is believed."""
    entry = read(path, DEVICE_CONF, device_conf.LONGEST)
    secret = Secret(PASSWORD)
    assert not list(prove(entry, str(path), Expected(email=EMAIL, owner=OWNER, password=secret)))


def write(path: Path) -> float:
    """Write, ours, into an image that is open and located."""
    with opened_for_stamping(path, 0) as image:
        return timed(lambda: image.write(DATA))


def floor(path: Path, sync: Callable[[int], None]) -> float:
    """Write the same bytes to the same place and wait for the disk; nothing else."""
    with opened_for_stamping(path, 0) as image:
        (place,) = image.location.ranges
    descriptor = os.open(path, os.O_RDWR)
    try:
        begin = time.perf_counter()
        os.pwrite(descriptor, DATA, place.offset)
        sync(descriptor)
        return time.perf_counter() - begin
    finally:
        os.close(descriptor)


def debugfs_script(folder: Path) -> Path:
    """Write the script that replaces device.conf."""
    path, script = f"/{DEVICE_CONF}", folder / "debugfs.script"
    script.write_text(
        f"rm {path}\nwrite {folder / 'conf'} {path}\n"
        f"sif {path} uid {OWNER[0]}\nsif {path} gid {OWNER[1]}\nsif {path} mode 0100600\n"
    )
    return script


def mount_and_copy(image: Path, conf: Path, folder: Path) -> None:
    """Do as an operator would who is root."""
    run(["mount", "-o", "loop", str(image), str(folder)])
    try:
        run(["cp", str(conf), str(folder / DEVICE_CONF)])
    finally:
        run(["umount", str(folder)])


def run(command: list[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        sys.exit(f"{command} failed ({done.returncode}): {done.stderr.decode(errors='replace')}")


def timed(function: Callable[[], None]) -> float:
    """Return the seconds of a call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def memory(path: Path) -> float:
    """Return the peak MB that Python allocates for one stamp with its proof."""
    stamp(path)
    tracemalloc.start()
    stamp(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def table(times: dict[int, dict[str, float]], unit: str = "GB") -> str:
    """Return the medians as a table in Markdown."""
    sizes = list(times)
    lines = [
        f"| milliseconds | {' | '.join(f'{size:,} {unit}' for size in sizes)} | last / first |",
        f"|{' --- |' * (len(sizes) + 2)}",
    ]
    for name in times[sizes[0]]:
        row = [times[size].get(name) for size in sizes]
        cells = [f"{each * 1e3:,.2f}" if each else "" for each in row]
        first, last = row[0], row[-1]
        flat = f"{last / first:.2f}" if first and last else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {flat} |")
    return "\n".join(lines)


def ratios(times: dict[int, dict[str, float]]) -> str:
    """Return the medians of interest, divided."""
    pairs = [(WRITE, FSYNC), (WRITE, FDATASYNC), (REWRITE, FSYNC), (REWRITE, FDATASYNC)]
    pairs += [(STAMP, FSYNC), (SPARSE, FSYNC)]
    pairs += [(other, STAMP) for other in (DEBUGFS, MOUNT, GUESTFISH, REBUILD)]
    pairs += [(TOOL, each) for each in (SCRIPT, SCRIPT_TOO, IMPORTS, BARE)]
    lines = []
    for over, under in pairs:
        if all(name in next(iter(times.values())) for name in (over, under)):
            row = (f"{size} GB {each[over] / each[under]:.2f}" for size, each in times.items())
            lines.append(f"({over}) / ({under}): {', '.join(row)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
