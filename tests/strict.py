"""Reads HTTP/1.1 as strictly as RFC 9112 lets anyone write it: the tests' measure of both sides.

Independent of every parser that the product uses. What isn't plainly one message is `Malformed`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.1")
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
FIELD = re.compile(
    rb"(" + TOKEN + rb"):[ \t]*((?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)[ \t]*"
)
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
FRAMING = (b"content-length", b"transfer-encoding")


class Malformed(Exception):
    pass


@dataclass
class Message:
    """A request or a response. Field names are in lower case, in the order they came in."""

    first: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def values(self, name: str) -> list[bytes]:
        return [value for key, value in self.fields if key == name.encode()]

    @property
    def method(self) -> str:
        return self.first.split(b" ")[0].decode()

    @property
    def target(self) -> str:
        return self.first.split(b" ")[1].decode()

    @property
    def status(self) -> int:
        return int(self.first.split(b" ")[1])

    @property
    def reason(self) -> bytes:
        return self.first.split(b" ", 2)[2]


def requests(data: bytes) -> list[Message]:
    """All of the data as whole requests. Raises `Malformed` for anything left over."""
    found = []
    while data:
        taken = take_request(data)
        if taken is None:
            raise Malformed(f"half a request: {data[:200]!r}")
        message, data = taken
        found.append(message)
    return found


def take_request(data: bytes) -> tuple[Message, bytes] | None:
    """The first request and what follows it; None while it isn't whole."""
    taken = _take_head(data, REQUEST_LINE)
    if taken is None:
        return None
    message, rest = taken
    if len(message.values("host")) != 1:
        raise Malformed("not one Host")
    if not _framing(message):
        return message, rest
    return _take_framed(message, rest)


def take_answer(data: bytes, method: str = "GET", *, closed: bool) -> tuple[Message, bytes] | None:
    """The first response and what follows it; None while it isn't whole.

    closed: whether the connection ended behind the data, which ends a body without framing.
    """
    taken = _take_head(data, STATUS_LINE)
    if taken is None:
        return None
    message, rest = taken
    framing = _framing(message)
    if message.status < 200 or message.status == 204:
        if framing:
            raise Malformed("framing where no body may be (RFC 9112 §6.1, RFC 9110 §8.6)")
        return message, rest
    if method == "HEAD" or message.status == 304:
        return message, rest
    if not framing:
        message.body = rest
        return (message, b"") if closed else None
    return _take_framed(message, rest)


def _take_head(data: bytes, first_line: re.Pattern[bytes]) -> tuple[Message, bytes] | None:
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.split(b"\r\n")
    if not first_line.fullmatch(first):
        raise Malformed(f"first line: {first[:200]!r}")
    return Message(first, [_field(line) for line in lines]), rest


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = FIELD.fullmatch(line)
    if not match:
        raise Malformed(f"field: {line[:200]!r}")
    return match[1].lower(), match[2]


def _framing(message: Message) -> bool:
    found = [(name, value) for name, value in message.fields if name in FRAMING]
    if len(found) > 1:
        raise Malformed(f"framed more than once: {found}")
    for name, value in found:
        if not (value.isdigit() if name == b"content-length" else value == b"chunked"):
            raise Malformed(f"framing: {value!r}")
    return bool(found)


def _take_framed(message: Message, rest: bytes) -> tuple[Message, bytes] | None:
    if message.values("content-length"):
        length = int(message.values("content-length")[0])
        message.body = rest[:length]
        return (message, rest[length:]) if len(rest) >= length else None
    parts = []
    at = 0
    while True:
        end = rest.find(b"\r\n", at)
        if end < 0:
            return None
        line, start = rest[at:end], end + 2
        if not CHUNK_SIZE.fullmatch(line):
            raise Malformed(f"chunk size: {line[:200]!r}")
        size = int(line, 16)
        if not size:
            break
        at = start + size + 2
        if len(rest) < at:
            return None
        if rest[at - 2 : at] != b"\r\n":
            raise Malformed("a chunk that ends elsewhere")
        parts.append(rest[start : start + size])
    after = rest[start:]
    message.body = b"".join(parts)
    while after[:2] != b"\r\n":
        line, end, after = after.partition(b"\r\n")
        if not end:
            return None
        message.trailers.append(_field(line))
    return message, after[2:]
