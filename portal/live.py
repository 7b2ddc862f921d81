"""Parts of a page that a browser asks for again and again: sent only when they changed.

A poll carries `seen`, the marks of the parts that the browser shows. A poll to which nothing
is new is answered with 204, which htmx leaves alone: no flicker, no lost focus or selection.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
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


def context(parts: list[Part], poll_url: str) -> dict[str, Any]:
    """What a page needs to show its parts and to ask for news of them at `poll_url`."""
    return {
        "parts": {part.name: part for part in parts},
        "poll_url": poll_url,
        "marks": ".".join(part.mark for part in parts),
    }


def answer(request: HttpRequest, parts: list[Part], poll_url: str) -> HttpResponse:
    """The answer to a poll: the parts that look different from what the browser shows."""
    seen = request.GET.get("seen", "").split(".")
    changed = [part for part in parts if part.mark not in seen]
    if not changed:
        return HttpResponse(status=204)
    news = {**context(parts, poll_url), "changed": changed}
    return render(request, "dashboard/_live.html", news)
