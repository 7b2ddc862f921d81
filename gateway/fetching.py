"""Fetches one URL that a person typed, without being led into the private network.

Owns the bounds of such a fetch: schemes, addresses, redirects, size and time. The connection goes
to the very address that was judged, while TLS and `Host` still name the host. Sends no cookies
and no credentials, and keeps nothing.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from gateway import addresses

MAX_REDIRECTS = 3
REDIRECTS = {301, 302, 303, 307, 308}
PORTS = {"http": 80, "https": 443}
USER_AGENT = "Keystile"


class Unfetchable(Exception):
    """Nothing came of the URL; the message is a sentence for the person who typed it."""


def get(
    url: str, *, max_bytes: int, timeout_seconds: float, private: addresses.Networks = ()
) -> bytes:
    """The body of a 200 answer to GET.

    private: networks that it may come from besides the internet

    `timeout_seconds` bounds all of it, redirects included (name resolution apart, which has the
    system's own limits). Raises `Unfetchable`.
    """
    deadline = time.monotonic() + timeout_seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked(url)
        try:
            status, location, body = _get_once(parts, max_bytes, deadline, private)
        except addresses.ForbiddenAddress as forbidden:
            raise Unfetchable(str(forbidden)) from None
        except socket.gaierror:
            raise Unfetchable(f"The host '{parts.hostname}' is not known.") from None
        except ssl.SSLError as error:
            raise Unfetchable(
                f"TLS with '{parts.hostname}' failed: {error.reason or error}."
            ) from None
        except (OSError, http.client.HTTPException):
            if time.monotonic() >= deadline:
                raise Unfetchable(
                    f"'{parts.hostname}' did not answer within {timeout_seconds:g} seconds."
                ) from None
            raise Unfetchable(f"'{parts.hostname}' could not be reached over HTTP.") from None
        if status in REDIRECTS and location:
            url = urljoin(url, location)
        elif status == 200:
            return body
        else:
            raise Unfetchable(f"'{parts.hostname}' answered with status {status}, not with 200.")
    raise Unfetchable("The URL redirects too many times.")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port != 0
    except ValueError:
        raise Unfetchable("That is not a URL.") from None
    if parts.scheme not in PORTS or not parts.hostname or not port_is_valid:
        raise Unfetchable("Give a URL that starts with https:// or http://.")
    if parts.username is not None or parts.password is not None:
        raise Unfetchable("Give a URL without a user name or password.")
    if not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise Unfetchable("The URL has a blank, or a letter that must be percent-encoded.")
    return parts


def _get_once(
    parts: SplitResult, max_bytes: int, deadline: float, private: addresses.Networks
) -> tuple[int, str | None, bytes]:
    """Status, `Location` and, of a 200, the body."""
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    judged = addresses.resolve(host, port, private=private)
    connection = _connect(parts.scheme, host, port, judged, deadline)
    # Timeouts of sockets start again with every byte; a server that drips is cut off by the clock.
    watchdog = threading.Timer(_remaining(deadline), _cut, [connection.sock])
    watchdog.start()
    try:
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        body = response.read(max_bytes + 1) if response.status == 200 else b""
        if time.monotonic() >= deadline:
            raise TimeoutError
    finally:
        watchdog.cancel()
        connection.close()
    if len(body) > max_bytes:
        raise Unfetchable(f"What the URL holds is larger than {max_bytes // 1_000_000} MB.")
    if response.status == 200 and response.length:
        raise http.client.IncompleteRead(body, response.length)
    return response.status, response.getheader("Location"), body


def _connect(
    scheme: str, host: str, port: int, judged: list[str], deadline: float
) -> http.client.HTTPConnection:
    """A connection to one of the addresses that calls itself `host`, in TLS and in `Host`."""
    plain = _first_reachable(judged, port, deadline)
    if scheme == "http":
        connection = http.client.HTTPConnection(host, port)
        connection.sock = plain
        return connection
    connection = http.client.HTTPSConnection(host, port)
    try:
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except OSError:
        plain.close()
        raise
    return connection


def _first_reachable(judged: list[str], port: int, deadline: float) -> socket.socket:
    *others, last = judged
    for address in others:
        with contextlib.suppress(OSError):
            return socket.create_connection((address, port), timeout=_remaining(deadline))
    return socket.create_connection((last, port), timeout=_remaining(deadline))


def _remaining(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _cut(connection: socket.socket) -> None:
    # The plain method: that of an SSLSocket drops the TLS state under the thread that reads.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
