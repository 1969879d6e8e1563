"""A hook of mkdocs: words in code are not broken at a hyphen, or anywhere, if they need not be."""

from __future__ import annotations

import re

INLINE = re.compile(r"(?<!<pre>)(?<!</span>)<code>([^<\n]+)</code>")
WORD = re.compile(r"[^ ]{2,}")
FITS = 28  # letters, even in a column of a table


def on_page_content(html: str, **_: object) -> str:
    """Return a page's HTML; extra.css keeps each marked word on one line."""
    return INLINE.sub(lambda code: f"<code>{WORD.sub(_marked, code[1])}</code>", html)


def _marked(word: re.Match[str]) -> str:
    if len(word[0]) <= FITS:
        return f'<span class="word">{word[0]}</span>'
    return re.sub(r"([_/])(?=\w)", r"\1<wbr>", word[0])
