"""The public documentation: quickstart, authentication, limits, errors, references.

What can drift is generated: the error codes from `gateway.problems`, the reference from the
imported OpenAPI document, the sample calls from its examples.
"""

import json
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from gateway import problems
from gateway.catalogue import on_sale
from keys import service_tokens
from portal import reference, samples
from portal.api import problems as api_problems
from portal.api import schema
from portal.api.access import PerToken


def _page(request: HttpRequest, page: str, **context: Any) -> HttpResponse:
    apis = list(on_sale())
    sample = next((found for api in apis if (found := samples.first_call(api))), None)
    return render(
        request,
        f"docs/{page}.html",
        {"nav": "docs", "page": page, "apis": apis, "sample": sample, **context},
    )


@require_safe
def quickstart(request: HttpRequest) -> HttpResponse:
    return _page(request, "quickstart")


@require_safe
def authentication(request: HttpRequest) -> HttpResponse:
    return _page(request, "authentication")


@require_safe
def limits(request: HttpRequest) -> HttpResponse:
    return _page(request, "limits")


@require_safe
def errors(request: HttpRequest) -> HttpResponse:
    """Every code of the gateway, each under its own anchor: problem documents link here."""
    by_status = sorted(problems.PROBLEMS.items(), key=lambda problem: problem[1][0])
    listed = [
        {"code": code, "status": status, "title": title, "sentence": sentence}
        for code, (status, title, sentence) in by_status
    ]
    example = json.dumps(json.loads(problems.Refusal("quota_exceeded").body()), indent=2)
    return _page(request, "errors", problems=listed, example=example)


@require_safe
def management(request: HttpRequest) -> HttpResponse:
    """The control plane: tokens, operations from its OpenAPI document, error codes."""
    return _page(
        request,
        "management",
        curl=f'curl {settings.SITE_URL}/api/v1/keys -H "Authorization: Bearer $KEYSTILE_TOKEN"',
        operations=schema.operations(),
        scopes=[(scope.value, scope.label) for scope in service_tokens.ACCOUNT_SCOPES],
        problems=api_problems.PROBLEMS,
        requests_per_minute=PerToken.rate.partition("/")[0],
    )


@require_safe
def api(request: HttpRequest, slug: str) -> HttpResponse:
    """The operations of one API on sale; 404 for one that isn't shown."""
    shown = get_object_or_404(on_sale(), slug=slug)
    return _page(request, "api", api=shown, reference=reference.of(shown))
