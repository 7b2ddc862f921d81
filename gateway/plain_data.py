"""Reads JSON and YAML written by strangers into plain data, within bounds.

Owns the refusal of everything that makes such text dangerous or ambiguous: size, depth, aliases
that multiply (billion laughs), keys given twice (two readers would see two documents), and values
that Postgres' jsonb cannot hold. Knows nothing of OpenAPI.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

MAX_BYTES = 5 * 1000 * 1000
MAX_DEPTH = 80
MAX_NODES = 300_000

MERGE_TAG = "tag:yaml.org,2002:merge"
STRING_TAG = "tag:yaml.org,2002:str"


class Unreadable(Exception):
    """The text cannot be read; the message is a sentence for the person who brought it."""


def load(text: bytes) -> Any:
    """JSON or YAML as dicts with string keys, lists, strings, numbers, booleans and None.

    YAML is read by the JSON schema of YAML 1.2, as OpenAPI asks: `no`, `012` and `2026-01-01`
    are strings, and so is the key `200`. Aliases and merge keys work until they multiply.
    Raises `Unreadable`.
    """
    if len(text) > MAX_BYTES:
        raise Unreadable("The document is larger than 5 MB.")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("The document is not text in UTF-8.") from None
    try:
        data = _json(decoded) if decoded.lstrip()[:1] == "{" else _yaml(decoded)
    except RecursionError:
        _refuse_depth()
    _check(data)
    return data


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Unreadable(
            f"The document is not valid JSON: {error.msg} at line {error.lineno}, "
            f"column {error.colno}."
        ) from None
    except ValueError:
        raise Unreadable("The document has a number with too many digits.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise Unreadable(f"The document gives the key '{key[:80]}' twice in one object.")
        members[key] = value
    return members


class _Loader(yaml.CSafeLoader):
    """Plain data only, resolved by YAML 1.2's JSON schema, with merge keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if key.tag != MERGE_TAG:
                key.tag = STRING_TAG
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"-?(0|[1-9][0-9]*)", list("-0123456789")),
    ("float", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", list("-0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
    )


def _yaml(text: str) -> Any:
    try:
        _measure(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a safe loader with fewer types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Unreadable(f"The document is not valid YAML: {error.problem}{where}.") from None
    except yaml.YAMLError:
        raise Unreadable("The document has characters that YAML does not allow.") from None
    except ValueError:
        raise Unreadable("The document has a value that does not fit its YAML type.") from None


@dataclass
class _Collection:
    """An open list or mapping while its events pass by; `keys` is None for a list."""

    anchor: str | None
    nodes_before: int
    keys: set[str] | None
    at_key: bool = True


def _measure(text: str) -> None:
    """Refuse by the parser's events, before anything is built.

    Counts nodes as if every alias were written out, so that the count bounds whatever later walks
    the data.
    """
    nodes = 0
    size_by_anchor: dict[str, int] = {}
    enclosing: list[_Collection] = []
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            closed = enclosing.pop()
            if closed.anchor:
                size_by_anchor[closed.anchor] = nodes - closed.nodes_before
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if enclosing:
            _check_key(enclosing[-1], event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in size_by_anchor:
                raise Unreadable(f"The YAML alias '*{event.anchor}' refers to nothing before it.")
            nodes += size_by_anchor[event.anchor]
        else:
            nodes += 1
            if isinstance(event, yaml.ScalarEvent):
                if event.anchor:
                    size_by_anchor[event.anchor] = 1
            else:
                is_mapping = isinstance(event, yaml.MappingStartEvent)
                enclosing.append(
                    _Collection(event.anchor, nodes - 1, set() if is_mapping else None)
                )
        if len(enclosing) > MAX_DEPTH:
            _refuse_depth()
        if nodes > MAX_NODES:
            _refuse_nodes()


def _check_key(parent: _Collection, event: yaml.NodeEvent) -> None:
    if parent.keys is None:
        return
    if parent.at_key:
        where = f" at line {event.start_mark.line + 1}" if event.start_mark else ""
        if not isinstance(event, yaml.ScalarEvent):
            raise Unreadable(f"The YAML key{where} is not plain text.")
        if event.value in parent.keys:
            raise Unreadable(
                f"The document gives the key '{event.value[:80]}' twice in one object, "
                f"again{where}."
            )
        parent.keys.add(event.value)
    parent.at_key = not parent.at_key


def _check(data: Any) -> None:
    """Refuse what is too deep or large, and what JSON in Postgres cannot hold."""
    nodes = 0
    pending: list[tuple[Any, int]] = [(data, 0)]
    while pending:
        value, depth = pending.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            _refuse_depth()
        if nodes > MAX_NODES:
            _refuse_nodes()
        if isinstance(value, dict):
            pending.extend((key, depth) for key in value)
            pending.extend((member, depth + 1) for member in value.values())
        elif isinstance(value, list):
            pending.extend((member, depth + 1) for member in value)
        elif isinstance(value, str):
            _check_text(value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise Unreadable("The document has a number that is too large.")
        elif value is not None and not isinstance(value, int):
            raise Unreadable("The document has a YAML value that JSON does not know.")


def _check_text(text: str) -> None:
    if "\0" in text or (not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)):
        raise Unreadable("The document has a NUL or half a character in a string.")


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable(f"The document has {name}, which is not a number in JSON.")


def _refuse_depth() -> NoReturn:
    raise Unreadable(f"The document nests deeper than {MAX_DEPTH} levels.")


def _refuse_nodes() -> NoReturn:
    raise Unreadable(f"The document has more than {MAX_NODES:,} values, aliases written out.")
