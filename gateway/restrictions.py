"""Where a key may be used, and for what: judged here, enforced by the admitting script.

Owns the reading of a key's restrictions as they are published (keys.publish) and the verdict on
one call. A verdict is worth something only under the revision it was made of, which the script
compares with the record's; what is remembered here is never trusted without that.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from gateway.intake import Call
from gateway.problems import Refusal

REMEMBERED = 4096
READING_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
DEFAULT_PORTS = {"http": "80", "https": "443"}

# What browsers send as Origin, and the part of Referer that is one (RFC 6454 §6.2).
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?=[/?#]|$)",
    re.IGNORECASE,
)
_SITE = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<any>\*\.)?(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE,
)

READ_ONLY = Refusal(
    "operation_not_allowed", "This key may only read: GET, HEAD and OPTIONS. Use another key."
)
OPERATION_NOT_ALLOWED = Refusal("operation_not_allowed")
NETWORK_NOT_ALLOWED = Refusal("ip_not_allowed")
REFERRER_NOT_ALLOWED = Refusal("referrer_not_allowed")


class Unreadable(ValueError):
    """Restrictions that were published and can't be read: nobody may call under them."""


class Site:
    """An entry such as `example.com`, `*.example.com`, `https://shop.example:8443`.

    A star stands for one or more labels and not for none. Without a scheme any scheme and port
    will do, with a scheme and no port that scheme's own.
    """

    __slots__ = ("_host", "_port", "_scheme", "_subdomains")

    def __init__(self, text: str):
        parts = _SITE.fullmatch(text)
        if parts is None:
            raise ValueError(f"“{text}” is not a site such as example.com or *.example.com.")
        self._scheme = (parts["scheme"] or "").lower()
        self._host = parts["host"].lower().rstrip(".")
        self._subdomains = parts["any"] is not None
        self._port = parts["port"] or DEFAULT_PORTS.get(self._scheme, "")

    def matches(self, scheme: str, host: str, port: str) -> bool:
        if self._scheme not in ("", scheme) or self._port not in ("", port):
            return False
        return host.endswith("." + self._host) if self._subdomains else host == self._host


def allows_origin(sites: tuple[Site, ...], origin: bytes) -> bool:
    """Whether an Origin or Referer field speaks of one of these sites."""
    parts = _ORIGIN.match(origin.decode("latin-1"))
    if parts is None:
        return False
    scheme, host = parts["scheme"].lower(), parts["host"].lower().rstrip(".")
    port = parts["port"] or DEFAULT_PORTS[scheme]
    return any(site.matches(scheme, host, port) for site in sites)


class Restrictions:
    """The restrictions of one key at one revision. What it does not name is free.

    Raises `Unreadable`.
    """

    __slots__ = ("_networks", "_operations", "_read_only", "_sites", "revision")

    def __init__(self, revision: bytes, text: bytes):
        self.revision = revision
        try:
            given = json.loads(text)
            self._networks = tuple(ip_network(network) for network in given.get("networks", ()))
            self._sites = tuple(Site(site) for site in given.get("referrers", ()))
            self._operations = frozenset(given.get("operations", ()))
            self._read_only = bool(given.get("read_only"))
        except ValueError as error:
            raise Unreadable(str(error)) from error

    def judge(self, call: Call, operation: str | None) -> Refusal | None:
        """What the call is refused for, if it is.

        operation: behind its API's slug; None where there is none, which is refused anyway
        """
        if self._networks and not _is_within(call.client, self._networks):
            return NETWORK_NOT_ALLOWED
        if self._sites and not allows_origin(self._sites, call.referrer):
            return REFERRER_NOT_ALLOWED
        if self._read_only and call.method not in READING_METHODS:
            return READ_ONLY
        if self._operations and operation is not None and operation not in self._operations:
            return OPERATION_NOT_ALLOWED
        return None


class Remembered:
    """The restrictions that this process has met lately, by the key's digest."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Restrictions] = OrderedDict()

    def get(self, digest: str) -> Restrictions | None:
        held = self._held.get(digest)
        if held is not None:
            self._held.move_to_end(digest)
        return held

    def put(self, digest: str, restrictions: Restrictions) -> None:
        self._held[digest] = restrictions
        self._held.move_to_end(digest)
        if len(self._held) > REMEMBERED:
            self._held.popitem(last=False)


def _is_within(client: bytes, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        address = ip_address(client.decode("latin-1"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
