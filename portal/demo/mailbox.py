"""The demo's mailbox: the mails that the site wrote into its folder, for whoever tries it out.

Exists only in a demo on loopback whose mails go to files (`settings.MAILBOX`); 404 elsewhere.
Everything in a mail is somebody else's text: it is shown escaped, and its HTML only under a
policy of its own that runs nothing and loads nothing.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from csp.constants import NONE, UNSAFE_INLINE
from csp.decorators import csp
from django.conf import settings
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

# What Django’s file backend writes after each mail.
SEPARATOR = b"\n" + b"-" * 79 + b"\n"
NAME = re.compile(r"\d{8}-\d{6}-\d+\.log")
PER_PAGE = 30


@dataclass(frozen=True)
class Letter:
    """One mail of the folder. `name` is that of its file without the ending."""

    name: str
    sent_at: datetime
    message: EmailMessage

    @property
    def to(self) -> str:
        return str(self.message["To"])

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def text(self) -> str:
        return self._part("plain")

    @property
    def html(self) -> str:
        return self._part("html")

    def _part(self, kind: str) -> str:
        part = self.message.get_body(preferencelist=(kind,))
        return part.get_content() if part is not None else ""


def _read(path: Path) -> Letter:
    raw, _, _ = path.read_bytes().partition(SEPARATOR)
    message = message_from_bytes(raw, policy=policy.default)
    if not isinstance(message, EmailMessage):
        raise TypeError("The default policy makes EmailMessage.")
    return Letter(path.stem, datetime.fromtimestamp(path.stat().st_mtime, UTC), message)


def _files() -> list[Path]:
    """The files of the folder, newest first; 404 where this is no demo."""
    if not settings.MAILBOX:
        raise Http404
    folder = Path(settings.EMAIL_FILE_PATH)
    found = [path for path in folder.glob("*.log") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def _letter(name: str) -> Letter:
    for path in _files():
        if path.stem == name:
            return _read(path)
    raise Http404


@require_safe
@never_cache
def mailbox(request: HttpRequest) -> HttpResponse:
    """All mails, newest first."""
    page = Paginator(_files(), PER_PAGE).get_page(request.GET.get("page"))
    letters = [_read(path) for path in page.object_list]
    return render(request, "demo/mailbox.html", {"letters": letters, "page": page})


@require_safe
@never_cache
def letter(request: HttpRequest, name: str) -> HttpResponse:
    """One mail as text, with clickable links."""
    return render(request, "demo/letter.html", {"letter": _letter(name)})


@require_safe
@never_cache
@csp({"default-src": [NONE], "style-src": [UNSAFE_INLINE], "sandbox": [True]})
def letter_html(_request: HttpRequest, name: str) -> HttpResponse:
    """One mail's HTML as a mail program shows it: no script, no form, nothing loaded."""
    return HttpResponse(_letter(name).html)
