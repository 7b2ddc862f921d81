"""Checks a form-encoded request against typed parameters of Stripe's library, made strict.

A name that isn't there, a name that is missing, a value of another type or of no listed literal
is a complaint. The library's `Literal[...] | str` counts as the literals alone.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

from stripe import RequestOptions, StripeContext

# What the options of every request are typed with, beside a request's own names.
_OF_OPTIONS = {"Mapping": Mapping, "StripeContext": StripeContext}
_PATTERNS: dict[Any, str] = {
    int: r"-?[0-9]{1,16}",
    float: r"-?[0-9]{1,16}(\.[0-9]+)?",
    Decimal: r"-?[0-9]{1,16}(\.[0-9]{1,12})?",
    bool: r"true|false",
}


def nested(encoded: str) -> dict[str, Any]:
    """`a[b][0]=c` as {"a": {"b": {"0": "c"}}}."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        *path, last = re.findall(r"[^\[\]]+", name)
        place = found
        for part in path:
            place = place.setdefault(part, {})
        assert last not in place, f"{name} is there twice"
        place[last] = value
    return found


def complaints(expected: Any, given: Any, where: str = "") -> list[str]:
    """What is wrong with a value; nothing where it is as the type says."""
    if hasattr(expected, "__required_keys__"):
        return _of_dict(expected, given, where)
    origin, args = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        arms = [arm for arm in args if arm is not str or not _lists_literals(args)]
        tried = [complaints(arm, given, where) for arm in arms]
        return [] if [] in tried else min(tried, key=len)
    if origin is Literal:
        return [] if given in args else [f"{where}: {given!r} is none of {args}"]
    if origin is list:
        return _of_list(args[0], given, where)
    if origin is dict:
        if not isinstance(given, dict):
            return [f"{where}: {given!r} is no mapping"]
        return [said for n, v in given.items() for said in complaints(args[1], v, f"{where}[{n}]")]
    if not isinstance(given, str):
        return [f"{where}: {given!r} is no {expected}"]
    if expected in _PATTERNS and not re.fullmatch(_PATTERNS[expected], given):
        return [f"{where}: {given!r} is no {expected.__name__}"]
    return [] if expected in (str, *_PATTERNS) else [f"{where}: no check for {expected}"]


def _of_dict(expected: Any, given: Any, where: str) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where}: {given!r} is no mapping"]
    options = set(RequestOptions.__annotations__)
    hints = get_type_hints(expected, _OF_OPTIONS | vars(sys.modules[expected.__module__]))
    missing = expected.__required_keys__ - options - given.keys()
    said = [f"{where}: {name} is missing" for name in sorted(missing)]
    for name, value in given.items():
        if name not in hints or name in options:
            said.append(f"{where}: {name} is unknown")
        else:
            said += complaints(hints[name], value, f"{where}[{name}]" if where else name)
    return said


def _of_list(expected: Any, given: Any, where: str) -> list[str]:
    if not isinstance(given, dict) or list(given) != [str(n) for n in range(len(given))]:
        return [f"{where}: {given!r} is no list"]
    return [said for n, v in given.items() for said in complaints(expected, v, f"{where}[{n}]")]


def _lists_literals(arms: tuple[Any, ...]) -> bool:
    """`Literal[""] | str` lists none: it says that a text may be emptied."""
    return any(get_origin(arm) is Literal and get_args(arm) != ("",) for arm in arms)
