"""Reads the bodies of providers' webhooks, which are hostile until proved otherwise."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from billing.providers import Forged


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object that Postgres can store: no NaN, NUL or lone surrogate.

    Raises `Forged`.
    """
    try:
        payload = json.loads(body, parse_constant=_refuse)
        text = json.dumps(payload, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, RecursionError) as error:
        raise Forged(f"The body is no JSON: {error}") from error
    if not isinstance(payload, dict) or "\\u0000" in text:
        raise Forged("The body is no JSON object, or holds a NUL.")
    return payload


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON.")
