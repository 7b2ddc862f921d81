"""Where payment providers deliver: `POST /webhooks/<provider>`, raw body, signed.

Answers as soon as the delivery is stored; everything else is the worker's.
"""

from django.conf import settings
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from billing import inbox, providers, tasks
from keys import clock

MAX_BODY_BYTES = 256 * 1024


@csrf_exempt
@require_POST
def receive(request: HttpRequest, provider: str) -> HttpResponse:
    """200: stored, now or before. 400: not from the provider, nothing stored. 404: not in use."""
    if not providers.in_use(provider):
        raise Http404
    body = request.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        return _bad_request("The body is larger than any delivery.")
    outcome = inbox.receive(provider, request.headers, body, clock.now())
    if isinstance(outcome, inbox.Refused):
        return _bad_request(f"The delivery is refused: {outcome.reason}")
    if outcome.is_new:
        event_id = outcome.event_id
        # Robust: the row is stored, and beat finds it where the broker is away.
        transaction.on_commit(lambda: tasks.process_event.delay(event_id), robust=True)
    return JsonResponse({"received": True})


def _bad_request(detail: str) -> JsonResponse:
    problem = {
        "type": f"{settings.SITE_URL}/docs/errors#bad_request",
        "title": "Bad request",
        "status": 400,
        "code": "bad_request",
        "detail": detail,
    }
    return JsonResponse(problem, status=400, content_type="application/problem+json")
