"""The gateway's own errors: one code each, its status, its title and what to do about it.

Owns the list of codes and their form on the wire, RFC 9457 problem details. A refusal is a
value (`Refusal`); nothing here is raised.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http.client import responses
from typing import NamedTuple

from django.conf import settings

Headers = list[tuple[bytes, bytes]]

PROBLEMS: dict[str, tuple[int, str, str]] = {
    "missing_key": (
        401,
        "No API key",
        "Send your key as “Authorization: Bearer <key>” or as “X-API-Key: <key>”.",
    ),
    "malformed_key": (
        401,
        "Not a key",
        "This is not a Keystile key: a character is missing or mistyped. Copy the whole key again.",
    ),
    "unknown_key": (
        401,
        "Unknown key",
        "No account has this key. Create one on the keys page of the dashboard.",
    ),
    "revoked_key": (
        401,
        "Revoked key",
        "This key was revoked. Use another key of the account, or create one.",
    ),
    "expired_key": (
        401,
        "Expired key",
        "This key's time is over. Use the key that replaced it, or create one.",
    ),
    "invalid_token": (
        401,
        "No valid service token",
        "The seller's own programs ask this, with a living service token of the seller's that has "
        "the scope for it, as “Authorization: Bearer kst_…”.",
    ),
    "account_suspended": (
        403,
        "Account suspended",
        "The account was suspended by the seller. Write to support to have it lifted.",
    ),
    "payment_required": (
        402,
        "Payment required",
        "A payment has failed. Update the payment method on the billing page; "
        "keys work again at once.",
    ),
    "subscription_ended": (
        402,
        "Subscription ended",
        "The account has no subscription any more. Choose a plan; the same keys work again.",
    ),
    "ip_not_allowed": (
        403,
        "Address not allowed",
        "This key may not be used from your network address. Call from an allowed one, or change "
        "the key's restrictions on the keys page.",
    ),
    "referrer_not_allowed": (
        403,
        "Page not allowed",
        "This key may be used only from pages of certain sites. Call from one of them, or change "
        "the key's restrictions on the keys page.",
    ),
    "operation_not_allowed": (
        403,
        "Operation not allowed",
        "This key may not call this operation. Use another key, or change the key's restrictions "
        "on the keys page. An operation that an add-on opens says so.",
    ),
    "api_not_in_plan": (
        403,
        "API not in the plan",
        "The account's plan does not include this API. Choose a plan that does.",
    ),
    "unknown_api": (404, "Unknown API", "No API of this name is on sale here; see the docs."),
    "unknown_operation": (
        404,
        "Unknown operation",
        "The API has no such path. Compare it with the reference in the docs.",
    ),
    "method_not_allowed": (
        405,
        "Method not allowed",
        "This path exists, but not with this method; the Allow header lists those it takes.",
    ),
    "bad_request": (
        400,
        "Bad request",
        "The request can't be forwarded safely. Send it in plain, normal form.",
    ),
    "body_too_large": (
        413,
        "Body too large",
        "The request's body is larger than this API takes. Send less at a time.",
    ),
    "rate_limited": (
        429,
        "Too many requests",
        "Calls come faster than the plan allows. Wait for Retry-After seconds, then slow down.",
    ),
    "quota_exceeded": (
        429,
        "Quota exceeded",
        "The quota of this period is used up. Upgrade the plan, or wait until the period ends.",
    ),
    "concurrency_limited": (
        429,
        "Too many calls at once",
        "As many calls as the plan allows are running. Wait for one of them to end, then repeat.",
    ),
    "credits_exhausted": (
        402,
        "Credits exhausted",
        "The included units are used and no prepaid credits are left. Buy credits, or wait until "
        "the period ends.",
    ),
    "spend_cap_reached": (
        402,
        "Spend cap reached",
        "This call would cost more than the account's own spend cap allows. Raise the cap on the "
        "billing page, or wait until the period ends.",
    ),
    "upstream_unreachable": (
        502,
        "Upstream unreachable",
        "The API's backend could not be reached or broke off. The call is not billed; try again.",
    ),
    "upstream_timeout": (
        504,
        "Upstream timeout",
        "The API's backend took too long to answer. The call is not billed; try again later.",
    ),
    "limits_unavailable": (
        503,
        "Limits unavailable",
        "Limits can't be checked at the moment. Nothing was charged; repeat after Retry-After.",
    ),
}


class Refusal(NamedTuple):
    """A call that is answered by the gateway itself.

    detail:  a more exact sentence than the code's own
    wait_s:  seconds for Retry-After, 0 for none
    headers: further response headers
    lines:   more of them, as lines
    exact:   a status that says more than the code's own, 0 for none
    """

    code: str
    detail: str = ""
    wait_s: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    lines: bytes = b""
    exact: int = 0

    @property
    def status(self) -> int:
        return self.exact or PROBLEMS[self.code][0]

    def body(self) -> bytes:
        """The problem details, as JSON."""
        _, title, sentence = PROBLEMS[self.code]
        members = {
            "type": f"{settings.SITE_URL}/docs/errors#{self.code}",
            "title": title,
            "status": self.status,
            "detail": self.detail or sentence,
            "code": self.code,
        }
        if self.code in ("quota_exceeded", "subscription_ended", "api_not_in_plan"):
            members["upgrade"] = f"{settings.SITE_URL}/pricing"
        if self.code in ("payment_required", "credits_exhausted", "spend_cap_reached"):
            members["billing"] = f"{settings.SITE_URL}/dashboard/billing/"
        return json.dumps(members, ensure_ascii=False).encode()

    def head(self) -> bytes:
        """The answer's fields, as lines; framing is the server's."""
        fields = [
            (b"content-type", b"application/problem+json"),
            (b"cache-control", b"no-store"),
            (b"date", http_date()),
            *self.headers,
        ]
        if self.wait_s:
            fields.append((b"retry-after", b"%d" % self.wait_s))
        if self.status == 401:
            fields.append((b"www-authenticate", b'Bearer realm="keystile"'))
        return lines_of(fields) + self.lines


STATUS_LINES = {
    status: f"HTTP/1.1 {status} {responses.get(status, '')}\r\n".encode()
    for status in range(100, 600)
}


def lines_of(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header fields as they are written on the wire, each with its CRLF."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def fields_of(lines: bytes) -> Headers:
    """What `lines_of` has written, for those who need names and values; names in lower case."""
    pairs = (line.split(b": ", 1) for line in lines.split(b"\r\n") if line)
    return [(name.lower(), value) for name, value in pairs]


def http_date() -> bytes:
    """Now, for a Date field: the server is told not to write one (it would be the second)."""
    return _date_of(int(time.time()))


@lru_cache(maxsize=1)
def _date_of(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
