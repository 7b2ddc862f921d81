"""The call that a newcomer makes first: chosen from an API's reference, ready to paste."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from gateway import openapi
from gateway.catalogue import on_sale
from gateway.models import Api
from portal import reference, snippets

KEY_VARIABLE = "$KEYSTILE_KEY"


@dataclass(frozen=True)
class Sample:
    """One call of an API, and its document's answer or nothing."""

    operation: reference.Operation
    answer: str

    @property
    def curl(self) -> str:
        return self.operation.samples[0].text


def first_call(api: Api) -> Sample | None:
    """The GET that says most at a glance, or None for an API without one in its document.

    That is one that shows its answer and takes a parameter in its path; of several, the one
    with the fewest parameters, then the shortest path.
    """
    if api.document is None:
        return None
    sold = set(api.operations.filter(method="GET").values_list("path_template", flat=True))
    items = {
        path: item
        for path, item in openapi.path_items(api.document)
        if path in sold and "get" in item and not item["get"].get("deprecated", False)
    }
    if not items:
        return None

    def rank(path: str) -> tuple[bool, bool, int, int]:
        get = items[path]["get"]
        parameters = [*items[path].get("parameters", ()), *get.get("parameters", ())]
        shows_nothing = not _has_answer(api.document, get)
        return shows_nothing, "{" not in path, len(parameters), len(path)

    # This one alone is made: a whole reference takes a second where operations are thousands.
    cost = {("GET", min(items, key=rank)): reference.Cost({}, {})}
    shown = reference.build(api.document, reference.gateway_url(api), cost)
    operation = shown.groups[0].operations[0]
    return Sample(operation, _answer(operation))


def curl(key: str = KEY_VARIABLE, api: Api | None = None) -> str:
    """A command that works when pasted: the first call of the API, or of the first on sale."""
    api = api or on_sale().first()
    sample = first_call(api) if api else None
    if sample is not None:
        command = sample.curl
    else:
        address = f"{settings.GATEWAY_URL}/gateway/{api.slug if api else ''}/"
        command = snippets.curl(snippets.Call("GET", address))
    return command.replace(KEY_VARIABLE, key)


def _has_answer(document: Mapping[str, Any], operation: Mapping[str, Any]) -> bool:
    responses = (
        openapi.resolve(document, response["$ref"]) if "$ref" in response else response
        for status, response in operation.get("responses", {}).items()
        if status.startswith("2")
    )
    return any(response.get("content") for response in responses)


def _answer(operation: reference.Operation) -> str:
    for response in operation.responses:
        if response.status.startswith("2") and response.body is not None:
            return response.body.example
    return ""
