"""The API reference: an OpenAPI document as the groups, tables and samples of a page.

Shows what is on sale and what it costs there, which may be less or other than what the document
describes. Knows nothing of requests: `templates/docs/_reference.html` draws what is made here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from django.conf import settings

from gateway import openapi
from gateway.models import Api
from portal import schemas, snippets
from portal.prose import html, inline

# Fields that an OpenAPI document may list and must not define (OpenAPI 3.1, Parameter Object).
IGNORED_HEADERS = {"accept", "authorization", "content-type"}
OTHER = "Operations"


@dataclass(frozen=True)
class Cost:
    """What one call of an operation uses, by meter, as the gateway counts it."""

    weights: Mapping[str, int]
    max_units: Mapping[str, int]
    scope: str = ""


@dataclass(frozen=True)
class Parameter:
    """`place` is path, query, header or cookie; `value` is an example as it is typed, or empty."""

    name: str
    place: str
    type: str
    required: bool
    description: str
    value: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Body:
    """The body of a request or a response; `example` is text ready to show or to send."""

    media_type: str
    required: bool
    description: str
    fields: tuple[schemas.Field, ...]
    example: str


@dataclass(frozen=True)
class Response:
    """`status` is as in the document: `200`, `4XX`, `default`."""

    status: str
    description: str
    body: Body | None


@dataclass(frozen=True)
class Sample:
    """A program that makes the call; `id` is its language for machines."""

    id: str
    language: str
    text: str


@dataclass(frozen=True)
class Operation:
    """One operation; `costs` are sentences, none if a call costs one call."""

    method: str
    path: str
    anchor: str
    summary: str
    description: str
    deprecated: bool
    costs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    body: Body | None
    responses: tuple[Response, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Group:
    """The operations of a tag, by path."""

    name: str
    anchor: str
    description: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Reference:
    title: str
    version: str
    description: str
    base_url: str
    groups: tuple[Group, ...]


def of(api: Api) -> Reference | None:
    """The reference of an API's operations on sale; None without a document."""
    if api.document is None:
        return None
    costs = {
        (row.method, row.path_template): Cost(row.weights, row.max_units, row.scope)
        for row in api.operations.all()
    }
    made = build(api.document, gateway_url(api), costs)
    return replace(made, description=html(api.description)) if api.description else made


def gateway_url(api: Api) -> str:
    """Where calls of an API go, e.g. `https://api.example.com/gateway/holidays`."""
    return f"{settings.GATEWAY_URL}/gateway/{api.slug}"


def build(
    document: Mapping[str, Any], base_url: str, costs: Mapping[tuple[str, str], Cost]
) -> Reference:
    """The reference of a valid document: those of its operations that `costs` has.

    `base_url` is where calls go.
    """
    by_tag: dict[str, list[Operation]] = {tag["name"]: [] for tag in document.get("tags", ())}
    anchors: set[str] = set()
    for method, path, item, raw in _on_sale(document, costs):
        anchor = _unused(anchors, _slug(raw.get("operationId") or f"{method} {path}"))
        reader = _OperationReader(document, f"{base_url}{path}", method, item, raw)
        tag = next(iter(raw.get("tags", ())), OTHER)
        by_tag.setdefault(tag, []).append(reader.read(path, anchor, costs[method, path]))
    descriptions = {tag["name"]: tag.get("description", "") for tag in document.get("tags", ())}
    info = document["info"]
    return Reference(
        title=info["title"],
        version=info["version"],
        description=html(info.get("description", "")),
        base_url=base_url,
        groups=tuple(
            Group(
                name=tag,
                anchor=_unused(anchors, _slug(tag)),
                description=html(descriptions.get(tag, "")),
                operations=tuple(operations),
            )
            for tag, operations in by_tag.items()
            if operations
        ),
    )


def _on_sale(
    document: Mapping[str, Any], costs: Mapping[tuple[str, str], Cost]
) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Method, path, path item and operation, by path: jsonb keeps no order of its own."""
    for path, item in sorted(openapi.path_items(document)):
        for method in openapi.METHODS:
            if method in item and (method.upper(), path) in costs:
                yield method.upper(), path, item, item[method]


def _slug(text: str) -> str:
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", text)
    return re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-") or "operation"


def _unused(anchors: set[str], wanted: str) -> str:
    anchor, number = wanted, 2
    while anchor in anchors:
        anchor, number = f"{wanted}-{number}", number + 1
    anchors.add(anchor)
    return anchor


def _cost_sentences(cost: Cost) -> Iterator[str]:
    for meter, units in sorted(cost.weights.items()):
        if (meter, units) != (openapi.CALLS, 1):
            yield f"Counts as {units:,} {meter}."
    for meter, units in sorted(cost.max_units.items()):
        yield f"Uses up to {units:,} {meter}, as the answer reports."
    if cost.scope:
        yield f"Needs “{cost.scope}”, which an add-on opens."


class _OperationReader:
    """Reads one operation of a document; `url` is its address with the template's parameters."""

    def __init__(
        self,
        document: Mapping[str, Any],
        url: str,
        method: str,
        item: dict[str, Any],
        raw: dict[str, Any],
    ):
        self.document = document
        self.url = url
        self.method = method
        self.raw = raw
        self.parameters = self._parameters(item)

    def read(self, path: str, anchor: str, cost: Cost) -> Operation:
        request = self._resolved(self.raw.get("requestBody", {}))
        body = self._body(request)
        responses = tuple(self._responses())
        call = self._call(request, responses)
        return Operation(
            method=self.method,
            path=path,
            anchor=anchor,
            summary=self.raw.get("summary") or f"{self.method} {path}",
            description=html(self.raw.get("description", "")),
            deprecated=self.raw.get("deprecated", False),
            costs=tuple(_cost_sentences(cost)),
            parameters=tuple(map(self._parameter, self.parameters)),
            body=body,
            responses=responses,
            samples=(
                Sample("curl", "curl", snippets.curl(call)),
                Sample("python", "Python", snippets.python(call)),
                Sample("javascript", "JavaScript", snippets.javascript(call)),
            ),
        )

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in node:
            return node
        target: dict[str, Any] = openapi.resolve(self.document, node["$ref"])
        return target

    def _parameters(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """The path item's and the operation's own, which win; required ones first."""
        named: dict[tuple[str, str], dict[str, Any]] = {}
        for node in (*item.get("parameters", ()), *self.raw.get("parameters", ())):
            parameter = self._resolved(node)
            named[parameter["in"], parameter["name"]] = parameter
        shown = [
            parameter
            for (place, name), parameter in named.items()
            if place != "header" or name.lower() not in IGNORED_HEADERS
        ]
        return sorted(shown, key=lambda parameter: not parameter.get("required", False))

    def _schema(self, parameter: dict[str, Any]) -> Any:
        _, content = self._content(parameter) or ("", parameter)
        return content.get("schema", {})

    def _parameter(self, parameter: dict[str, Any]) -> Parameter:
        schema = self._schema(parameter)
        value = self._value(parameter)
        return Parameter(
            name=parameter["name"],
            place=parameter["in"],
            type=schemas.type_of(self.document, schema),
            required=parameter.get("required", False),
            description=inline(parameter.get("description", "")),
            value="" if value is None else _typed(value),
            choices=schemas.choices(self.document, schema),
        )

    def _value(self, parameter: dict[str, Any]) -> Any:
        """The parameter's example; one made up only if a call can't go without it."""
        found, value = self._given_example(parameter)
        if found or not parameter.get("required", False):
            return value
        return schemas.example(self.document, self._schema(parameter))

    def _given_example(self, holder: dict[str, Any]) -> tuple[bool, Any]:
        """Whether a parameter or media type object brings an example, and which."""
        if "example" in holder:
            return True, holder["example"]
        for example in map(self._resolved, holder.get("examples", {}).values()):
            if "value" in example:
                return True, example["value"]
        return False, None

    def _content(self, holder: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """The media type to show of several: JSON if it is there."""
        content = holder.get("content", {})
        for media_type in sorted(content, key=lambda name: "json" not in name):
            return media_type, content[media_type]
        return None

    def _example(self, content: dict[str, Any]) -> Any:
        found, value = self._given_example(content)
        return value if found else schemas.example(self.document, content.get("schema", {}))

    def _body(self, holder: dict[str, Any]) -> Body | None:
        chosen = self._content(holder)
        if chosen is None:
            return None
        media_type, content = chosen
        example = self._example(content)
        return Body(
            media_type=media_type,
            required=holder.get("required", False),
            description=html(holder.get("description", "")),
            fields=tuple(
                replace(row, description=inline(row.description))
                for row in schemas.fields(self.document, content.get("schema", {}))
            ),
            example=example
            if isinstance(example, str)
            else json.dumps(example, indent=2, ensure_ascii=False),
        )

    def _responses(self) -> Iterator[Response]:
        for status, node in sorted(self.raw.get("responses", {}).items()):
            response = self._resolved(node)
            yield Response(status, inline(response["description"]), self._body(response))

    def _call(self, request: dict[str, Any], responses: tuple[Response, ...]) -> snippets.Call:
        url = self.url
        query: dict[str, str | list[str]] = {}
        headers: dict[str, str] = {}
        for parameter in self.parameters:
            name, value = parameter["name"], self._value(parameter)
            if parameter["in"] == "path":
                url = url.replace(f"{{{name}}}", quote(_typed(value), safe=""))
            elif value is not None and parameter["in"] == "query":
                query[name] = [_typed(one) for one in value] if _is_list(value) else _typed(value)
            elif value is not None and parameter["in"] == "header":
                headers[name] = _typed(value)
        media_type, content = self._content(request) or ("", {})
        success = next((found for found in responses if found.status.startswith("2")), None)
        return snippets.Call(
            method=self.method,
            url=url,
            query=query,
            headers=headers,
            body=self._example(content) if media_type else None,
            media_type=media_type,
            answers_json=bool(success and success.body and "json" in success.body.media_type),
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _typed(value: Any) -> str:
    """A parameter's value as it is typed into a form or an address."""
    return ",".join(map(_typed, value)) if _is_list(value) else schemas.literal(value)
