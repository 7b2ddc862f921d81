"""Shows the descriptions of OpenAPI documents: the little of CommonMark that they use.

Paragraphs, lists, `code`, **bold** and links to the web. Everything is escaped first and HTML in
a description stays text, so that a seller's document can't put a script on the page.
"""

import re

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

BULLET = re.compile(r"[-*] +")
INLINE = re.compile(
    r"`(?P<code>[^`\n]+)`"
    r"|\*\*(?P<bold>[^*\n]+)\*\*"
    r"|\[(?P<text>[^\]\n]+)\]\((?P<url>https?://[^\s()]+)\)"
)


def html(text: str) -> SafeString:
    """The text as HTML of paragraphs and lists."""
    blocks = re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip())
    return mark_safe("".join(_block(block) for block in blocks if block))  # noqa: S308, escaped


def inline(text: str) -> SafeString:
    """The text as HTML within one line, for a cell or a heading."""
    return mark_safe(_inline(" ".join(text.split())))  # noqa: S308, escaped


def _block(block: str) -> str:
    lines = block.split("\n")
    if all(BULLET.match(line) for line in lines):
        items = "".join(f"<li>{_inline(BULLET.sub('', line, count=1))}</li>" for line in lines)
        return f"<ul>{items}</ul>"
    return f"<p>{_inline(block.lstrip('# '))}</p>"


def _inline(text: str) -> str:
    return INLINE.sub(_marked, escape(text))


def _marked(found: re.Match[str]) -> str:
    if found["code"]:
        return f"<code>{found['code']}</code>"
    if found["bold"]:
        return f"<strong>{found['bold']}</strong>"
    return f'<a href="{found["url"]}" rel="nofollow">{found["text"]}</a>'
