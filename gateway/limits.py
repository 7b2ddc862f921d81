"""What a key may do and what is left of it: `GET /gateway/<api>/.limits`, which costs nothing.

Owns the reply's shape and `scripts/limits.lua`. Refuses a key as a call of it would be refused
whatever it asked for; counts nothing, not even that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import hiredis
import structlog

from gateway.admit import UNAVAILABLE, UNKNOWN_API, UNKNOWN_KEY, Gate
from gateway.intake import MISSING_KEY, Call
from gateway.link import Link, Script, Unavailable
from gateway.problems import Refusal
from gateway.restrictions import Restrictions, Unreadable
from keys import records
from keys.spend import SpendCap

log = structlog.get_logger(__name__)

PATH = b"/.limits"
SCRIPT = Script("limits.lua")
NOT_THIS_METHOD = Refusal("method_not_allowed", headers=((b"allow", b"GET, HEAD"),))


async def answer(link: Link, gate: Gate, call: Call) -> dict[str, Any] | Refusal:
    """The answer to a call of `.limits`."""
    if not call.said.digest:
        return MISSING_KEY
    if call.method not in ("GET", "HEAD"):
        return NOT_THIS_METHOD
    return await of_key(link, gate, call)


async def of_key(link: Link, gate: Gate, call: Call) -> dict[str, Any] | Refusal:
    """The limits of the call's key, as JSON has them; or why it has none here.

    account, key, plan, mode
    period:      start, end (RFC 3339)
    rate:        per_second, burst, remaining; likewise key_rate, or null
    quotas:      by meter: limit or null, included or null, used, remaining or null, resets_at
    key_quota:   limit, used, remaining, resets_at, or null
    concurrency: limit, running, or null
    credits:     balance, next_expiry or null; or null
    spend_cap:   cap_minor, spent_minor, currency, or null
    """
    if call.said.partition not in records.PARTITIONS:
        return UNKNOWN_KEY
    name = records.key_name(call.said.partition, call.said.digest)
    try:
        reply = await link.run(SCRIPT, 1, name, records.tag(call.said.partition), call.api)
    except Unavailable:  # nothing was charged, whatever became of it
        return UNAVAILABLE
    except hiredis.ReplyError as error:
        log.error("limits.failed", reason=str(error))
        return UNAVAILABLE
    code = reply[0].decode()
    if code == "unknown_key" and call.said.try_older():
        return await of_key(link, gate, call)
    if code == "unavailable":
        return UNAVAILABLE
    if code:
        return Refusal(code)
    key, account, mode, plan, revision, restrictions, version, told, cap = reply[1:]
    try:
        if restrictions:
            refusal = Restrictions(revision, restrictions).judge(call, None)
            if refusal is not None:
                return refusal
        if not await gate.sells(call.api, version.decode(), call.said.partition):
            return UNKNOWN_API
    except Unavailable:
        return UNAVAILABLE
    except Unreadable as error:
        log.error("restrictions.unreadable", key=key.decode(), reason=str(error))
        return UNAVAILABLE
    return {
        "account": account.decode(),
        "key": key.decode(),
        "plan": plan.decode(),
        "mode": mode.decode(),
        **_readable(json.loads(told), SpendCap.from_json(json.loads(cap)) if cap else None),
    }


def _readable(told: Mapping[str, Any], cap: SpendCap | None) -> dict[str, Any]:
    period_end, billing_end = _moment(told["period_end"]), _moment(told["billing_end"])
    used, limits = told["used"], told["limits"]
    key_quota, concurrency = told.get("key_quota"), told.get("concurrency")
    return {
        "period": {"start": _moment(told["period_start"]), "end": period_end},
        "rate": _rate(told["rate"]),
        "key_rate": _rate(told["key_rate"]) if "key_rate" in told else None,
        "quotas": {
            meter: {
                "limit": limits.get(meter),
                "included": told["included"].get(meter),
                "used": used[meter],
                "remaining": _left(limits.get(meter), used[meter]),
                "resets_at": period_end,
            }
            for meter in sorted(used)
        },
        "key_quota": None
        if key_quota is None
        else {
            "limit": key_quota,
            "used": told["key_used"],
            "remaining": _left(key_quota, told["key_used"]),
            "resets_at": billing_end,
        },
        "concurrency": None
        if concurrency is None
        else {"limit": concurrency, "running": told["running"]},
        "credits": None
        if "credits" not in told
        else {"balance": told["credits"], "next_expiry": _moment(told.get("credits_expire"))},
        "spend_cap": None
        if cap is None
        else {
            "cap_minor": cap.cap_minor,
            "spent_minor": cap.spent_minor(used, told["period_start"]),
            "currency": cap.currency,
        },
    }


def _rate(bucket: Mapping[str, Any]) -> dict[str, Any]:
    rate = float(bucket["per_second"])
    return {**bucket, "per_second": int(rate) if rate.is_integer() else rate}


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(limit - used, 0)


def _moment(epoch_s: int | None) -> str | None:
    if epoch_s is None:
        return None
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().replace("+00:00", "Z")
