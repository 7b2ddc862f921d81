"""Which network addresses an outward connection may go to.

Owns the line between the internet and what a server sees from its inside: loopback, private and
link-local networks, cloud metadata. Addresses come back resolved, for the caller to connect to
one of them and not to ask the name a second time (DNS rebinding).
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

NAT64 = IPv6Network("64:ff9b::/96")


class ForbiddenAddress(Exception):
    """The host has no address that may be connected to; the message is a sentence."""


def is_public(address: str) -> bool:
    """Whether `address` is globally reachable unicast, as is any IPv4 address inside it."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        inner = _embedded(parsed)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def resolve(host: str, port: int, *, allow_private: bool = False) -> list[str]:
    """The addresses of `host`, in the resolver's order.

    One private address among several refuses them all. Raises `ForbiddenAddress`, and `OSError`
    when the name does not resolve. Blocks for as long as the system's resolver does.
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"'{host}' is not a host name") from error
    found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    if not allow_private and not all(is_public(address) for address in found):
        raise ForbiddenAddress(f"'{host}' is on a private network, which is not allowed here.")
    return found
