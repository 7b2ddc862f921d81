"""What backends say that they shouldn't, or only just may. Sections as in `tests.probes`."""

# ruff: noqa: E501 - as there

from __future__ import annotations

from typing import NamedTuple

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


class Said(NamedTuple):
    """status, body, fields: what the client must get of it; closes: whether the backend does."""

    name: str
    section: str
    data: bytes
    status: int = 200
    body: bytes = b"ok"
    fields: tuple[tuple[bytes, bytes], ...] = ()
    closes: bool = False


def _head(fields: bytes, rest: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n" + rest


def _chunks(rest: bytes) -> bytes:
    return _head(b"Transfer-Encoding: chunked\r\n", rest)


WRONG = [
    Said("nothing", "H15.6.3", b""),
    Said("half a status line", "4", b"HTTP/1.1 20"),
    Said("half a head", "8", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"),
    Said("HTTP/0.9", "2.3", b"<html>hello</html>"),
    Said("another protocol", "2.3", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    Said("HTTP/2.0", "2.3", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    Said("a request", "4", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    Said("a status of two digits", "4", b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
    Said("a status of four digits", "4", b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
    Said("a status of letters", "4", b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok"),
    Said("a status below 100", "H15", b"HTTP/1.1 042 OK\r\nContent-Length: 2\r\n\r\nok"),
    Said("a status above 599", "H15", b"HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nok"),
    Said("an unasked 101", "H15.2.2", b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nevil"),
    Said("length and chunks", "6.3", _head(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\n")),
    Said("chunks and length", "6.3", _head(b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", b"2\r\nok\r\n0\r\n\r\n")),
    Said("two lengths", "6.3", _head(b"Content-Length: 2\r\nContent-Length: 3\r\n", b"okx")),
    Said("a list of lengths", "6.3", _head(b"Content-Length: 2, 3\r\n", b"okx")),
    Said("a negative length", "6.3", _head(b"Content-Length: -2\r\n", b"ok")),
    Said("a length with a plus", "6.3", _head(b"Content-Length: +2\r\n", b"ok")),
    Said("a hexadecimal length", "6.3", _head(b"Content-Length: 0x2\r\n", b"ok")),
    Said("a length beyond 64 bits", "6.3", _head(b"Content-Length: 18446744073709551618\r\n", b"ok")),
    Said("an empty length", "6.3", _head(b"Content-Length:\r\n", b"ok")),
    Said("gzip, chunked", "7", _head(b"Transfer-Encoding: gzip, chunked\r\n", b"2\r\nok\r\n0\r\n\r\n")),
    Said("an unknown coding", "7", _head(b"Transfer-Encoding: xchunked\r\n", b"2\r\nok\r\n0\r\n\r\n")),
    Said("chunked twice", "7", _head(b"Transfer-Encoding: chunked, chunked\r\n", b"2\r\nok\r\n0\r\n\r\n")),
    Said("two codings", "7", _head(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\n")),
    Said("chunks in HTTP/1.0", "6.1", _chunks(b"2\r\nok\r\n0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")),
    Said("a NUL in a value", "H5.5", _head(b"X: a\0b\r\nContent-Length: 2\r\n", b"ok")),
    Said("a carriage return in a value", "H5.5", _head(b"X: a\rEvil: b\r\nContent-Length: 2\r\n", b"ok")),
    Said("an empty name", "5", _head(b": a\r\nContent-Length: 2\r\n", b"ok")),
    Said("a blank in a name", "5", _head(b"X Y: a\r\nContent-Length: 2\r\n", b"ok")),
    Said("a NUL in a name", "5", _head(b"X\0Y: a\r\nContent-Length: 2\r\n", b"ok")),
    Said("a line without a colon", "5", _head(b"evil\r\nContent-Length: 2\r\n", b"ok")),
    Said("a head of 400 KB", "H5.4", _head(b"X: %b\r\n" % (b"a" * 4000) * 100 + b"Content-Length: 2\r\n", b"ok")),
]  # fmt: skip

TRUNCATED = [
    Said("a length and less", "8", _head(b"Content-Length: 10\r\n", b"half")),
    Said("a length and nothing", "8", _head(b"Content-Length: 10\r\n")),
    Said("a chunk cut off", "8", _chunks(b"a\r\nhalf")),
    Said("no last chunk", "8", _chunks(b"4\r\nhalf\r\n")),
    Said("half a last chunk", "8", _chunks(b"4\r\nhalf\r\n0\r\n")),
    Said("no chunk at all", "8", _chunks(b"")),
    Said("a size of letters", "7.1", _chunks(b"4\r\nhalf\r\nxyz\r\nevil\r\n0\r\n\r\n")),
    Said("a negative size", "7.1", _chunks(b"4\r\nhalf\r\n-4\r\nevil\r\n0\r\n\r\n")),
    Said("a size by its prefix", "7.1", _chunks(b"4\r\nhalf\r\n0x4\r\nevil\r\n0\r\n\r\n")),
    Said("a size of 17 digits", "7.1", _chunks(b"4\r\nhalf\r\n10000000000000004\r\nevil\r\n0\r\n\r\n")),
    Said("nothing behind the data", "7.1", _chunks(b"4\r\nhalf4\r\nevil\r\n0\r\n\r\n")),
    Said("a line feed alone behind the size", "7.1", _chunks(b"4\nhalf\r\n0\r\n\r\n")),
    Said("a broken trailer", "7.1.2", _chunks(b"4\r\nhalf\r\n0\r\nevil\r\n\r\n")),
]  # fmt: skip

RIGHT = [
    Said("until the connection closes", "6.3", _head(b"", b"ok"), closes=True),
    Said("until it closes, by its word", "6.3", _head(b"Connection: close\r\n", b"ok"), closes=True),
    Said("nothing until it closes", "6.3", _head(b""), body=b"", closes=True),
    Said("HTTP/1.0 until it closes", "6.3", b"HTTP/1.0 200 OK\r\n\r\nok", closes=True),
    Said("HTTP/1.0 with a length", "6.3", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", closes=True),
    Said("HTTP/1.0 that keeps alive", "9.3",
         b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
    Said("a length and a close", "9.6", _head(b"Connection: close\r\nContent-Length: 2\r\n", b"ok"), closes=True),
    Said("an empty reason", "4", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
    Said("a long reason", "4", b"HTTP/1.1 200 %b\r\nContent-Length: 2\r\n\r\nok" % (b"very " * 100)),
    Said("a status nobody has named", "H15", b"HTTP/1.1 299 X\r\nContent-Length: 2\r\n\r\nok", 299),
    Said("a length of zero", "6.3", _head(b"Content-Length: 0\r\n"), body=b""),
    Said("an extension", "7.1.1", _chunks(b'2;a="b"\r\nok\r\n0\r\n\r\n')),
    Said("many small chunks", "7.1", _chunks(b"1\r\nx\r\n" * 500 + b"0\r\n\r\n"), body=b"x" * 500),
    Said("trailers", "7.1.2", _chunks(b"2\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n")),
    Said("CHUNKED in capitals", "7", _head(b"Transfer-Encoding: CHUNKED\r\n", b"2\r\nok\r\n0\r\n\r\n")),
    Said("no blank behind colons", "5", _head(b"X-A:b\r\nContent-Length:2\r\n", b"ok"), fields=((b"x-a", b"b"),)),
    Said("blanks around a value", "5.1", _head(b"X-A: \t b c \t\r\nContent-Length: 2\r\n", b"ok"), fields=((b"x-a", b"b c"),)),
    Said("an empty value", "5", _head(b"X-A:\r\nContent-Length: 2\r\n", b"ok"), fields=((b"x-a", b""),)),
    Said("bytes beyond ASCII", "H5.5", _head(b"X-A: \x80\xe9\xff\r\nContent-Length: 2\r\n", b"ok"), fields=((b"x-a", b"\x80\xe9\xff"),)),
    Said("fields named by Connection", "H7.6.1", _head(b"Connection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n", b"ok")),
    Said("Connection: Content-Length", "H7.6.1", _head(b"Connection: Content-Length\r\nContent-Length: 2\r\n", b"ok")),
    Said("Keep-Alive and Upgrade", "H7.6.1", _head(b"Keep-Alive: timeout=9\r\nUpgrade: h2c\r\nContent-Length: 2\r\n", b"ok")),
    Said("100", "H15.2.1", b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    Said("100 and 103", "H15.2", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK),
    Said("102 with an odd length", "H15.2", b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\n" + OK),
    Said("a field of 60 KB", "H5.4", _head(b"X-A: %b\r\nContent-Length: 2\r\n" % (b"a" * 60_000), b"ok")),
]  # fmt: skip

REFUSED_OR_CLEANED = [
    Said("the same length twice", "6.3", _head(b"Content-Length: 2\r\nContent-Length: 2\r\n", b"ok")),
    Said("a list of the same lengths", "6.3", _head(b"Content-Length: 2, 2\r\n", b"ok")),
    Said("a folded line", "5.2", _head(b"X-A: b\r\n c\r\nContent-Length: 2\r\n", b"ok"), fields=((b"x-a", b"b c"),)),
    Said("a blank before the colon", "5.1", _head(b"X-A : b\r\nContent-Length: 2\r\n", b"ok"), fields=((b"x-a", b"b"),)),
    Said("line feeds alone", "2.2", b"HTTP/1.1 200 OK\nX-A: b\nContent-Length: 2\n\nok", fields=((b"x-a", b"b"),)),
    Said("a status line that ends behind the status", "4", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
    Said("a length with zeros before", "H8.6", _head(b"Content-Length: 0002\r\n", b"ok")),
    Said("a control byte in a value", "H5.5", _head(b"X: a\x01b\r\nContent-Length: 2\r\n", b"ok")),
    Said("an empty line before", "2.2", b"\r\n" + OK),
    Said("a version of HTTP/1.2", "2.3", OK.replace(b"HTTP/1.1", b"HTTP/1.2")),
    Said("a length with 204", "H8.6", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", 204, b""),
    Said("a coding with 204", "6.1", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204, b""),
]  # fmt: skip

EXCESS = [OK + EVIL, OK + b"evil", OK + b"\r\n\r\n" + EVIL,
          _chunks(b"2\r\nok\r\n0\r\n\r\n" + EVIL), OK + b"HTTP/1.1 100 Continue\r\n\r\n"]  # fmt: skip
