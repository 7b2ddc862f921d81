"""How a mail is made and handed over: plain text and HTML from one template.

A template under `templates/mail/` is the HTML; its title is the subject and its text, read
tag by tag, the plain part. Which mail is due, and to whom, stands in `portal.announcements`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from textwrap import fill
from typing import Any

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string

PARAGRAPHS = frozenset(("p", "h1", "ul", "table", "pre", "blockquote", "footer"))
LINES = frozenset(("li", "tr", "br"))


@dataclass(frozen=True)
class Mail:
    """A composed mail. `html` and `text` say the same."""

    to: Sequence[str]
    subject: str
    text: str
    html: str


def compose(name: str, to: Iterable[str], context: Mapping[str, Any]) -> Mail:
    """Renders `templates/mail/<name>.html`. The context gets the site's name and address."""
    html = render_to_string(
        f"mail/{name}.html",
        {
            "site_name": settings.SITE_NAME,
            "site_url": settings.SITE_URL,
            "gateway_url": settings.GATEWAY_URL,
            **context,
        },
    )
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return Mail(to=list(to), subject=reader.subject, text=reader.text, html=html)


def send(mail: Mail) -> None:
    """Hands the mail to the mail server. Raises what the backend raises (OSError, SMTP errors)."""
    message = EmailMultiAlternatives(subject=mail.subject, body=mail.text, to=mail.to)
    message.attach_alternative(mail.html, "text/html")
    message.send()


class _Reader(HTMLParser):
    """Reads a mail's HTML as plain text: paragraphs, lines, and addresses after their words."""

    def __init__(self) -> None:
        super().__init__()
        self._title: list[str] = []
        self._body: list[str] = []
        self._into: list[str] | None = None
        self._href = ""
        self._link_start = 0
        self._label = False  # in the first cell of a row, which says what the second is

    @property
    def subject(self) -> str:
        return " ".join("".join(self._title).split())

    @property
    def text(self) -> str:
        """Paragraphs between empty lines, broken at 76 characters; an address is never broken."""
        paragraphs = []
        for paragraph in "".join(self._body).split("\f"):
            lines = [" ".join(line.split()) for line in paragraph.split("\v")]
            wrapped = [
                fill(line, 76, break_long_words=False, break_on_hyphens=False)
                for line in lines
                if line
            ]
            if wrapped:
                paragraphs.append("\n".join(wrapped))
        return "\n\n".join(paragraphs) + "\n"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._into = self._title
        elif tag == "body":
            self._into = self._body
        elif tag in PARAGRAPHS:
            self._body.append("\f")
        elif tag in LINES:
            self._body.append("\v")
            self._label = tag == "tr"
        elif tag == "a":
            self._href = dict(attrs).get("href") or ""
            self._link_start = len(self._body)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("title", "body"):
            self._into = None
        elif tag in PARAGRAPHS:
            self._body.append("\f")
        elif tag == "td":
            self._body.append(": " if self._label else " ")
            self._label = False
        elif tag == "a" and self._href not in "".join(self._body[self._link_start :]):
            self._body.append(f":\v{self._href}\v")

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            # The separators of paragraphs and lines are ours alone.
            self._into.append(re.sub(r"[\f\v]", " ", data))
