"""Make the Debian package: a virtual environment in /opt, services, man page, completions.

usage: .venv/bin/python tools/make_deb.py [--wheel FILE] [--out DIR]

The package is for the Debian or Ubuntu release and the architecture of this host: its environment
uses this host's /usr/bin/python3. The wheel's dependencies come from pip's index, at the versions
of dist/requirements.txt if there is one (RELEASING.md). ``debian/`` has the texts. The same inputs
give the same bytes; SOURCE_DATE_EPOCH is honoured.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import licences

from azaion_imagebuild import __version__
from azaion_imagebuild.cli import completion
from azaion_imagebuild.cli.parser import parser
from azaion_imagebuild.l4t.recovery_ids import SUPPORTED, VENDOR

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "debian"
TEMPLATE = ROOT / "templates/imagebuild.toml"
PYTHON = "/usr/bin/python3"
OPT = "opt/azaion-imagebuild"
DOC = "usr/share/doc/azaion-imagebuild"
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/azaion-imagebuild",
    "zsh": "usr/share/zsh/vendor-completions/_azaion-imagebuild",
    "fish": "usr/share/fish/vendor_completions.d/azaion-imagebuild.fish",
}
CONFFILES = ("etc/azaion-imagebuild/imagebuild.toml", "etc/default/azaion-imagebuild")
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH") or "1580601600")  # as hatchling has it
STARTER = f"""\
#!/{OPT}/bin/python -I
import sys
from azaion_imagebuild.__main__ import main
sys.exit(main())
"""
_LIBC = re.compile(r"^Tag: .*manylinux_2_(\d+)_", re.MULTILINE)


def main() -> None:
    """Make the package in ``--out`` and print its path."""
    arguments = argparse.ArgumentParser(description="make the Debian package")
    arguments.add_argument("--wheel", metavar="FILE", type=Path, help="default: build one")
    arguments.add_argument("--out", metavar="DIR", type=Path, default=ROOT / "dist")
    args = arguments.parse_args()
    check_host()
    if args.wheel:
        check_wheel(args.wheel)
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="azaion-deb-") as folder:
        tree = Path(folder, "tree")
        wheel = args.wheel or built_wheel(Path(folder))
        add_environment(tree, wheel.resolve())
        add_files(tree)
        add_control(tree)
        settle_times(tree)
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f"azaion-imagebuild_{__version__}_{architecture()}.deb"
        os.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)
        output("dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, path)
    print(path)


def check_host() -> None:
    """End with an error if this host cannot make the package."""
    if shutil.which("dpkg-deb") is None:
        fail("dpkg-deb is not installed", "make the package on Debian or Ubuntu")
    if not Path(PYTHON).is_file():
        fail(f"{PYTHON} is not installed", "sudo apt-get install python3")
    if python_version() < (3, 10):
        fail(f"{PYTHON} is older than Python 3.10", "use Debian 12, Ubuntu 22.04 or newer")


def check_wheel(wheel: Path) -> None:
    """End with an error if a wheel is not of this checkout's version, which the package gets."""
    if not wheel.is_file():
        fail(f"{wheel} is not there", "build it, or leave --wheel out")
    if wheel.name.split("-")[1:2] != [__version__]:
        fail(f"{wheel.name} is not of this checkout's version, {__version__}",
             "check out the wheel's version, or leave --wheel out")  # fmt: skip


def fail(error: str, hint: str) -> None:
    """End with an error and what to do."""
    print(f"error: {error}\nhint: {hint}", file=sys.stderr)
    raise SystemExit(2)


def python_version() -> tuple[int, int]:
    """Return major and minor version of the host's Python, which the package needs."""
    major, minor = output(PYTHON, "-c", "import sys; print(*sys.version_info[:2])").split()
    return int(major), int(minor)


def architecture() -> str:
    """Return this host's architecture as Debian calls it."""
    return output("dpkg", "--print-architecture")


def output(*argv: object) -> str:
    """Return what a program prints."""
    return run(*argv, stdout=subprocess.PIPE).strip()


def run(*argv: object, stdout: int | None = None) -> str:
    """Run a program, which prints its own errors; end with an error if it fails."""
    command = list(map(str, argv))
    done = subprocess.run(command, check=False, stdout=stdout, text=True)
    if done.returncode:
        fail(f"exit code {done.returncode} of {shlex.join(command)}", "what it says is above")
    return done.stdout or ""


def built_wheel(folder: Path) -> Path:
    """Return the wheel of this checkout."""
    pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def pip(*argv: object, python: Path | None = None) -> None:
    """Run our environment's pip, for another Python if one is given."""
    chosen = ("--python", python) if python else ()
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    run(sys.executable, "-m", "pip", *chosen, *argv, *quiet)


def add_environment(tree: Path, wheel: Path) -> None:
    """Add the environment with the wheel, every extra and all that they need."""
    home = tree / OPT
    run(PYTHON, "-m", "venv", "--without-pip", home)
    pinned = ROOT / "dist/requirements.txt"
    versions = ("--constraint", pinned) if pinned.is_file() else ()
    pip("install", "--no-compile", *versions, f"{wheel}[all]", python=home / "bin/python")
    for path in (home / "bin").iterdir():
        if not path.is_symlink():  # scripts name the folder where they were built
            path.unlink()
    starter = home / "bin/azaion-imagebuild"
    starter.write_text(STARTER)
    starter.chmod(0o755)
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for folder in ("include", "share"):
        shutil.rmtree(home / folder, ignore_errors=True)
    (packages,) = home.glob("lib/python3*/site-packages")
    forget_the_build(packages)
    # compiled here: nothing may appear in /opt later, which dpkg would not know
    run(PYTHON, "-m", "compileall", "-q", "-s", tree, "-p", "/",
        "--invalidation-mode", "unchecked-hash", packages, stdout=subprocess.DEVNULL)  # fmt: skip


def forget_the_build(packages: Path) -> None:
    """Remove what names the folder of this build, and from the lists what is not there."""
    for path in packages.glob("*.dist-info/direct_url.json"):
        path.unlink()
    for record in packages.glob("*.dist-info/RECORD"):
        lines = record.read_text().splitlines(keepends=True)
        there = [each for each in lines if (packages / each.partition(",")[0]).exists()]
        record.write_text("".join(each for each in there if not each.startswith("../")))


def add_files(tree: Path) -> None:
    """Add what the system looks for outside /opt, and the documentation."""
    link = tree / "usr/bin/azaion-imagebuild"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"/{OPT}/bin/azaion-imagebuild")
    for shell, path in COMPLETIONS.items():
        write(tree / path, completion.script(parser(), shell) + "\n")
    packed(tree / "usr/share/man/man1/azaion-imagebuild.1.gz", ROOT / "docs/azaion-imagebuild.1")
    packed(tree / DOC / "changelog.gz", ROOT / "CHANGELOG.md")
    for unit in sorted(SOURCE.glob("*.service")):
        write(tree / "usr/lib/systemd/system" / unit.name, unit.read_text())
    for path, text in {
        CONFFILES[0]: TEMPLATE.read_text(),
        CONFFILES[1]: (SOURCE / "default").read_text(),
        "usr/share/azaion-imagebuild/imagebuild.toml": TEMPLATE.read_text(),
        f"{DOC}/copyright": "\n".join(copyright_lines(tree)) + "\n",
        f"{DOC}/examples/60-azaion-imagebuild.rules": "\n".join(udev_rules()) + "\n",
        f"{DOC}/examples/station-as-root.conf": (SOURCE / "station-as-root.conf").read_text(),
    }.items():
        write(tree / path, text)
    (tree / CONFFILES[0]).chmod(0o640)  # it may get a password


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def packed(path: Path, source: Path) -> None:
    """Write a file packed by gzip, the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(source.read_bytes(), mtime=0))


def udev_rules() -> Iterator[str]:
    """Yield the lines of the example rule: who may open a Jetson in recovery mode."""
    yield "# Off by default. NVIDIA's scripts run as root and need no rule. For a plug-in that"
    yield "# flashes as the services' user: copy this to /etc/udev/rules.d/, then reload udev."
    for product, jetson in SUPPORTED.items():
        yield f"# {jetson.name}"
        yield (
            f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{VENDOR}", ATTR{{idProduct}}=="{product}",'
            ' GROUP="azaion-imagebuild", MODE="0660"'
        )


def copyright_lines(tree: Path) -> Iterator[str]:
    """Yield Debian's copyright file: our licence, and that of each package in /opt."""
    (packages,) = (tree / OPT).glob("lib/python3*/site-packages")
    yield "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    yield "Upstream-Name: azaion-imagebuild"
    yield "Comment: The packages that it imports are in /opt/azaion-imagebuild, unchanged, each"
    yield " with the text of its licence (lib/python3*/site-packages/NAME-VERSION.dist-info):"
    installed = licences.by_name(distributions(path=[str(packages)]))
    for name, package in sorted(installed.items()):
        if name != licences.NAME:
            yield f" {name} {package.version}: {licences.licence_of(package)}"
    text = (ROOT / "LICENSE").read_text()
    holder = re.search(r"^Copyright \(c\) (.+)$", text, re.MULTILINE)
    yield from ("", "Files: *", f"Copyright: {holder[1] if holder else ''}", "License: MIT")
    yield from (f" {line}" if line else " ." for line in text.strip().splitlines())


def add_control(tree: Path) -> None:
    """Add the package's description, its conffiles, and the scripts that dpkg runs."""
    major, minor = python_version()
    control = string.Template((SOURCE / "control").read_text()).substitute(
        version=__version__, architecture=architecture(), size=size_in_kib(tree),
        python=f"{major}.{minor}", next_python=f"{major}.{minor + 1}", libc=libc(tree),
    )  # fmt: skip
    write(tree / "DEBIAN/control", control)
    write(tree / "DEBIAN/conffiles", "".join(f"/{path}\n" for path in CONFFILES))
    for name in ("postinst", "prerm", "postrm"):
        write(tree / "DEBIAN" / name, (SOURCE / name).read_text())
        (tree / "DEBIAN" / name).chmod(0o755)


def size_in_kib(tree: Path) -> int:
    """Return what the files take when installed, in KiB."""
    sizes = (path.lstat().st_size for path in tree.rglob("*") if path.is_file())
    return sum(-(-size // 1024) for size in sizes)


def libc(tree: Path) -> str:
    """Return the libc that the newest of the wheels was built for."""
    tags = "".join(path.read_text() for path in tree.rglob("*.dist-info/WHEEL"))
    return f"2.{max(map(int, _LIBC.findall(tags)), default=17)}"


def settle_times(tree: Path) -> None:
    """Give everything the same time."""
    for path in (tree, *tree.rglob("*")):
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


if __name__ == "__main__":
    main()
