"""What is weighed of a request besides its grammar: llhttp takes what is not right, or not ours.

Owns the sizes of heads and framing, and what of a target, a version and an Upgrade is accepted.
Decides about what it is given; reads no connection.
"""

from __future__ import annotations

import re

from gateway.problems import Refusal, lines_of

MAX_BYTES = 64 * 1024
MAX_FIELDS = 256
MAX_FRAMING_BYTES = 32 * 1024
MOST_OVERHEAD = 16
"""Bytes of framing (chunk sizes, extensions, trailers) per byte of a body, on top of those."""

VERSIONS = ("1.1", "1.0")
# Of a trailer llhttp lets them decide what becomes of the connection.
STEERING = frozenset(b"connection proxy-connection upgrade".split())
ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
PLAIN_LINE = re.compile(rb"(GET|HEAD|DELETE) (/[A-Za-z0-9/._~!$&'()*+,;=:@%?-]{0,2000}) HTTP/1\.1")
"""A request line that needs no weighing."""

NOT_HTTP = Refusal("bad_request", "This is not an HTTP/1.1 request.")
NOT_FOR_US = Refusal("bad_request", "The request target must be a path of the host in Host.")
NO_UPGRADE = Refusal("bad_request", "Neither Upgrade nor CONNECT is supported.")
TOO_LARGE = Refusal("bad_request", "The request's head is too large.", exact=431)
WRONG_VERSION = Refusal("bad_request", "Only HTTP/1.1 and HTTP/1.0 are spoken here.", exact=505)

Fields = list[tuple[bytes, bytes]]


def path_of(
    method: bytes, target: bytes, version: str, fields: Fields, came: bytes
) -> bytes | Refusal:
    """The target, made a path where it is in absolute form; or why the request is none for us.

    came: all that was read of the head, and perhaps more
    """
    if version not in VERSIONS:
        return WRONG_VERSION
    if len(target) + sum(len(name) + len(value) + 4 for name, value in fields) > MAX_BYTES:
        return TOO_LARGE
    if b"%b %b HTTP/%b\r\n" % (method, target, version.encode()) not in came:
        return NOT_HTTP  # two blanks in it, or another protocol's name
    if version == "1.0" and any(name == b"transfer-encoding" for name, _ in fields):
        return NOT_HTTP  # RFC 9112 §6.1
    if target[:1] == b"/":
        return target
    form = ABSOLUTE_FORM.fullmatch(target)
    hosts = [value.strip(b" \t").lower() for name, value in fields if name == b"host"]
    if form is None or hosts != [form[1].lower()]:
        return NOT_FOR_US
    return form[2] if form[2][:1] == b"/" else b"/" + form[2]


def without_upgrade(method: bytes, target: bytes, version: str, fields: Fields) -> bytes | None:
    """The head without its wish for HTTP/2 (RFC 9110 §7.8); None if it wishes anything else."""
    asked = [value.lower() for name, value in fields if name == b"upgrade"]
    if asked != [b"h2c"] or version != "1.1":
        return None
    kept = lines_of(field for field in fields if field[0] != b"upgrade")
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, kept)


def most_bytes_of_body(body_bytes: int) -> int:
    """How much a body of so many bytes may take on the wire."""
    return MAX_FRAMING_BYTES + MOST_OVERHEAD * body_bytes
