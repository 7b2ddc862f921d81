"""Requests at the edge of RFC 9112 and over it: what the gateway is asked, byte for byte.

    REFUSED    must be answered with an error by the gateway itself, and the connection closed
    FORWARDED  must reach the backend as exactly one request with this target and body
    CHUNKS     those of them that are wrong in their body only
    EITHER     may be refused, or forwarded in exactly this reading; nothing between

Sections are those of RFC 9112; with "H" before them, of RFC 9110. `@KEY@` is the caller's key.
"""

# ruff: noqa: E501 - a probe is one line, however long: the table is read down its columns

from __future__ import annotations

from typing import NamedTuple

PATH = "/gateway/demo/probe"
HOST = "Host: gateway.test\r\n"
KEY = "X-API-Key: @KEY@\r\n"
PROBE_POST = f"POST {PATH} HTTP/1.1\r\n{HOST}{KEY}"

BAD = frozenset({400})
BAD_LENGTH = frozenset({400, 413})
BAD_METHOD = frozenset({400, 405, 501})
BAD_VERSION = frozenset({400, 505})
BAD_CODING = frozenset({400, 501})
BAD_UPGRADE = frozenset({400, 426, 501})
TOO_LARGE = frozenset({400, 413, 431})


class Probe(NamedTuple):
    """statuses: with which it may be refused; target, body: what the backend gets."""

    name: str
    section: str
    data: str
    statuses: frozenset[int] = BAD
    target: str = "/probe"
    body: str = ""


def _line(line: str, fields: str = "") -> str:
    return f"{line}\r\n{HOST}{KEY}{fields}\r\n"


def _get(fields: str, *, host: str = HOST) -> str:
    return f"GET {PATH} HTTP/1.1\r\n{host}{KEY}{fields}\r\n"


def _post(fields: str, body: str = "") -> str:
    return f"{PROBE_POST}{fields}\r\n{body}"


def _chunked(body: str) -> str:
    return _post("Transfer-Encoding: chunked\r\n", body)


_LINES = [
    Probe("two spaces before the target", "3", _line(f"GET  {PATH} HTTP/1.1")),
    Probe("two spaces before the version", "3", _line(f"GET {PATH}  HTTP/1.1")),
    Probe("tabs for spaces", "3", _line(f"GET\t{PATH}\tHTTP/1.1")),
    Probe("a vertical tab for a space", "3", _line(f"GET\x0b{PATH} HTTP/1.1")),
    Probe("a space before the method", "3", _line(f" GET {PATH} HTTP/1.1")),
    Probe("a space behind the version", "3", _line(f"GET {PATH} HTTP/1.1 ")),
    Probe("a word behind the version", "3", _line(f"GET {PATH} HTTP/1.1 x")),
    Probe("a carriage return in the line", "2.2", _line(f"GET {PATH}\rHTTP/1.1")),
    Probe("a NUL before the method", "3", _line(f"\0GET {PATH} HTTP/1.1")),
    Probe("no method", "3.1", _line(f" {PATH} HTTP/1.1")),
    Probe("no target", "3.2", _line("GET HTTP/1.1")),
    Probe("an empty target", "3.2", _line("GET  HTTP/1.1")),
    Probe("brackets in the method", "3.1", _line(f"GE(T) {PATH} HTTP/1.1"), BAD_METHOD),
    Probe("a colon behind the method", "3.1", _line(f"GET: {PATH} HTTP/1.1"), BAD_METHOD),
    Probe("a letter beyond ASCII in the method", "3.1", _line(f"G\xcbT {PATH} HTTP/1.1"), BAD_METHOD),
    Probe("TRACE", "H9.3.8", _line(f"TRACE {PATH} HTTP/1.1"), BAD_METHOD),
    Probe("CONNECT with a path", "3.2.3", _line(f"CONNECT {PATH} HTTP/1.1"), BAD_METHOD),
    Probe("CONNECT", "3.2.3", _line("CONNECT gateway.test:80 HTTP/1.1"), BAD_METHOD),
    Probe("authority form with GET", "3.2.3", _line("GET gateway.test:80 HTTP/1.1")),
    Probe("asterisk form with GET", "3.2.4", _line("GET * HTTP/1.1")),
    Probe("no slash before the path", "3.2.1", _line(f"GET {PATH[1:]} HTTP/1.1")),
    Probe("absolute form for another host", "3.2.2", _line(f"GET http://evil.test{PATH} HTTP/1.1")),
    Probe("absolute form, userinfo", "3.2.2", _line(f"GET http://u@gateway.test{PATH} HTTP/1.1")),
    Probe("absolute form, other scheme", "3.2.2", _line(f"GET ftp://gateway.test{PATH} HTTP/1.1")),
    Probe("absolute form without a host", "3.2.2", _line(f"GET http://{PATH} HTTP/1.1")),
    Probe("a fragment", "3.2", _line(f"GET {PATH}#top HTTP/1.1")),
    Probe("a fragment behind the query", "3.2", _line(f"GET {PATH}?a#top HTTP/1.1")),
    Probe("a space in the path", "3.2", _line(f"GET {PATH}/a b HTTP/1.1")),
    Probe("a space in the query", "3.2", _line(f"GET {PATH}?a b HTTP/1.1")),
    Probe("a NUL in the path", "3.2", _line(f"GET {PATH}/\0 HTTP/1.1")),
    Probe("a NUL in the query", "3.2", _line(f"GET {PATH}?\0 HTTP/1.1")),
    Probe("a tab in the query", "3.2", _line(f"GET {PATH}?a\tb HTTP/1.1")),
    Probe("a control byte in the path", "3.2", _line(f"GET {PATH}/\x01 HTTP/1.1")),
    Probe("a control byte in the query", "3.2", _line(f"GET {PATH}?\x7f HTTP/1.1")),
    Probe("a byte beyond ASCII in the path", "3.2", _line(f"GET {PATH}/\xe9 HTTP/1.1")),
    Probe("a byte beyond ASCII in the query", "3.2", _line(f"GET {PATH}?\xe9 HTTP/1.1")),
    Probe("no version (HTTP/0.9)", "2.3", f"GET {PATH}\r\n\r\n", BAD_VERSION),
    Probe("no version, but fields", "2.3", _line(f"GET {PATH}"), BAD_VERSION),
    Probe("HTTP/0.9 by name", "2.3", _line(f"GET {PATH} HTTP/0.9"), BAD_VERSION),
    Probe("HTTP/2.0", "2.3", _line(f"GET {PATH} HTTP/2.0"), BAD_VERSION),
    Probe("HTTP/3", "2.3", _line(f"GET {PATH} HTTP/3"), BAD_VERSION),
    Probe("the preface of HTTP/2", "2.3", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD_METHOD | BAD_VERSION),
    Probe("a version of two digits", "2.3", _line(f"GET {PATH} HTTP/1.10"), BAD_VERSION),
    Probe("a version with a zero before", "2.3", _line(f"GET {PATH} HTTP/01.1"), BAD_VERSION),
    Probe("a version without a minor", "2.3", _line(f"GET {PATH} HTTP/1."), BAD_VERSION),
    Probe("a version with a comma", "2.3", _line(f"GET {PATH} HTTP/1,1"), BAD_VERSION),
    Probe("a version in lower case", "2.3", _line(f"GET {PATH} http/1.1"), BAD_VERSION),
    Probe("another protocol", "2.3", _line(f"GET {PATH} HTTPS/1.1"), BAD_VERSION),
    Probe("a protocol of another kind", "2.3", _line(f"GET {PATH} RTSP/1.0"), BAD_VERSION),
    Probe("a hello of TLS", "3", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\0" * 64),
    Probe("a target of 60 KB", "3", _line(f"GET {PATH}/{'x' * 60_000} HTTP/1.1"), frozenset({414})),
    Probe("a target of 100 KB", "3", _line(f"GET {PATH}?{'x' * 100_000} HTTP/1.1"), frozenset({414, 431})),
    Probe("a method of 100 KB", "3", _line(f"{'G' * 100_000} {PATH} HTTP/1.1"), frozenset({400, 431, 501})),
    *[
        Probe(f"dot segments: {path}", "H4.2.3", _line(f"GET /gateway/demo{path} HTTP/1.1"))
        for path in ("/../probe", "/a/..", "/./probe", "/%2e%2e/probe", "/.%2E/x", "/..%2fprobe",
                     "/..\\probe", "/%252e%252e/x", "/..;a/probe", "/a%00b")
    ],
]  # fmt: skip

_FIELDS = [
    Probe("a space before the colon", "5.1", _get("X-Test : a\r\n")),
    Probe("a tab before the colon", "5.1", _get("X-Test\t: a\r\n")),
    Probe("a folded line", "5.2", _get("X-Test: a\r\n b\r\n")),
    Probe("a line folded by a tab", "5.2", _get("X-Test: a\r\n\tb\r\n")),
    Probe("a fold with nothing on it", "5.2", _get("X-Test: a\r\n \r\n")),
    Probe("a blank before the first field", "2.2", f"GET {PATH} HTTP/1.1\r\n X: a\r\n{HOST}{KEY}\r\n"),
    Probe("an empty name", "5", _get(": a\r\n")),
    Probe("no colon", "5", _get("X-Test\r\n")),
    Probe("a blank in the name", "5", _get("X Test: a\r\n")),
    *[
        Probe(f"{byte!r} in the name", "5", _get(f"X{byte}Test: a\r\n"))
        for byte in "\0\x01\x0b\x7f\xe9()<>@,;\\\"/[]?={}"
    ],
    *[
        Probe(f"{byte!r} in the value", "H5.5", _get(f"X-Test: a{byte}b\r\n"))
        for byte in "\0\x01\x08\x0b\x0c\x1b\x7f\r"
    ],
    Probe("a lone carriage return that starts a field", "2.2", _get("X-Test: a\rY: b\r\n")),
    Probe("a lone line feed that starts a field", "2.2", _get("X-Test: a\nY: b\r\n")),
    Probe("two carriage returns", "2.2", _get("X-Test: a\r\r\n")),
    Probe("line feeds alone", "2.2", _get("X-Test: a\r\n").replace("\r\n", "\n")),
    Probe("a line feed alone behind the request line", "2.2", _get("").replace("\r\n", "\n", 1)),
    Probe("a line feed alone before the end", "2.2", _get("")[:-2] + "\n"),
    Probe("a line feed alone behind a field", "2.2", _get("X-Test: a\nX-Other: b\r\n")),
    Probe("a field of 70 KB", "H5.4", _get(f"X-Test: {'a' * 70_000}\r\n"), frozenset({431})),
    Probe("a name of 70 KB", "H5.4", _get(f"X{'a' * 70_000}: a\r\n"), frozenset({431})),
    Probe("fields of 400 KB", "H5.4", _get(f"X-Test: {'a' * 4000}\r\n" * 100), frozenset({431})),
    Probe("20,000 fields", "H5.4", _get("X: a\r\n" * 20_000), frozenset({431})),
]  # fmt: skip

_HOSTS = [
    Probe(f"Host: {name}", "3.2", _get("", host=host))
    for name, host in [
        ("missing", ""),
        ("empty", "Host:\r\n"),
        ("blank", "Host: \t \r\n"),
        ("twice, the same", HOST + HOST),
        ("twice", HOST + "Host: evil.test\r\n"),
        ("twice, in another case", HOST + "hOST: evil.test\r\n"),
        ("twice, one of them empty", HOST + "Host:\r\n"),
        ("a list", "Host: gateway.test, evil.test\r\n"),
        ("userinfo", "Host: user@gateway.test\r\n"),
        ("a path", "Host: gateway.test/path\r\n"),
        ("a query", "Host: gateway.test?a\r\n"),
        ("a fragment", "Host: gateway.test#a\r\n"),
        ("a URL", "Host: http://gateway.test\r\n"),
        ("a space", "Host: gateway test\r\n"),
        ("a tab", "Host: gateway\ttest\r\n"),
        ("a word for a port", "Host: gateway.test:http\r\n"),
        ("a negative port", "Host: gateway.test:-1\r\n"),
        ("two ports", "Host: gateway.test:80:80\r\n"),
        ("a port beyond any", "Host: gateway.test:99999999\r\n"),
        ("only a port", "Host: :80\r\n"),
        ("half a literal", "Host: [::1\r\n"),
        ("an empty literal", "Host: []\r\n"),
        ("beyond ASCII", "Host: g\xe4teway.test\r\n"),
        ("a backslash", "Host: gateway.test\\evil\r\n"),
        ("a space before the colon", "Host : gateway.test\r\n"),
        ("folded", "Host:\r\n gateway.test\r\n"),
        ("a NUL", "Host: gateway.test\0.evil\r\n"),
    ]
]

_LENGTHS = [
    Probe(f"Content-Length: {name}", "6.3", _post(fields, "hello"), BAD_LENGTH)
    for name, fields in [
        ("twice", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("twice, smaller first", "Content-Length: 0\r\nContent-Length: 5\r\n"),
        ("a list", "Content-Length: 5, 6\r\n"),
        ("a list with a hole", "Content-Length: 5,\r\n"),
        ("plus", "Content-Length: +5\r\n"),
        ("minus", "Content-Length: -5\r\n"),
        ("minus zero", "Content-Length: -0\r\n"),
        ("hexadecimal", "Content-Length: 0x5\r\n"),
        ("octal by its letter", "Content-Length: 0o5\r\n"),
        ("a point", "Content-Length: 5.0\r\n"),
        ("an exponent", "Content-Length: 5e0\r\n"),
        ("an underscore", "Content-Length: 0_5\r\n"),
        ("two numbers", "Content-Length: 5 5\r\n"),
        ("a semicolon", "Content-Length: 5;a\r\n"),
        ("quotes", 'Content-Length: "5"\r\n'),
        ("empty", "Content-Length:\r\n"),
        ("blank", "Content-Length: \t\r\n"),
        ("a word", "Content-Length: five\r\n"),
        ("other digits", "Content-Length: \xb2\r\n"),
        ("a form feed", "Content-Length: 5\x0c\r\n"),
        ("a NUL", "Content-Length: 5\0\r\n"),
        ("beyond 64 bits by 5", "Content-Length: 18446744073709551621\r\n"),
        ("beyond 63 bits", "Content-Length: 9223372036854775813\r\n"),
        ("of 400 digits", f"Content-Length: {'9' * 400}\r\n"),
        ("more than the API takes", "Content-Length: 999999999999\r\n"),
        ("a blank before the colon", "Content-Length : 5\r\n"),
        ("folded", "Content-Length:\r\n 5\r\n"),
    ]
]

_CODINGS = [
    Probe(f"Transfer-Encoding: {name}", "6.1", _post(fields, "5\r\nhello\r\n0\r\n\r\n"), BAD_CODING)
    for name, fields in [
        ("twice in a list", "Transfer-Encoding: chunked, chunked\r\n"),
        ("twice in two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("chunked, identity", "Transfer-Encoding: chunked, identity\r\n"),
        ("identity, chunked", "Transfer-Encoding: identity, chunked\r\n"),
        ("two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ("two fields, chunked last", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n"),
        ("identity", "Transfer-Encoding: identity\r\n"),
        ("gzip", "Transfer-Encoding: gzip\r\n"),
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n"),
        ("chunked, gzip", "Transfer-Encoding: chunked, gzip\r\n"),
        ("xchunked", "Transfer-Encoding: xchunked\r\n"),
        ("chunkedx", "Transfer-Encoding: chunkedx\r\n"),
        ("a parameter", "Transfer-Encoding: chunked;a=b\r\n"),
        ("a weight", "Transfer-Encoding: chunked; q=0.5\r\n"),
        ("quotes", 'Transfer-Encoding: "chunked"\r\n'),
        ("apostrophes", "Transfer-Encoding: 'chunked'\r\n"),
        ("a hole before", "Transfer-Encoding: , chunked\r\n"),
        ("a hole behind", "Transfer-Encoding: chunked,\r\n"),
        ("empty", "Transfer-Encoding:\r\n"),
        ("a space inside", "Transfer-Encoding: chun ked\r\n"),
        ("a vertical tab before", "Transfer-Encoding:\x0bchunked\r\n"),
        ("a vertical tab behind", "Transfer-Encoding: chunked\x0b\r\n"),
        ("a NUL behind", "Transfer-Encoding: chunked\0\r\n"),
        ("a byte beyond ASCII before", "Transfer-Encoding: \xa0chunked\r\n"),
        ("a space before the colon", "Transfer-Encoding : chunked\r\n"),
        ("a tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
        ("a space before the name", "X: a\r\n Transfer-Encoding: chunked\r\n"),
        ("a carriage return before the name", "X: a\rTransfer-Encoding: chunked\r\n"),
        ("a line feed before the name", "X: a\nTransfer-Encoding: chunked\r\n"),
        ("folded", "Transfer-Encoding:\r\n chunked\r\n"),
        ("a NUL in the name", "Transfer\0-Encoding: chunked\r\n"),
        ("Content-Length before", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("Content-Length behind", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("Content-Length of zero", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        ("identity and Content-Length", "Content-Length: 5\r\nTransfer-Encoding: identity\r\n"),
        ("unknown and Content-Length", "Content-Length: 5\r\nTransfer-Encoding: chunke\r\n"),
    ]
]

_HTTP_1_0_CHUNKED = [
    Probe("chunks in HTTP/1.0", "6.1",
          _chunked("5\r\nhello\r\n0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"), BAD_CODING),
    Probe("chunks and a length in HTTP/1.0", "6.1",
          _post("Transfer-Encoding: chunked\r\nContent-Length: 15\r\n", "5\r\nhello\r\n0\r\n\r\n")
          .replace("HTTP/1.1", "HTTP/1.0"), BAD_CODING),
]  # fmt: skip

CHUNKS = [
    Probe(f"chunks: {name}", "7.1", _chunked(body), TOO_LARGE)
    for name, body in [
        ("a size in hexadecimal by its prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a size with a plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("an underscore in the size", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("a size of letters", "five\r\nhello\r\n0\r\n\r\n"),
        ("a size of 17 digits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("no size but an extension", ";a=b\r\nhello\r\n0\r\n\r\n"),
        ("a space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a space behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
        ("a tab behind the size", "5\t\r\nhello\r\n0\r\n\r\n"),
        ("a NUL behind the size", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("a letter behind the size", "5g\r\nhello\r\n0\r\n\r\n"),
        ("a line feed alone behind the size", "5\nhello\r\n0\r\n\r\n"),
        ("a carriage return alone behind the size", "5\rhello\r\n0\r\n\r\n"),
        ("a line feed alone behind an extension", "5;a\nhello\r\n0\r\n\r\n"),
        ("a line feed alone in an extension", "5;a=b\nc\r\nhello\r\n0\r\n\r\n"),
        ("a carriage return alone in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("a NUL in an extension", "5;a=\0\r\nhello\r\n0\r\n\r\n"),
        ("an extension of 100 KB", f"5;a={'b' * 100_000}\r\nhello\r\n0\r\n\r\n"),
        ("nothing behind the data", "5\r\nhello0\r\n\r\n"),
        ("a line feed alone behind the data", "5\r\nhello\n0\r\n\r\n"),
        ("a carriage return alone behind the data", "5\r\nhello\r0\r\n\r\n"),
        ("two bytes too many", "5\r\nhelloXX0\r\n\r\n"),
        ("one byte too few", "5\r\nhell\r\n0\r\n\r\n"),
        ("an end with a sign", "5\r\nhello\r\n-0\r\n\r\n"),
        ("an end by a line feed alone", "5\r\nhello\r\n0\n\n"),
        ("a word behind the end", "5\r\nhello\r\n0\r\nX\r\n\r\n"),
        ("a request for a trailer", f"5\r\nhello\r\n0\r\nGET {PATH} HTTP/1.1\r\n\r\n"),
        ("a trailer with a blank before its colon", "0\r\nX : a\r\n\r\n"),
        ("a folded trailer", "0\r\nX: a\r\n b\r\n\r\n"),
        ("a trailer with a NUL", "0\r\nX: a\0b\r\n\r\n"),
        ("a trailer behind a line feed alone", "0\r\nX: a\nY: b\r\n\r\n"),
        ("a trailer without a name", "0\r\n: a\r\n\r\n"),
        ("trailers of 200 KB", "0\r\n" + f"X: {'a' * 2000}\r\n" * 100 + "\r\n"),
    ]
]

_UPGRADES = [
    Probe("Upgrade: websocket", "H7.8",
          _get("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), BAD_UPGRADE),
]  # fmt: skip

REFUSED = [
    *_LINES,
    *_FIELDS,
    *_HOSTS,
    *_LENGTHS,
    *_CODINGS,
    *_HTTP_1_0_CHUNKED,
    *CHUNKS,
    *_UPGRADES,
]

_TARGETS = [
    "/probe/", "/probe?", "/probe??a?b", "/probe//double///slash//", "/probe/%7Etilde/%7e/~",
    "/probe/a%2Fb%2fc", "/probe/%E2%82%AC/%ff", "/probe/...", "/probe/a..b/.hidden/x.",
    "/probe?next=../../etc&z=%2e%2e%00", "/probe/a+b%20c;p=1,2:@!$&'()*=", "/probe?a=1&a=2&&=&x",
    "/probe?api_key=ks_live_x&key=1", "/probe/http://evil.test/", "/probe?" + "q" * 7000,
    "/probe/" + "p" * 7000,
]  # fmt: skip

FORWARDED = [
    Probe("an identity of the client's own making", "H7.6",
          _get("Keystile-Account: 1\r\nKEYSTILE-KEY: 1\r\nX-Forwarded-For: 6.6.6.6\r\nkeystile_account: 1\r\n")),
    Probe("the same by Connection", "H7.6.1",
          _get("Connection: X-Hop, Keystile-Account\r\nKeystile-Account: 1\r\nX-Hop: 1\r\n")),
    Probe("a plain request", "3", _get("")),
    Probe("absolute form for the same host", "3.2.2", _line(f"GET http://gateway.test{PATH} HTTP/1.1")),
    Probe("absolute form, host in another case", "3.2.2", _line(f"GET HTTP://Gateway.TEST{PATH} HTTP/1.1")),
    *[
        Probe(f"target {target[:40]}", "3.2.1", _line(f"GET /gateway/demo{target} HTTP/1.1"), target=target)
        for target in _TARGETS
    ],
    Probe("an empty line before the request", "2.2", "\r\n" + _get("")),
    Probe("no blank behind the colon", "5", _get("X-Test:a\r\n")),
    Probe("an empty value", "5", _get("X-Test:\r\n")),
    Probe("a value of blanks", "5", _get("X-Test: \t \r\n")),
    Probe("blanks around a value", "5.1", _get("X-Test: \t a b \t\r\n")),
    Probe("a tab in a value", "H5.5", _get("X-Test: a\tb\r\n")),
    Probe("bytes beyond ASCII in a value", "H5.5", _get("X-Test: \x80\xe9\xff\r\n")),
    Probe("every character of a name", "H5.1", _get("!#$%&'*+-.^`|~09azAZ: a\r\n")),
    Probe("a field of 8 KB", "H5.4", _get(f"X-Test: {'a' * 8000}\r\n")),
    Probe("100 fields", "H5.4", _get("".join(f"X-{n}: a\r\n" for n in range(100)))),
    Probe("blanks around the host", "5.1", _get("", host="Host:\t gateway.test \t\r\n")),
    Probe("host and port", "3.2", _get("", host="Host: gateway.test:8001\r\n")),
    Probe("a literal as host", "3.2", _get("", host="Host: [2001:db8::1]:80\r\n")),
    Probe("an encoding by underscore", "H5.1", _get("Transfer_Encoding: chunked\r\n")),
    Probe("a length by underscore", "H5.1", _get("Content_Length: 5\r\n")),
    Probe("no body and no framing", "6.3", _post("")),
    Probe("a length of zero", "6.3", _post("Content-Length: 0\r\n")),
    Probe("a length", "6.3", _post("Content-Length: 5\r\n", "hello"), body="hello"),
    Probe("a body with GET", "H9.3.1", _get("Content-Length: 5\r\n") + "hello", body="hello"),
    Probe("a body that looks like a request", "6", _post("Content-Length: 27\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
          body="GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    Probe("chunks", "7.1", _chunked("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"), body="hello!"),
    Probe("chunks with GET", "7.1", _get("Transfer-Encoding: chunked\r\n") + "2\r\nok\r\n0\r\n\r\n", body="ok"),
    Probe("no chunk but the last", "7.1", _chunked("0\r\n\r\n")),
    Probe("CHUNKED in capitals", "7", _post("Transfer-Encoding: CHUNKED\r\n", "2\r\nok\r\n0\r\n\r\n"), body="ok"),
    Probe("a size with zeros before", "7.1", _chunked("0005\r\nhello\r\n0\r\n\r\n"), body="hello"),
    Probe("a size in capitals", "7.1", _chunked("A\r\n0123456789\r\n0\r\n\r\n"), body="0123456789"),
    Probe("a last chunk of zeros", "7.1", _chunked("2\r\nok\r\n000\r\n\r\n"), body="ok"),
    Probe("extensions", "7.1.1", _chunked('2;a;b=c;d="e f"\r\nok\r\n0;z\r\n\r\n'), body="ok"),
    Probe("line ends in the data", "7.1", _chunked("4\r\n\r\n\r\n\r\n0\r\n\r\n"), body="\r\n\r\n"),
    Probe("trailers", "7.1.2", _chunked("2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"), body="ok"),
    Probe("trailers that must be none", "H6.5.1",
          _chunked("2\r\nok\r\n0\r\nHost: evil.test\r\nAuthorization: Bearer x\r\nKeystile-Account: 1\r\n"
                   "X-API-Key: @KEY@\r\n\r\n"), body="ok"),
    Probe("an expectation without a body", "H10.1.1", _get("Expect: 100-continue\r\n")),
    *[
        Probe(f"Connection: {named}", "H7.6.1",
              _post(f"Connection: {named}\r\nX-Hop: 1\r\nContent-Length: 5\r\n", "hello"), body="hello")
        for named in ("X-Hop", "keep-alive, X-Hop", "X-HOP,Host", "X-Hop, Content-Length", "X-API-Key, X-Hop",
                      "X-Hop, Keystile-Account, X-Forwarded-For", "X-Hop, Transfer-Encoding", ", ,X-Hop,,")
    ],
    Probe("two Connection fields", "H7.6.1", _get("Connection: keep-alive\r\nConnection: X-Hop\r\nX-Hop: 1\r\n")),
]  # fmt: skip

EITHER = [
    Probe("Upgrade: h2c", "H7.8",
          _get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
          BAD_UPGRADE),
    Probe("Upgrade: h2c with a body", "H7.8",
          _post("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n", "hello"), BAD_UPGRADE, body="hello"),
    Probe("absolute form, TLS", "3.2.2", _line(f"GET https://gateway.test{PATH} HTTP/1.1"), frozenset({400, 421})),
    Probe("a method in lower case", "3.1", _line(f"get {PATH} HTTP/1.1"), BAD_METHOD),
    Probe("an unknown method", "3.1", _line(f"BREW {PATH} HTTP/1.1"), BAD_METHOD),
    Probe("a method with a dash", "3.1", _line(f"M-SEARCH {PATH} HTTP/1.1"), BAD_METHOD),
    Probe("a later minor version", "2.3", _line(f"GET {PATH} HTTP/1.2"), BAD_VERSION),
    Probe("many empty lines before the request", "2.2", "\r\n\r\n\r\n" + _get("")),
    Probe("a line feed alone before the request", "2.2", "\n" + _get("")),
    Probe("bytes that no URI has", "3.2", _line(f'GET {PATH}?"<>\\^`{{|}} HTTP/1.1'), target='/probe?"<>\\^`{|}'),
    Probe("broken percent signs", "3.2", _line(f"GET {PATH}/%zz% HTTP/1.1"), target="/probe/%zz%"),
    Probe("an empty port", "3.2", _get("", host="Host: gateway.test:\r\n")),
    Probe("a host with an underscore", "3.2", _get("", host="Host: gate_way.test\r\n")),
    Probe("a length twice, the same", "6.3", _post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), body="hello"),
    Probe("a list of the same lengths", "6.3", _post("Content-Length: 5, 5\r\n", "hello"), body="hello"),
    Probe("a length with zeros before", "H8.6", _post("Content-Length: 0005\r\n", "hello"), body="hello"),
    Probe("a tab before the coding", "7", _post("Transfer-Encoding:\tchunked\r\n", "2\r\nok\r\n0\r\n\r\n"), body="ok"),
    Probe("blanks behind the coding", "7", _post("Transfer-Encoding: chunked \t\r\n", "2\r\nok\r\n0\r\n\r\n"), body="ok"),
    Probe("a size of 17 digits, most of them zero", "7.1", _chunked("00000000000000002\r\nok\r\n0\r\n\r\n"), body="ok"),
    Probe("a semicolon and no extension", "7.1.1", _chunked("2;\r\nok\r\n0\r\n\r\n"), body="ok"),
    Probe("blanks around an extension", "7.1.1", _chunked("2 ; a = b\r\nok\r\n0\r\n\r\n"), body="ok"),
    Probe("a length for a trailer", "H6.5.1", _chunked("2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n"), body="ok"),
    Probe("Connection: close for a trailer", "H6.5.1", _chunked("2\r\nok\r\n0\r\nConnection: close\r\n\r\n"), body="ok"),
    Probe("an Upgrade for a trailer", "H6.5.1",
          _chunked("2\r\nok\r\n0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"), body="ok"),
    Probe("a coding for a trailer", "H6.5.1", _chunked("2\r\nok\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n"), body="ok"),
    Probe("an expectation that nobody knows", "H10.1.1", _get("Expect: 200-maybe\r\n"), frozenset({400, 417})),
]  # fmt: skip

CUT = ("a length", "chunks", "trailers")
"""Of those forwarded, the ones to be sent in two pieces, cut everywhere."""
