"""What a call must look like before anything is asked about it, and what of it goes upstream.

Owns the reading of a request: the strictness that HTTP parsers lack, where the key stands, which
header fields may pass, who the client is. Does no I/O. What it returns is either a `Call` or a
`Refusal`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address

from django.conf import settings

from gateway.problems import Refusal, lines_of
from keys import tokens

# RFC 3986 reg-name or IP literal, and a port. Lists, userinfo, paths and blanks don't fit.
HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

# A dot segment in any spelling that some backend resolves: percent-encoded, encoded again, after
# a backslash, before a path parameter.
_SLASH = rb"(?:/|\\|%(?:25)*(?:2f|5c))"
UNSAFE_PATH = re.compile(
    rb"(?:^|" + _SLASH + rb")(?:\.|%(?:25)*2e){1,2}(?=" + _SLASH + rb"|;|%(?:25)*3b|$)"
    rb"|%(?:25)*00|[\x00-\x20\x7f]",
    re.IGNORECASE,
)
SUSPICIOUS = re.compile(rb"[%.\x00-\x20\x7f]")
"""Without one of these bytes no path is unsafe: the quick question first."""
ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)

MAX_PATH_BYTES = 8192

# Read one by one below.
SPECIAL = frozenset(
    b"host authorization x-api-key content-length transfer-encoding connection upgrade "
    b"x-forwarded-for".split()
)
# RFC 9110 §7.6.1, and what speaks of the hop, the client or the browser here.
DROPPED = frozenset(
    b"keep-alive proxy-connection proxy-authorization proxy-authenticate te trailer expect "
    b"http2-settings forwarded x-real-ip x-client-ip client-ip true-client-ip "
    b"cf-connecting-ip".split()
)
DROPPED_PREFIXES = (b"x-forwarded-", b"keystile-", b"x-original-")
OUR_COOKIES = frozenset((settings.SESSION_COOKIE_NAME.encode(), settings.CSRF_COOKIE_NAME.encode()))
"""A browser that is signed in at the site sends these to a gateway on the same host."""

TRUSTED_PROXIES: int = settings.TRUSTED_PROXIES

MISSING_KEY = Refusal("missing_key")
MALFORMED_KEY = Refusal("malformed_key")
PATH_TOO_LONG = Refusal(
    "bad_request", f"The path is longer than {MAX_PATH_BYTES} bytes.", exact=414
)


class Fields:
    """What the header fields of a request say, whatever its method and target are.

    chunked:        whether the body comes in chunks
    content_length: as announced; None without one
    passed:         the fields for the upstream, without key, identity and framing
    host:           as it was asked for
    digest:         what stands for the key (keys.tokens); empty if there was none
    older_digest:   the same under the pepper before; empty unless that is still accepted
    partition:      where the key's record is
    forwarded_for:  what proxies say of the client; believed of trusted ones only
    """

    __slots__ = (
        "_lines",
        "_without",
        "chunked",
        "content_length",
        "digest",
        "forwarded_for",
        "host",
        "older_digest",
        "partition",
        "passed",
    )

    def __init__(self) -> None:
        self.chunked = False
        self.content_length: int | None = None
        self.passed: list[tuple[bytes, bytes]] = []
        self.host = b""
        self.digest = ""
        self.older_digest = ""
        self.partition = 0
        self.forwarded_for = b""
        self._without: frozenset[bytes] | None = None
        self._lines = b""

    def read_key(self, token: tokens.Token) -> None:
        self.partition = token.partition
        self.digest, *older = tokens.digests(token.text)
        self.older_digest = older[0] if older else ""

    def try_older(self) -> bool:
        """Takes the digest under the pepper before for the key's, if there is one to try."""
        if not self.older_digest:
            return False
        self.digest, self.older_digest = self.older_digest, ""
        return True

    def lines(self, without: frozenset[bytes]) -> bytes:
        """The passed fields as they are written upstream, less those that the API sets itself."""
        if without is not self._without:
            kept = [field for field in self.passed if field[0] not in without]
            self._lines = lines_of(kept)
            self._without = without
        return self._lines

    def field(self, name: bytes) -> bytes:
        """The value of a passed field that is there exactly once; else empty."""
        values = [value for field, value in self.passed if field == name]
        return values[0] if len(values) == 1 else b""


class Call:
    """One request as it goes on: what was asked, by whom, and what else its fields say.

    api:    slug, from the path
    path:   the rest of the path, as it came, at least "/"
    query:  with its "?", as it came; empty if there was none
    client: the address that the call comes from, as text
    """

    __slots__ = ("api", "client", "method", "path", "query", "said", "scheme")

    api: str
    client: bytes
    method: str
    path: bytes
    query: bytes
    said: Fields
    scheme: bytes

    @property
    def has_body(self) -> bool:
        return self.said.chunked or bool(self.said.content_length)

    @property
    def referrer(self) -> bytes:
        """The page that called: Referer, or Origin where there is none."""
        return self.said.field(b"referer") or self.said.field(b"origin")


def read(
    method: str, target: bytes, said: Fields | Refusal, *, scheme: bytes, peer: bytes
) -> Call | Refusal:
    """The call that a request makes.

    Without a key it is a call all the same: the portal brings its own (`gateway.console`).

    target: as it came, path and query
    said:   what `read_fields` made of the header fields
    peer:   the address at the other end of the connection
    """
    path, mark, query = target.partition(b"?")
    if path[:1] != b"/" or b"#" in target:
        return _bad("The request target must be a path, as in “GET /v1/things HTTP/1.1”.")
    if len(path) > MAX_PATH_BYTES:
        return PATH_TOO_LONG
    if SUSPICIOUS.search(path) and UNSAFE_PATH.search(path):
        return _bad("The path has a dot segment, a NUL or a blank in it, encoded or not.")
    if method in ("CONNECT", "TRACE"):
        return _bad(f"{method} is not forwarded.")
    if isinstance(said, Refusal):
        return said

    call = Call()
    parts = path.split(b"/", 3)
    if parts[1] == b"gateway":
        call.api = parts[2].decode("latin-1") if len(parts) > 2 else ""
        call.path = b"/" + parts[3] if len(parts) > 3 else b"/"
    else:
        call.api = parts[1].decode("latin-1")
        call.path = path[len(parts[1]) + 1 :] or b"/"
    call.query = mark + query
    call.method = method
    call.said = said
    call.scheme = scheme
    call.client = peer
    if TRUSTED_PROXIES:
        call.client = client_behind(TRUSTED_PROXIES, peer, said.forwarded_for)
    return call


def client_behind(proxies: int, peer: bytes, forwarded_for: bytes) -> bytes:
    """The client's address, as the outermost of so many trusted proxies has seen it.

    Each of them has added to X-Forwarded-For whom it was asked by: the client is that many entries
    from the end. What stands before was sent by the client, and means nothing. Where there are
    fewer entries, or what stands there is no address, the connection's own counts.
    """
    entries = [entry.strip() for entry in forwarded_for.split(b",") if entry.strip()]
    if len(entries) < proxies:
        return peer
    try:
        return str(ip_address(entries[-proxies].decode("latin-1"))).encode()
    except ValueError:
        return peer


def slug_of(target: bytes) -> str:
    """The API that a request's target names, whatever else is wrong with the request."""
    first, _, rest = target.partition(b"?")[0][1:].partition(b"/")
    return (rest.partition(b"/")[0] if first == b"gateway" else first).decode("latin-1")


def read_fields(fields: list[tuple[bytes, bytes]]) -> Fields | Refusal:
    """What the fields say; names in lower case. Depends on nothing else."""
    said = Fields()
    passed = said.passed
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in SPECIAL:
            value = value.strip(b" \t")  # RFC 9112 §5.1; parsers leave what is behind
            if name in found:
                if name in (b"authorization", b"x-api-key"):
                    return MALFORMED_KEY
                if name not in (b"connection", b"x-forwarded-for"):
                    return _bad(f"The field {name.decode()} is there more than once.")
                value = found[name] + b"," + value
            found[name] = value
        elif name == b"cookie":
            if cookies := without_ours(value):
                passed.append((name, cookies))
        elif _may_pass(name):
            passed.append((name, value))

    host = found.get(b"host", b"")
    if not HOST.fullmatch(host):
        return _bad("The Host field must be there once, with a host name and nothing else.")
    if b"upgrade" in found:
        return _bad("Upgrade is not supported.")
    encoding = found.get(b"transfer-encoding")
    if encoding is not None and encoding.lower() != b"chunked":
        return _bad("The only transfer coding that is taken is “chunked”.")
    length = found.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) < 16 and encoding is None):
        return _bad("Content-Length must be one whole number, without Transfer-Encoding.")

    connection = found.get(b"connection")
    if connection and connection.lower() not in (b"keep-alive", b"close"):
        named = {token.strip() for token in connection.lower().split(b",")}
        said.passed = [field for field in passed if field[0] not in named]
    said.host = host
    said.chunked = encoding is not None
    said.content_length = None if length is None else int(length)
    said.forwarded_for = found.get(b"x-forwarded-for", b"")
    return _read_key(said, found.get(b"x-api-key"), found.get(b"authorization")) or said


def _read_key(said: Fields, own: bytes | None, authorization: bytes | None) -> Refusal | None:
    """Finds the key; what else is in Authorization is the backend's own and passes."""
    text = own
    if authorization is not None:
        scheme, _, credentials = authorization.partition(b" ")
        is_bearer = scheme.lower() == b"bearer"
        if own is None and is_bearer:
            text = credentials.strip()
        elif b"ks_" in authorization:
            return MALFORMED_KEY
        else:
            said.passed.append((b"authorization", authorization))
    if text is not None:
        token = tokens.parse(text.decode("latin-1"))
        if token is None:
            return MALFORMED_KEY
        said.read_key(token)
    return None


def is_ours(cookie: bytes) -> bool:
    """Whether `name=value…` is a cookie of the site's, which shares a host with the gateway."""
    return cookie.partition(b"=")[0].strip() in OUR_COOKIES


def without_ours(cookies: bytes) -> bytes:
    """A Cookie field without what belongs to the site (RFC 6265 §4.2.1)."""
    kept = [pair.strip() for pair in cookies.split(b";") if not is_ours(pair)]
    return b"; ".join(kept)


@lru_cache(maxsize=4096)
def _may_pass(name: bytes) -> bool:
    # An underscore becomes a dash in CGI-like servers and would shadow the gateway's fields.
    return not (name in DROPPED or b"_" in name or name.startswith(DROPPED_PREFIXES))


def _bad(sentence: str) -> Refusal:
    return Refusal("bad_request", sentence)
