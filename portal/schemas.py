"""Says in words, rows and examples what the JSON Schemas of an OpenAPI document mean.

For people who read a reference, not for validation: constraints that don't help them are left
out. Takes documents that `gateway.openapi` has read; depth and size of what it makes are bounded,
however the schemas refer to one another.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gateway import openapi

MAX_ROWS = 100
MAX_DEPTH = 6
MAX_STEPS = 400
MAX_CHOICES = 8

STRINGS_BY_FORMAT = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T09:30:00Z",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "time": "09:30:00Z",
    "uri": "https://example.com/",
    "uuid": "0196f3a2-7c1e-7b3a-9a51-3f1d2c4b5a69",
}

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """One row of a schema's table; `name` is a way into the data such as `items[].price`."""

    name: str
    type: str
    required: bool
    description: str


def type_of(document: Document, schema: Any) -> str:
    """The type in a reader's words: `integer from 1 to 50`, `array of date`, `string or null`."""
    return _Reading(document).words(schema)


def fields(document: Document, schema: Any) -> tuple[Field, ...]:
    """The members of an object, and of the objects in it, row by row; 100 rows at most."""
    return tuple(islice(_Reading(document).rows(schema, "", 0), MAX_ROWS))


def example(document: Document, schema: Any) -> Any:
    """A value that the schema allows: its own example if it has one, else one made of its types."""
    return _Reading(document).value(schema, 0)


def choices(document: Document, schema: Any) -> tuple[str, ...]:
    """All that an enumerated value may be; empty for any other."""
    whole = _Reading(document).whole(schema)
    return tuple(map(literal, whole.get("enum", ())))


def literal(value: Any) -> str:
    """A value as JSON writes it, strings without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Reading:
    """One walk through schemas, which ends after so many steps whatever they refer to.

    Past the last step every schema is empty: any type, no members.
    """

    def __init__(self, document: Document):
        self.document = document
        self.steps = MAX_STEPS

    def whole(self, schema: Any) -> dict[str, Any]:
        """A schema as a dict, references followed and the parts of `allOf` put together."""
        self.steps -= 1
        if not isinstance(schema, dict) or self.steps < 0:
            return {}
        if "$ref" in schema:
            target = openapi.resolve(self.document, schema["$ref"])
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            return self.whole({**(target if isinstance(target, dict) else {}), **beside})
        if "allOf" not in schema:
            return schema
        together: dict[str, Any] = {}
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        for part in (*map(self.whole, schema["allOf"]), rest):
            together |= {
                **part,
                "properties": together.get("properties", {}) | part.get("properties", {}),
                "required": [*together.get("required", []), *part.get("required", [])],
            }
        return together

    def words(self, schema: Any) -> str:
        whole = self.whole(schema)
        if variants := whole.get("oneOf") or whole.get("anyOf"):
            return " or ".join(dict.fromkeys(map(self.words, variants)))
        if "const" in whole:
            return f"always {literal(whole['const'])}"
        if choices := whole.get("enum"):
            shown = ", ".join(map(literal, choices[:MAX_CHOICES]))
            return f"one of {shown}{', …' if len(choices) > MAX_CHOICES else ''}"
        declared = whole.get("type", "object" if whole.get("properties") else "any")
        types = declared if isinstance(declared, list) else [declared]
        words = [self.simple(whole, name) for name in types if name != "null"]
        if "null" in types or whole.get("nullable"):
            words.append("null")
        return " or ".join(words)

    def simple(self, schema: dict[str, Any], name: str) -> str:
        if name == "array":
            return f"array of {self.words(schema.get('items', {}))}"
        if name == "string":
            return str(schema.get("format", "string"))
        low, high = schema.get("minimum"), schema.get("maximum")
        if name not in ("integer", "number") or (low is None and high is None):
            return name
        if high is None:
            return f"{name}, at least {low}"
        return f"{name}, at most {high}" if low is None else f"{name} from {low} to {high}"

    def rows(self, schema: Any, prefix: str, depth: int) -> Iterator[Field]:
        whole = self.whole(schema)
        if depth > MAX_DEPTH:
            return
        if "items" in whole:
            yield from self.rows(whole["items"], f"{prefix}[]", depth + 1)
        for variant in whole.get("oneOf") or whole.get("anyOf") or ():
            yield from self.rows(variant, prefix, depth + 1)
        for name, member in whole.get("properties", {}).items():
            path = f"{prefix}.{name}" if prefix else name
            yield Field(
                name=path,
                type=type_of(self.document, member),
                required=name in whole.get("required", ()),
                description=self.whole(member).get("description", ""),
            )
            yield from self.rows(member, path, depth + 1)

    def value(self, schema: Any, depth: int) -> Any:
        whole = self.whole(schema)
        for key in ("example", "const", "default"):
            if key in whole:
                return whole[key]
        for key in ("examples", "enum"):
            if isinstance(whole.get(key), list) and whole[key]:
                return whole[key][0]
        if variants := whole.get("oneOf") or whole.get("anyOf"):
            return None if depth > MAX_DEPTH else self.value(variants[0], depth + 1)
        declared = whole.get("type", "object" if whole.get("properties") else "null")
        name = declared[0] if isinstance(declared, list) else declared
        deeper = depth < MAX_DEPTH and self.steps > 0
        if name == "object":
            properties = whole.get("properties", {}) if deeper else {}
            return {key: self.value(member, depth + 1) for key, member in properties.items()}
        if name == "array":
            return [self.value(whole.get("items", {}), depth + 1)] if deeper else []
        if name in ("integer", "number"):
            return whole.get("minimum", whole.get("maximum", 1))
        if name == "string":
            return STRINGS_BY_FORMAT.get(whole.get("format", ""), "string")
        return True if name == "boolean" else None
