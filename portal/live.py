"""Parts of a page that a browser asks for again and again: sent only when they changed.

A poll carries `seen`, the marks of the parts that the browser shows. A poll to which nothing
is new is answered with 204, which htmx leaves alone: no flicker, no lost focus or selection.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from django.http import HttpRequest
from django.utils.safestring import SafeString, mark_safe

# The browser keeps relative times up to date by itself (static/js/keystile.js).
_RELATIVE_TIME = re.compile(r"(<time\b[^>]*\bdata-ago\b[^>]*>)[^<]*")


@dataclass(frozen=True)
class Part:
    """A rendered piece of a page, with an id (`live-<name>`) under which it is replaced."""

    name: str
    html: SafeString

    @classmethod
    def of(cls, name: str, rendered: str) -> "Part":
        return cls(name, mark_safe(rendered.strip()))  # noqa: S308  # a template's output

    @property
    def mark(self) -> str:
        """Names what the part shows; relative times don't count."""
        still = _RELATIVE_TIME.sub(r"\1", self.html)
        return f"{self.name}-{hashlib.sha256(still.encode()).hexdigest()[:12]}"


def marks(parts: Iterable[Part]) -> str:
    """What the next poll sends as `seen`."""
    return ".".join(part.mark for part in parts)


def changed(parts: Iterable[Part], request: HttpRequest) -> list[Part]:
    """The parts that look different from what the browser shows."""
    seen = request.GET.get("seen", "").split(".")
    return [part for part in parts if part.mark not in seen]
