"""What an operator reads names no file that a wheel leaves behind in the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import azaion_imagebuild

PACKAGE = Path(azaion_imagebuild.__file__).parent
ROOT = PACKAGE.parent
NVIDIA = PACKAGE / "sandbox/Linux_for_Tegra"
FOLDERS = "docs|hooks|templates|tests|benchmarks|fuzz|tools"
OF_THE_SOURCE = re.compile(rf"(?<![\w./-])(?:(?:{FOLDERS})/[\w./-]*\w|[\w./-]+\.md|Makefile)\b")
MAKE = re.compile(r"\bmake (?:image|fleet|test|check|docs|clean|deb)\b")


def texts() -> Iterator[tuple[Path, str]]:
    """Yield what can be shown: string constants, except docstrings; templates as they are."""
    for folder in (PACKAGE, ROOT / "hooks"):
        for path in folder.rglob("*.py"):
            if NVIDIA not in path.parents and "__pycache__" not in path.parts:
                yield from ((path, text) for text in constants(ast.parse(path.read_text())))
    for path in (ROOT / "templates").rglob("*"):
        if path.is_file():
            yield path, path.read_text("utf-8")


def constants(tree: ast.Module) -> Iterator[str]:
    statements = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    docstrings = {id(value) for value in statements if isinstance(value, ast.Constant)}
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and id(node) not in docstrings:
            yield value


def test_no_message_names_a_file_of_the_source() -> None:
    """`make …` neither: the pair "--flag (VARIABLE=)" serves both, a wheel has no Makefile."""
    found = {
        (str(path.relative_to(ROOT)), match[0])
        for path, text in texts()
        for match in (*OF_THE_SOURCE.finditer(text), *MAKE.finditer(text))
        if not match[0].startswith("tools/") or (ROOT / match[0]).exists()  # NVIDIA has tools/, too
    }
    assert found == set()
