"""A hook of mkdocs: no short word in code (`--out`, `AZJN-0042`) is broken at a hyphen."""

from __future__ import annotations

import re

INLINE = re.compile(r"(?<!<pre>)(?<!</span>)<code>([^<\n]+)</code>")
SHORT = re.compile(r"(?<![^ ])[^ ]{2,28}(?![^ ])")


def on_page_content(html: str, **_: object) -> str:
    """Return a page's HTML; extra.css keeps each marked word on one line."""
    return INLINE.sub(_marked, html)


def _marked(code: re.Match[str]) -> str:
    words = SHORT.sub(r'<span class="word">\g<0></span>', code[1])
    return f"<code>{words}</code>"
