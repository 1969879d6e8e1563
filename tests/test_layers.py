"""The house: a module imports lower floors only; one place each for processes, HTTP, printing."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import azaion_imagebuild

PACKAGE = Path(azaion_imagebuild.__file__).parent
ROOT = PACKAGE.parent

FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "",
            "errors",
            "secret",
            "resources",
            "trust",
            "signals",
            "manual",
            "visible",
            "value",
            "new_file",
        }
    ),
    frozenset(
        {
            "model",
            "settings",
            "identity",
            "usb",
            "placeholder",
            "account_id",
            "contract",
            "log_files",
            "events",
        }
    ),
    frozenset(
        {
            "process",
            "http_client",
            "rootfs",
            "device_conf",
            "accounts",
            "images",
            "locks",
            "ledger",
            "serials",
            "attempt_log",
        }
    ),
    frozenset(
        {
            "api_transport",
            "admin_api",
            "diagnosis",
            "loader",
            "proof",
            "configuration",
            "hookspecs",
            "leftovers",
            "places",
            "residue",
            "stamping",
            "tracing",
            "state",
        }
    ),
    frozenset(
        {
            "bsp",
            "staging",
            "completeness",
            "overlay",
            "api_probe",
            "credentials",
            "scripts",
            "trees",
            "host",
            "exports",
            "wrapper",
        }
    ),
    frozenset({"flashing", "clearing", "placing", "lane_trees", "report", "fuses", "escrow"}),
    frozenset({"bases", "lanes", "targets"}),
    frozenset({"plugins", "verification", "smoke", "attempt", "observing"}),
    frozenset({"pipeline"}),
    frozenset({"sandbox"}),
    frozenset({"progress"}),
    frozenset({"builds", "records"}),
    frozenset({"stamps", "rotation"}),
    frozenset({"fleet"}),
    frozenset({"stations"}),
    frozenset({"displays"}),
    frozenset({"console", "completion"}),
    frozenset({"options", "stdout"}),
    frozenset({"grammar"}),
    frozenset({"commands"}),
    frozenset({"cli"}),
    frozenset({"__main__", "testing"}),
)
HOOKS_MAY_IMPORT = 6


def floor(module: str) -> int:
    (found,) = (number for number, names in enumerate(FLOORS) if module in names)
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> set[str]:
    """Return the modules of this package, and the top names of others, that a file imports."""
    found = set()
    depth = len(path.relative_to(PACKAGE).parts) if path.is_relative_to(PACKAGE) else 0
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == depth and depth:
                names = [module.split(".")[0]] if module else [a.name for a in node.names]
                found |= {f".{name}" for name in names if not name.startswith("__")}
            elif module.split(".")[0] == "azaion_imagebuild":
                rest = module.split(".")[1:]
                found |= {f".{rest[0]}"} if rest else {f".{a.name}" for a in node.names}
            elif not node.level:
                found.add(module.split(".")[0])
    return found


def modules() -> list[Path]:
    return [p for p in PACKAGE.rglob("*.py") if p.parent.name not in ("hooks", "templates")]


def test_a_module_imports_lower_floors_only() -> None:
    for path in modules():
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        own = "" if parts == ("__init__",) else parts[0]
        for name in imports(path):
            if name.startswith(".") and name[1:] != own and name != ".hookimpl":
                assert floor(name[1:]) <= floor(own), f"{path} imports {name}"


def test_hooks_import_the_lower_floors_and_hookimpl_only() -> None:
    for path in (ROOT / "hooks").glob("*.py"):
        for name in imports(path):
            if name.startswith(".") and name != ".hookimpl":
                assert floor(name[1:]) <= HOOKS_MAY_IMPORT, f"{path} imports {name}"


def test_one_module_each_starts_processes_and_speaks_http() -> None:
    users = {name: {p.name for p in modules() if name in imports(p)}
             for name in ("subprocess", "requests", "urllib3")}  # fmt: skip
    assert users == {
        "subprocess": {"process.py"},
        "requests": {"http_client.py"},
        "urllib3": {"http_client.py"},
    }


def test_nobody_but_the_command_line_prints_or_exits() -> None:
    for path in modules():
        if path.name in ("cli.py", "stdout.py", "console.py", "__main__.py"):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "exit"), f"{path}:{node.lineno}"
