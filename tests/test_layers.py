"""The house: a package imports only packages below it; one place each for processes and HTTP."""

from __future__ import annotations

import ast
import graphlib
from functools import cache
from pathlib import Path

import pytest

import azaion_imagebuild

PACKAGE = Path(azaion_imagebuild.__file__).parent
ROOT = PACKAGE.parent

LAYERS = """
    system
    config
    identity
    rootfs images admin_api loader ledger
    proof
    l4t
    lanes pipeline sandbox
    operations report testing
    fleet
    stations
    page
    cli
"""
"""The packages, lowest first; those in one line do not import each other."""

RANKS = {name: rank for rank, line in enumerate(LAYERS.split("\n")) for name in line.split()}
HIGHEST_FOR_HOOKS = "operations"
"""What a plug-in may import, besides ``hookimpl``, lies below this package."""

NAMES_ALL = {PACKAGE / "__main__.py", PACKAGE / "__init__.py"}
"""The ways in, from a shell and from Python: both import late what lies above them."""

MOST_AT_THE_ROOT = 10
LONGEST_MODULE = 450


def modules() -> list[Path]:
    """Return our modules; ``hooks`` and ``templates`` are there in a wheel only."""
    return [p for p in PACKAGE.rglob("*.py") if p.parent.name not in ("hooks", "templates")]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path, *, for_types: bool = True) -> frozenset[str]:
    """Return the full names of what a file imports: ``azaion_imagebuild.images.ext4``, ``ssl``."""
    found = set()
    left_out = set() if for_types else set(imported_for_types(path))
    own = ("azaion_imagebuild", *path.relative_to(PACKAGE).parts) if in_package(path) else ()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node not in left_out:
            above = own[: -node.level] if node.level else ()
            start = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return frozenset(found)


def imported_for_types(path: Path) -> list[ast.AST]:
    branches = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.If))
    hints = [each for each in branches if ast.unparse(each.test) == "TYPE_CHECKING"]
    return [node for branch in hints for node in ast.walk(branch)]


def in_package(path: Path) -> bool:
    return path.is_relative_to(PACKAGE)


def package_of(name: str) -> str:
    """Return which of our packages a full name is in; "" for the root and what is not ours."""
    parts = name.split(".")
    return parts[1] if parts[0] == "azaion_imagebuild" and parts[1] in RANKS else ""


def arrows() -> list[tuple[Path, str, str]]:
    """Return (file, its package, package that it imports), between packages only."""
    found = []
    for path in modules():
        parts = path.relative_to(PACKAGE).parts
        own = parts[0] if len(parts) > 1 else ""
        found += [(path, own, to) for to in map(package_of, imports(path)) if to and to != own]
    return found


def test_every_package_has_its_place() -> None:
    assert {p.parent.name for p in PACKAGE.glob("*/__init__.py")} == set(RANKS)


def test_a_package_imports_only_packages_below_it() -> None:
    assert [
        f"{path} imports {to}"
        for path, own, to in arrows()
        if path not in NAMES_ALL and RANKS[to] >= RANKS.get(own, -1)
    ] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {
        ".".join(("azaion_imagebuild", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in modules()
        if path not in NAMES_ALL
    }
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {
        name: {
            full if full in names else full.rpartition(".")[0]
            for full in imports(path, for_types=False)
        }
        for name, path in names.items()
    }
    list(graphlib.TopologicalSorter(graph).static_order())  # raises a CycleError that names it


def test_the_root_holds_only_what_everybody_uses() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_ROOT


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_one_noun(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


def test_hooks_import_what_lies_below_the_operations() -> None:
    for path in (ROOT / "hooks").glob("*.py"):
        for to in filter(None, map(package_of, imports(path))):
            assert RANKS[to] < RANKS[HIGHEST_FOR_HOOKS], f"{path} imports {to}"


def test_one_module_each_starts_processes_and_speaks_http() -> None:
    users = {
        library: {
            str(path.relative_to(PACKAGE))
            for path in modules()
            if any(name.split(".")[0] == library for name in imports(path))
        }
        for library in ("subprocess", "requests", "urllib3")
    }
    assert users == {
        "subprocess": {"system/process.py"},
        "requests": {"system/http.py", "system/proxy.py"},
        "urllib3": {"system/http.py"},
    }


def test_only_the_command_line_prints_or_exits() -> None:
    for path in modules():
        if path.is_relative_to(PACKAGE / "cli") or path.name == "__main__.py":
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "exit"), f"{path}:{node.lineno}"
