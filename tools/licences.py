"""The licences of what this tool imports, read from the installed packages; never GPL or AGPL.

usage: .venv/bin/python tools/licences.py > docs/reference/licences.md
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAME = "azaion-imagebuild"
EXTRAS = ("", "station", "escrow", "page", "otel", "testing")
"""What users install; ``dev`` and ``docs`` are for those who change the tool."""
UNKNOWN = "unknown"

_CLASSIFIER = re.compile(r"License ::(?: OSI Approved ::)? (.+)")
_FORBIDDEN = re.compile(r"(?<!L)GPL|(?<!Lesser )General Public|Affero", re.IGNORECASE)
_PAGE = """\
# Licences

For whoever must approve what runs on a build host.

<!-- Written by tools/licences.py: change the dependencies, not this page. -->

azaion-imagebuild has the MIT licence. It contains no code of the packages below, it only imports
them; the Debian package installs them, too. Licences are as each package states them. A test
refuses GPL and AGPL.

| package | licence | needed for |
| --- | --- | --- |
"""


def main() -> None:
    """Print the page; a package with a licence that we do not take ends it."""
    installed = by_name(distributions())
    needed = reasons(installed)
    if refused := sorted(name for name in needed if is_forbidden(licence_of(installed[name]))):
        raise SystemExit(f"error: GPL or AGPL: {', '.join(refused)}")
    print(_PAGE + "\n".join(rows(installed, needed)))


def rows(installed: Mapping[str, Distribution], needed: Mapping[str, str]) -> Iterator[str]:
    """Yield a row of the table for each package that is needed."""
    for name in sorted(needed):
        yield f"| {name} | {licence_of(installed[name])} | {needed[name]} |"


def by_name(found: Iterable[Distribution]) -> dict[str, Distribution]:
    """Return packages by their names; the first on the path counts."""
    result: dict[str, Distribution] = {}
    for each in found:
        result.setdefault(canonicalize_name(each.metadata["Name"]), each)
    return result


def reasons(installed: Mapping[str, Distribution]) -> dict[str, str]:
    """Return what is needed directly or by another package, and for what, by name."""
    result: dict[str, str] = {}
    for extra in EXTRAS:
        for name in closure(installed, NAME, extra):
            result.setdefault(name, f"extra `{extra}`" if extra else "always")
    del result[NAME]
    return result


def closure(installed: Mapping[str, Distribution], name: str, *extras: str) -> set[str]:
    """Return the names of a package and of what it needs, as far as it is installed."""
    seen: set[tuple[str, str]] = set()
    left = [(name, extra) for extra in ("", *extras)]
    while left:
        name, extra = each = left.pop()
        if each in seen or name not in installed:
            continue
        seen.add(each)
        for requirement in required(installed[name], extra):
            wanted = canonicalize_name(requirement.name)
            left += [(wanted, more) for more in ("", *requirement.extras)]
    return {name for name, _ in seen}


def direct(installed: Mapping[str, Distribution], extra: str) -> set[str]:
    """Return the names of what pyproject.toml names for an extra, or always."""
    return {canonicalize_name(each.name) for each in required(installed[NAME], extra)}


def required(package: Distribution, extra: str) -> Iterator[Requirement]:
    """Yield what a package requires on this Python, for an extra or always."""
    for each in map(Requirement, package.requires or ()):
        if each.marker is None or each.marker.evaluate({"extra": extra}):
            yield each


def licence_of(package: Distribution) -> str:
    """Return a package's licence as its metadata states it: SPDX where it has that."""
    about = package.metadata
    for expression in about.get_all("License-Expression") or []:
        return str(expression)
    classes = about.get_all("Classifier") or []
    named = [found[1] for each in classes if (found := _CLASSIFIER.fullmatch(each))]
    texts = (*(about.get_all("License") or []), *_texts(package))
    return " AND ".join(named) or next((text.strip().partition("\n")[0] for text in texts), UNKNOWN)


def _texts(package: Distribution) -> Iterator[str]:
    """Yield the texts of a package's licence files."""
    names = tuple(package.metadata.get_all("License-File") or ())
    for path in package.files or ():
        if names and str(path).endswith(names):
            yield path.read_text(encoding="utf-8")


def is_forbidden(licence: str) -> bool:
    """Tell whether we must not import code with this licence."""
    return bool(_FORBIDDEN.search(licence)) or licence.lower() == UNKNOWN


if __name__ == "__main__":
    main()
