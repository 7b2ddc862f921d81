"""`POST /api/v1/events`: a seller's backend reports usage that is known later than its call."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from gateway import reported
from gateway.reported import Kept
from gateway.reports import Fault, Report
from keys import clock
from portal.api.access import ControlView, Scope, StrictJson
from portal.api.event_fields import (
    Batch,
    CloudEvent,
    Invalid,
    Reported,
    id_of,
    read,
    read_cloud_event,
)
from portal.api.keys import answers, example
from portal.api.problems import Problem

MOST_EVENTS = 1000
CLOUD_EVENTS = "application/cloudevents-batch+json"


class EventsJson(StrictJson):
    most_bytes = 2 * 1024 * 1024


class CloudEventsJson(EventsJson):
    media_type = CLOUD_EVENTS
    shape = list


class Events(ControlView):
    scopes = {"POST": Scope.EVENTS_WRITE}
    parser_classes = (EventsJson, CloudEventsJson)

    @extend_schema(
        operation_id="report_events",
        summary="Report usage",
        description="For the seller's own backend: usage that is known later than its call, or "
        "belongs to none. What can be kept is kept; each of the others is named in `errors`. "
        "Sent again it changes nothing. Scope: `events:write`; only the seller's tokens have it.",
        request={"application/json": Batch, CLOUD_EVENTS: CloudEvent(many=True)},
        responses=answers(413, 415, on_200=Reported),
        examples=[
            example(
                "The tokens of a stream, and a job",
                {
                    "events": [
                        {
                            "id": "stream-7f3a",
                            "event": "0192f0c1-5a3e-7cc1-9d0b-1f6f3a6f2b10",
                            "units": {"tokens": 512},
                            "metadata": {"model": "large"},
                        },
                        {
                            "id": "job-2026-11-24",
                            "account": "0192f0c0-11aa-7bb2-8c3d-2a4b6c8d0e1f",
                            "time": "2026-11-24T19:20:00Z",
                            "units": {"rows": 30},
                        },
                    ]
                },
            ),
            example(
                "One is kept",
                {
                    "accepted": 1,
                    "duplicates": 0,
                    "errors": [
                        {
                            "index": 1,
                            "id": "job-2026-11-24",
                            "code": "unknown_meter",
                            "detail": "There is no meter “rows”.",
                        }
                    ],
                },
                code=200,
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        if isinstance(request.data, list):
            given, read_one = request.data, read_cloud_event
        else:
            given, read_one = _events(request.data), read
        if len(given) > MOST_EVENTS:
            raise Problem("too_many_events")
        outcomes: list[Kept | Fault | None] = []
        reports: list[Report] = []
        for one in given:
            try:
                reports.append(read_one(one))
                outcomes.append(None)
            except Invalid as invalid:
                outcomes.append(Fault("invalid", str(invalid)))
        stored = iter(reported.store(reports, clock.now()))
        became = [outcome or next(stored) for outcome in outcomes]
        return Response(
            {
                "accepted": became.count(Kept.NEW),
                "duplicates": became.count(Kept.KNOWN),
                "errors": [
                    {"index": index, "id": id_of(one), **outcome._asdict()}
                    for index, (one, outcome) in enumerate(zip(given, became, strict=True))
                    if isinstance(outcome, Fault)
                ],
            }
        )


def _events(body: dict[str, Any]) -> list[Any]:
    if unknown := set(body) - {"events"}:
        raise ValidationError({min(unknown): ["There is no such field."]})
    events = body.get("events")
    if not isinstance(events, list):
        raise ValidationError({"events": ["This is not a list of uses."]})
    return events
