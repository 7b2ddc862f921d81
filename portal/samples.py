"""The call that a newcomer makes first: chosen from an API's reference, ready to paste."""

from dataclasses import dataclass

from django.conf import settings

from gateway.catalogue import on_sale
from gateway.models import Api
from portal import reference, snippets

KEY_VARIABLE = "$KEYSTILE_KEY"


@dataclass(frozen=True)
class Sample:
    """One call of an API: what it does, its programs, and the document's answer or nothing."""

    summary: str
    programs: tuple[reference.Sample, ...]
    answer: str

    @property
    def curl(self) -> str:
        return self.programs[0].text


def first_call(api: Api) -> Sample | None:
    """The GET that says most at a glance, or None for an API without one in its document.

    That is one that shows its answer and takes a parameter in its path; of several, the one
    with the shortest command.
    """
    shown = reference.of(api)
    calls = [
        (operation, _answer(operation))
        for group in (shown.groups if shown else ())
        for operation in group.operations
        if operation.method == "GET" and not operation.deprecated
    ]
    if not calls:
        return None
    operation, answer = min(
        calls,
        key=lambda call: (not call[1], "{" not in call[0].path, len(call[0].samples[0].text)),
    )
    return Sample(operation.summary, operation.samples, answer)


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


def _answer(operation: reference.Operation) -> str:
    for response in operation.responses:
        if response.status.startswith("2") and response.body is not None:
            return response.body.example
    return ""
