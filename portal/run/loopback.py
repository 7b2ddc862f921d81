"""Loopback sockets: bound by the supervisor, inherited by its children, asked for an answer.

A connection waits in a socket's queue while the process behind it is started again, so that none
is refused.
"""

import asyncio
import contextlib
import os
import socket
from urllib.parse import urlsplit

from portal.run.data_folder import StartError

HOST = "127.0.0.1"
BACKLOG = 2048
ANSWER_SECONDS = 2.0


def listen(port: int) -> socket.socket:
    """A listening socket that children inherit. Raises `StartError`."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by what is accepted. uvicorn opens `--fd` as a Unix socket, so that the event loop
    # does not set it: answers in two writes would wait 40 ms for the client's delayed ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(BACKLOG)
    except OSError as error:
        raise StartError(
            f"Port {port} can't be used ({os.strerror(error.errno or 0).lower()}); choose another: "
            "make run PORT=8010 takes 8010 for the site and 8011 for the gateway."
        ) from error
    return listening


async def status(listening: socket.socket, url: str, path: str) -> int | None:
    """The status of `GET path` from the process behind `listening`, `None` without an answer.

    The question goes to the socket and names the host of `url`, which may be a proxy's.
    """
    head = f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            with contextlib.closing(writer):
                writer.write(head.encode())
                return int((await reader.readline()).split()[1])
    return None
