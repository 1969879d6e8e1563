"""The build backend's hook: the package's description is README, with links that lead somewhere.

The one setting is ``source`` in pyproject.toml, the address of the project's public repository:
README's relative links become links to the release's tag there, and the project's URLs come from
it, too. While it is empty, a link becomes its text: a relative link leads nowhere on a package's
page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(
    r"```.*?```"  # a block of code stays as it is
    r"|(?P<image>!?)\[(?P<text>[^]]*)\]\((?![a-z]+:|#)(?P<path>[^)\s]+)\)",
    re.DOTALL,
)


class Metadata(MetadataHookInterface):
    """Sets what pyproject.toml calls dynamic: ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Complete the ``[project]`` table; ``version`` is already in it."""
        source, version = str(self.config["source"]).rstrip("/"), metadata["version"]
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = with_links(readme, source, version)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls(source, version)


def with_links(text: str, source: str, version: str) -> str:
    """Return Markdown with each relative link made absolute, or as its text if there is no source.

    The paths are those of GitHub and GitLab.
    """

    def link(found: re.Match[str]) -> str:
        if found["path"] is None:
            return found[0]
        if not source:
            return found["text"]
        kind = "raw" if found["image"] else "blob"
        return f"{found['image']}[{found['text']}]({source}/{kind}/v{version}/{found['path']})"

    return _LINK.sub(link, text)


def urls(source: str, version: str) -> dict[str, str]:
    """Return the project's URLs for the package's metadata."""
    if not source:
        return {}
    return {
        "Source": source,
        "Documentation": f"{source}/blob/v{version}/docs/index.md",
        "Changelog": f"{source}/blob/v{version}/CHANGELOG.md",
        "Issues": f"{source}/issues",
    }
