"""Write the generated part of docs/reference/hooks.md: every hook, its signature, its promise.

usage: .venv/bin/python tools/write_hooks_guide.py [--check]

Only the text between the two marks is generated. --check writes nothing and exits with 1 if the
page is out of date.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from azaion_imagebuild.pipeline import hookspecs
from azaion_imagebuild.pipeline.plugins import implementers, load_plugins
from azaion_imagebuild.settings import HooksSettings

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "hooks.md"
BEGIN = "<!-- written by tools/write_hooks_guide.py: begin -->"
END = "<!-- end -->"


def main() -> int:
    """Write the page, or check that it is up to date."""
    old = PAGE.read_text()
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n{''.join(generated())}\n{END}{after}"
    if "--check" in sys.argv[1:]:
        return int(old != new)
    PAGE.write_text(new)
    return 0


def generated() -> Iterator[str]:
    """Yield the part for each hook, in the order of the steps."""
    manager = load_plugins(HooksSettings(), required=())
    for number, step in enumerate(hookspecs.EVERY_STEP, 1):
        spec = getattr(hookspecs, step)
        yield f"\n### {number}. {step}\n\n```python\n{signature(step)}\n```\n\n"
        yield inspect.cleandoc(spec.__doc__ or "") + "\n\n"
        first = spec.azaion_imagebuild_spec["firstresult"]
        yield "Called: " + ("plug-ins in turn, until one answers." if first else "every plug-in.")
        if step in hookspecs.REQUIRED:
            yield " A build does not start without one."
        files = [f"`hooks/{Path(file).name}`" for _, file in implementers(manager, step)]
        yield f" Shipped: {', '.join(files) or 'none'}.\n"


def signature(step: str) -> str:
    """Return the signature to copy, on several lines if it is long."""
    shown = inspect.signature(getattr(hookspecs, step))
    line = f"def {step}{shown}".replace("'", "")
    if len(line) <= 88:
        return line
    arguments = "".join(f"    {each},\n".replace("'", "") for each in shown.parameters.values())
    return f"def {step}(\n{arguments})" + f" -> {shown.return_annotation}".replace("'", "")


if __name__ == "__main__":
    sys.exit(main())
