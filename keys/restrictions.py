"""What may be asked of a key besides its account's terms: from where, what, how much, how long.

Owns the rules that such settings must pass, for pages and the API alike, and the words in which
they are told. Pure: reads no database, judges no call (the gateway does).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from django.utils.formats import date_format
from django.utils.timezone import localtime

from keys.models import ApiKey, Entitlement

FIELDS = (
    "allowed_networks",
    "allowed_referrers",
    "allowed_operations",
    "read_only",
    "rate_per_second",
    "burst",
    "monthly_quota",
)
"""What a successor takes over; `name` and `expires_at` may be changed as well."""

MAX_ENTRIES = 100
MAX_OPERATIONS = 1000
NAME_CHARACTERS = 80
SMALLEST_RATE = Decimal("0.001")
LARGEST_QUOTA = 10**15

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_SITE = re.compile(
    rf"(?P<scheme>https?://)?(?P<wildcard>\*\.)?(?P<host>{_LABEL}(?:\.{_LABEL})*)"
    r"(?P<port>:[0-9]{1,5})?/?",
    re.ASCII,
)


class Invalid(Exception):
    """Settings that can't be taken: sentences by field."""

    def __init__(self, errors: Mapping[str, list[str]]):
        super().__init__("; ".join(f"{name}: {' '.join(said)}" for name, said in errors.items()))
        self.errors = errors


def checked(
    given: Mapping[str, Any],
    *,
    on_sale: Collection[str],
    entitlement: Entitlement | None,
    now: datetime,
    held: ApiKey | None = None,
) -> dict[str, Any]:
    """The given settings in normal form: only the fields that were given. Raises `Invalid`.

    given:   any of FIELDS, `name`, `expires_at`; lists of strings, numbers or None
    on_sale: operations behind their API's slug, "holidays GET /v1/next/{country}"
    held:    the key that is changed; what it has already may stay as it is
    """
    errors: dict[str, list[str]] = {}
    taken: dict[str, Any] = {}

    def take(name: str, found: Any, faults: list[str]) -> None:
        taken[name] = found
        if faults:
            errors[name] = faults

    if "name" in given:
        take("name", *_name(given["name"]))
    if "allowed_networks" in given:
        take("allowed_networks", *_each(given["allowed_networks"], _network, MAX_ENTRIES))
    if "allowed_referrers" in given:
        take("allowed_referrers", *_each(given["allowed_referrers"], _referrer, MAX_ENTRIES))
    if "allowed_operations" in given:
        known = {*on_sale, *(held.allowed_operations if held else ())}
        entries = given["allowed_operations"]
        take("allowed_operations", *_operations(entries, known))
    if "read_only" in given:
        taken["read_only"] = bool(given["read_only"])
    terms = entitlement.terms if entitlement is not None else {}
    for name, most in (
        ("rate_per_second", terms.get("rate_per_second")),
        ("burst", terms.get("burst")),
        ("monthly_quota", terms.get("meters", {}).get("calls", {}).get("limit")),
    ):
        if name in given:
            take(name, given[name], _limit(name, given[name], most))
    if "expires_at" in given:
        unchanged = held is not None and held.expires_at == given["expires_at"]
        passed = given["expires_at"] is not None and given["expires_at"] <= now
        faults = ["This moment is over. Choose a later one."] if passed and not unchanged else []
        take("expires_at", given["expires_at"], faults)
    has_rate = given.get("rate_per_second", held.rate_per_second if held else None) is not None
    if taken.get("burst") is not None and not has_rate:
        errors.setdefault("burst", []).append("A burst needs a rate beside it.")
    if taken.get("rate_per_second", 1) is None and "burst" not in given:
        taken["burst"] = None
    if errors:
        raise Invalid(errors)
    return taken


def in_words(key: ApiKey) -> dict[str, str]:
    """What the key may do, by what it is about: {"Called from": "anywhere", …}."""
    return {
        "Called from": ", ".join(key.allowed_networks) or "anywhere",
        "Web pages": ", ".join(key.allowed_referrers) or "any, or none",
        "Operations": ", ".join(key.allowed_operations) or "all",
        "Methods": "GET, HEAD and OPTIONS" if key.read_only else "all",
        "Rate": _rate_in_words(key),
        "Quota": (
            "the account’s"
            if key.monthly_quota is None
            else f"{key.monthly_quota:,} {_calls(key.monthly_quota)} in a billing period"
        ),
        "Expires": _moment(key.expires_at),
    }


def is_restricted(key: ApiKey) -> bool:
    """Whether the key may do less than its account."""
    return any(getattr(key, name) not in ([], False, None) for name in FIELDS)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What differs between two answers of `in_words`: “Rate: the account’s → 2 a second”."""
    return [
        f"{about}: {before[about]} → {words}"
        for about, words in after.items()
        if before[about] != words
    ]


def _name(text: Any) -> tuple[str, list[str]]:
    name = str(text).strip()
    if not name or len(name) > NAME_CHARACTERS or not name.isprintable():
        return name, [f"A name has 1 to {NAME_CHARACTERS} characters, on one line."]
    return name, []


def _each(entries: Sequence[str], read: Any, most: int) -> tuple[list[str], list[str]]:
    """Every entry in normal form, none twice; a sentence for each that can't be read."""
    if len(entries) > most:
        return [], [f"There are {len(entries)} entries; {most} is the most."]
    found: dict[str, None] = {}
    faults = []
    for number, entry in enumerate(entries, start=1):
        if not entry.strip():
            continue
        normal, fault = read(entry.strip())
        if fault:
            faults.append(f"Line {number}, “{entry.strip()[:60]}”, {fault}")
        else:
            found[normal] = None
    return list(found), faults


def _network(text: str) -> tuple[str, str]:
    fault = "is not an address or a network such as 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32."
    if "%" in text:
        return "", fault
    try:
        network: IPv4Network | IPv6Network = ip_network(text, strict=False)
    except ValueError:
        return "", fault
    mapped = network.network_address
    if network.version == 6 and mapped.ipv4_mapped is not None and network.prefixlen >= 96:  # type: ignore[union-attr]
        network = ip_network(f"{mapped.ipv4_mapped}/{network.prefixlen - 96}")  # type: ignore[union-attr]
    return str(network), ""


def _referrer(text: str) -> tuple[str, str]:
    fault = "is not a site such as example.com, *.example.com or https://example.com:8443."
    try:
        site = text.lower() if text.isascii() else _ascii(text.lower())
    except UnicodeError:
        return "", fault
    shape = _SITE.fullmatch(site)
    if shape is None or len(site) > 253 or int((shape["port"] or ":1")[1:]) not in range(1, 65536):
        return "", fault
    return site.rstrip("/"), ""


def _ascii(site: str) -> str:
    """A site as browsers send it: each label that isn't ASCII in punycode."""
    scheme, mark, rest = site.rpartition("://")
    return (
        scheme
        + mark
        + ".".join(
            label if label.isascii() else label.encode("idna").decode() for label in rest.split(".")
        )
    )


def _operations(entries: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    if len(entries) > MAX_OPERATIONS:
        return [], [f"There are {len(entries)} operations; {MAX_OPERATIONS} is the most."]
    unknown = [f"“{entry[:100]}” is not on sale." for entry in entries if entry not in known]
    return sorted(set(entries)), unknown


def _limit(name: str, value: Decimal | int | None, most: int | None) -> list[str]:
    """What is wrong with a limit of the key's own; `most` is the account's, None without one."""
    if value is None:
        return []
    smallest = SMALLEST_RATE if name == "rate_per_second" else 1
    if value < smallest:
        return [f"The smallest is {smallest}."]
    if most is not None and value > most:
        return [f"Your plan allows the account {most:,}; a key can’t have more."]
    if value > LARGEST_QUOTA:
        return [f"The largest is {LARGEST_QUOTA:,}."]
    if name == "rate_per_second" and value != round(Decimal(value), 3):
        return ["A rate has three decimal places at most."]
    return []


def _rate_in_words(key: ApiKey) -> str:
    if key.rate_per_second is None:
        return "the account’s"
    rate = f"{key.rate_per_second.normalize():f} {_calls(key.rate_per_second)} a second"
    return rate if key.burst is None else f"{rate}, {key.burst:,} at once"


def _calls(count: Decimal | int) -> str:
    return "call" if count == 1 else "calls"


def _moment(moment: datetime | None) -> str:
    return "never" if moment is None else date_format(localtime(moment), "j F Y, H:i") + " UTC"
