"""Which web pages may read an API's answers (CORS, the Fetch standard §3.2).

Owns the header fields for browsers. An API that names origins answers preflights itself, without
a key, and its backend's own CORS fields are replaced; where it names none they pass as they are.
Whether the key may be used on a page is `gateway.restrictions`' to judge, on the call itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.problems import Headers, fields_of, http_date, lines_of
from gateway.restrictions import Site, allows_origin

if TYPE_CHECKING:
    from gateway.plane import Asking

ANY = "*"
MAX_AGE_S = 600
EXPOSED = (
    b"Keystile-Event, Keystile-Mode, Keystile-Quota-Remaining, RateLimit, RateLimit-Policy, "
    b"Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
PREFIX = b"access-control-"

_METHOD = re.compile(rb"[A-Z]{1,20}")
_FIELD_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,1000}")


class Origins:
    """The origins that an API allows: `https://app.example`, `https://*.example.com`, or `*`."""

    __slots__ = ("_any", "_sites")

    def __init__(self, origins: list[str]):
        self._any = ANY in origins
        self._sites = tuple(Site(origin) for origin in origins if origin != ANY)

    def headers(self, origin: bytes) -> Headers:
        """What every answer of the API carries to a page of this origin; b"" is none."""
        if self._any:
            return [(b"access-control-allow-origin", b"*"), _EXPOSES]
        varies = (b"vary", b"Origin")
        if not allows_origin(self._sites, origin):
            return [varies]
        return [varies, (b"access-control-allow-origin", origin), _EXPOSES]

    def preflight(self, origin: bytes, method: bytes, fields: bytes) -> Headers | None:
        """The answer's header to a preflight; None if the origin is not allowed.

        Method and fields are allowed as asked for: the call itself is judged when it comes.
        """
        allowed = self.headers(origin)
        if len(allowed) < 2 or not (_METHOD.fullmatch(method) and _FIELD_NAMES.fullmatch(fields)):
            return None
        return [
            *allowed[:-1],
            (b"access-control-allow-methods", method),
            (b"access-control-allow-headers", fields),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
            (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
            (b"date", http_date()),
        ]

    def replaced(self, headers: Headers, origin: bytes) -> Headers:
        """The fields of an answer with ours in place of the backend's."""
        kept = [field for field in headers if not field[0].startswith(PREFIX)]
        return kept + self.headers(origin)


_EXPOSES = (b"access-control-expose-headers", EXPOSED)


def parse(text: str) -> str:
    """One origin as staff write it. Raises ValueError with a sentence for people."""
    if text == ANY:
        return text
    if not text.lower().startswith(("http://", "https://")):
        raise ValueError(f"“{text}” is not an origin such as https://app.example or *.")
    Site(text)
    return text.lower()


class ForPages:
    """A client whose answers carry the fields of its API's origins (`gateway.plane.Asking`).

    The origins are asked for when it is answered: routes may be loaded until then.
    """

    def __init__(self, client: Asking, origins: Callable[[], Origins | None]):
        self._client = client
        self._origins = origins
        self.method = client.method
        self.target = client.target
        self.fields = client.fields
        self.said = client.said
        self.scheme = client.scheme
        self.peer = client.peer
        self.part = client.part
        self.watch = client.watch
        self.hint = client.hint
        self.close_after = client.close_after
        self.write = client.write

    def start(
        self, status: int, head: bytes, length: int | None, reason: bytes | None = None
    ) -> None:
        self._client.start(status, self._replaced(head), length, reason)

    def answer(
        self,
        status: int,
        head: bytes,
        body: bytes,
        length: int | None,
        reason: bytes | None = None,
    ) -> None:
        self._client.answer(status, self._replaced(head), body, length, reason)

    def _replaced(self, head: bytes) -> bytes:
        origins = self._origins()
        if origins is None:
            return head
        given = [value for name, value in self.fields if name == b"origin"]
        origin = given[0] if len(given) == 1 else b""
        return lines_of(origins.replaced(fields_of(head), origin))
