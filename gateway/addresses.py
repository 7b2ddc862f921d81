"""Which network addresses an outward connection may go to.

Owns the line between the internet and what a server sees from its inside: loopback, private and
link-local networks, cloud metadata. Addresses come back resolved, for the caller to connect to
one of them and not to ask the name a second time (DNS rebinding).
"""

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
Networks = tuple[Network, ...]

EVERYWHERE: Networks = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

# Never a backend: link-local addresses, where clouds keep credentials (RFC 3927, RFC 4291 §2.5.6),
# and the other places of instance metadata, of Alibaba, AWS and Google.
NEVER: Networks = (
    IPv4Network("169.254.0.0/16"),
    IPv6Network("fe80::/10"),
    IPv4Network("100.100.100.200/32"),
    IPv6Network("fd00:ec2::254/128"),
    IPv6Network("fd20:ce::254/128"),
)
NAT64 = IPv6Network("64:ff9b::/96")


class ForbiddenAddress(Exception):
    """The host has no address that may be connected to; the message is a sentence."""


def networks(texts: Iterable[str]) -> Networks:
    """Networks in CIDR notation, read. Raises `ValueError` with a sentence that names the bad one.

    A single address is a network of its own.
    """
    return tuple(map(_network, texts))


def _network(text: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"“{text}” is not a network such as 10.20.0.0/16 or fd12::/48.") from None
    written, _, _ = text.partition("/")
    if ip_address(written) != network.network_address:
        raise ValueError(f"“{text}” has bits to the right of its mask; did you mean {network}?")
    if any(network.version == held.version and network.subnet_of(held) for held in NEVER):  # type: ignore[arg-type]
        raise ValueError(f"“{text}” is link-local or cloud metadata, which no backend may be on.")
    return network


def is_public(address: str) -> bool:
    """Whether `address` is globally reachable unicast, as is any IPv4 address inside it."""
    return _is_public(_innermost(address))


def is_allowed(address: str, private: Networks) -> bool:
    """Whether `address` may be connected to: it is public, or in one of `private`.

    An IPv4 address that is written as IPv6 is judged as the IPv4 address that it leads to.
    """
    inner = _innermost(address)
    if _is_in(inner, NEVER):
        return False
    return _is_public(inner) or _is_in(inner, private)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _is_in(address: IPv4Address | IPv6Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def _innermost(address: str) -> IPv4Address | IPv6Address:
    parsed = ip_address(address.partition("%")[0])
    if not isinstance(parsed, IPv6Address):
        return parsed
    if parsed in NAT64:
        return IPv4Address(int(parsed) & 0xFFFF_FFFF)
    return parsed.ipv4_mapped or parsed.sixtofour or parsed


def resolve(host: str, port: int, *, private: Networks = ()) -> list[str]:
    """The addresses of `host`, in the resolver's order.

    private: where it may be besides the internet; one address elsewhere refuses all of them

    Raises `ForbiddenAddress`, and `OSError` when the name does not resolve. Blocks for as long as
    the system's resolver does.
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"'{host}' is not a host name") from error
    found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    if not all(is_allowed(address, private) for address in found):
        raise ForbiddenAddress(f"'{host}' is on a private network, which is not allowed here.")
    return found
