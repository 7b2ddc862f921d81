"""The call that a newcomer makes first: chosen from an API's OpenAPI document, ready to paste.

Reads only the document's own examples and makes nothing up: without them there is no sample.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings

from gateway import openapi
from gateway.models import Api

KEY_VARIABLE = "$KEYSTILE_KEY"


@dataclass(frozen=True)
class Sample:
    """One call of an API. `answer` is the document's example, indented JSON, or empty."""

    url: str
    summary: str
    answer: str

    def curl(self, key: str = KEY_VARIABLE) -> str:
        """The command as it is pasted; in double quotes, so that a shell fills in a variable."""
        return f'curl "{self.url}" \\\n  -H "Authorization: Bearer {key}"'


def first_call(api: Api) -> Sample | None:
    """The first GET whose required parameters all have examples, or None.

    One that takes a parameter and shows its answer says more than a bare list, so it wins.
    """
    found = list(_candidates(api))
    speaking = [sample for sample, takes_parameter in found if takes_parameter and sample.answer]
    return speaking[0] if speaking else found[0][0] if found else None


def _candidates(api: Api) -> Iterator[tuple[Sample, bool]]:
    document: dict[str, Any] = api.document or {}
    for template, item in document.get("paths", {}).items():
        operation = item.get("get")
        if not isinstance(operation, dict) or operation.get("deprecated"):
            continue
        parameters = [
            _resolved(document, parameter)
            for parameter in (*item.get("parameters", ()), *operation.get("parameters", ()))
        ]
        required = [parameter for parameter in parameters if parameter.get("required")]
        values = {(p["in"], p["name"]): _example(p) for p in required}
        if None in values.values() or any(place not in ("path", "query") for place, _ in values):
            continue
        path = template
        for (place, name), value in values.items():
            if place == "path":
                path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
        query = urlencode(
            {name: value for (place, name), value in values.items() if place == "query"}
        )
        yield (
            Sample(
                url=f"{settings.GATEWAY_URL}/gateway/{api.slug}{path}{'?' if query else ''}{query}",
                summary=operation.get("summary", ""),
                answer=_answer(document, operation),
            ),
            any(place == "path" for place, _ in values),
        )


def _resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return openapi.resolve(document, reference) if reference else node


def _example(parameter: dict[str, Any]) -> Any:
    if "example" in parameter:
        return parameter["example"]
    for example in parameter.get("examples", {}).values():
        return example.get("value")
    schema = parameter.get("schema", {})
    return schema.get("example", next(iter(schema.get("examples", ())), schema.get("default")))


def _answer(document: dict[str, Any], operation: dict[str, Any]) -> str:
    response = _resolved(document, operation.get("responses", {}).get("200", {}))
    for media_type, content in response.get("content", {}).items():
        if media_type == "application/json" and "example" in content:
            return json.dumps(content["example"], indent=2, ensure_ascii=False)
    return ""
