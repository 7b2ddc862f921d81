"""What a call must look like before anything is asked about it, and what of it goes upstream.

Owns the reading of an ASGI scope: the strictness that the server lacks, where the key stands,
which header fields may pass. Does no I/O. What it returns is either a `Call` or a `Refusal`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from gateway.problems import Refusal
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
    b"host authorization x-api-key content-length transfer-encoding connection upgrade".split()
)
# RFC 9110 §7.6.1, and what speaks of the hop, the client or the browser's session here.
DROPPED = frozenset(
    b"keep-alive proxy-connection proxy-authorization proxy-authenticate te trailer expect cookie "
    b"forwarded x-real-ip x-client-ip client-ip true-client-ip cf-connecting-ip via".split()
)
DROPPED_PREFIXES = (b"x-forwarded-", b"keystile-", b"x-original-")

MISSING_KEY = Refusal("missing_key")
MALFORMED_KEY = Refusal("malformed_key")


class Call:
    """One request as it goes on: what was asked, with which key, and what may be forwarded.

    api:            slug, from the path
    path:           the rest of the path, as it came, at least "/"
    query:          with its "?", as it came; empty if there was none
    content_length: as announced; None without one
    chunked:        whether the body comes in chunks
    fields:         header fields for the upstream, without key, identity and framing
    digest:         what stands for the key (keys.tokens); empty if there was none
    partition:      where the key's record is
    """

    __slots__ = (
        "api",
        "chunked",
        "client",
        "content_length",
        "digest",
        "fields",
        "host",
        "method",
        "partition",
        "path",
        "query",
        "scheme",
    )

    api: str
    chunked: bool
    client: bytes
    content_length: int | None
    fields: list[tuple[bytes, bytes]]
    host: bytes
    method: str
    path: bytes
    query: bytes
    scheme: bytes
    partition: int
    digest: str

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.content_length)

    def field(self, name: bytes) -> bytes:
        """The value of a header field that is there exactly once; else empty."""
        values = [value for field, value in self.fields if field == name]
        return values[0] if len(values) == 1 else b""

    @property
    def referrer(self) -> bytes:
        """The page that called: Referer, or Origin where there is none."""
        return self.field(b"referer") or self.field(b"origin")


def read(scope: dict[str, Any]) -> Call | Refusal:
    """The call that an ASGI HTTP scope makes.

    Without a key it is a call all the same: the portal brings its own (`gateway.console`).
    """
    target = scope.get("keystile.target")
    if target is None:  # a server other than gateway.wire: the path and query it has parsed
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
    path, mark, query = target.partition(b"?")
    if path[:1] != b"/" or b"#" in target:
        return _bad("The request target must be a path, as in “GET /v1/things HTTP/1.1”.")
    if len(path) > MAX_PATH_BYTES:
        return _bad(f"The path is longer than {MAX_PATH_BYTES} bytes.")
    if SUSPICIOUS.search(path) and UNSAFE_PATH.search(path):
        return _bad("The path has a dot segment, a NUL or a blank in it, encoded or not.")
    if scope["method"] in ("CONNECT", "TRACE"):
        return _bad(f"{scope['method']} is not forwarded.")

    call = Call()
    parts = path.split(b"/", 3)
    if parts[1] == b"gateway":
        call.api = parts[2].decode("latin-1") if len(parts) > 2 else ""
        call.path = b"/" + parts[3] if len(parts) > 3 else b"/"
    else:
        call.api = parts[1].decode("latin-1")
        call.path = path[len(parts[1]) + 1 :] or b"/"
    call.query = mark + query
    call.method = scope["method"]
    call.scheme = scope["scheme"].encode()
    call.client = scope["client"][0].encode() if scope["client"] else b"unknown"
    return _read_fields(call, scope["headers"]) or call


def _read_fields(call: Call, fields: list[tuple[bytes, bytes]]) -> Refusal | None:
    kept = []
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in SPECIAL:
            if name in found:
                if name in (b"authorization", b"x-api-key"):
                    return MALFORMED_KEY
                if name == b"connection":
                    value = found[name] + b"," + value
                else:
                    return _bad(f"The field {name.decode()} is there more than once.")
            found[name] = value
        elif _may_pass(name):
            kept.append((name, value))

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
        kept = [field for field in kept if field[0] not in named]
    call.host = host
    call.chunked = encoding is not None
    call.content_length = None if length is None else int(length)
    call.fields = kept
    return _read_key(call, found.get(b"x-api-key"), found.get(b"authorization"))


def _read_key(call: Call, own: bytes | None, authorization: bytes | None) -> Refusal | None:
    """Finds the key; what else is in Authorization is the backend's own and passes."""
    call.partition, call.digest = 0, ""
    text = own
    if authorization is not None:
        scheme, _, credentials = authorization.partition(b" ")
        is_bearer = scheme.lower() == b"bearer"
        if own is None and is_bearer:
            text = credentials.strip()
        elif b"ks_" in authorization:
            return MALFORMED_KEY
        else:
            call.fields.append((b"authorization", authorization))
    if text is not None:
        token = tokens.parse(text.decode("latin-1"))
        if token is None:
            return MALFORMED_KEY
        call.partition, call.digest = token.partition, tokens.digest(token.text)
    return None


@lru_cache(maxsize=4096)
def _may_pass(name: bytes) -> bool:
    # An underscore becomes a dash in CGI-like servers and would shadow the gateway's fields.
    return not (name in DROPPED or b"_" in name or name.startswith(DROPPED_PREFIXES))


def _bad(sentence: str) -> Refusal:
    return Refusal("bad_request", sentence)
