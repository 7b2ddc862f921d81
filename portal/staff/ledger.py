"""The ledger in the admin: calls as they were recorded, newest first, and those on their way.

Django's admin has no pages for a table with a composite key. This one reads on from where the
last page ended, counts nothing and gives up after some seconds: the table has a row per call.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

import structlog
from django import forms
from django.contrib.admin import site
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import OperationalError, connection, transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from psycopg.errors import QueryCanceled
from redis.exceptions import RedisError

from gateway import counters, ledger
from gateway.models import Api, QuarantinedEntry, UsageEvent
from keys import clock, records
from keys.models import ApiKey
from portal.models import Account

log = structlog.get_logger(__name__)

ROWS_PER_PAGE = 100
MOST_COUNTED = 10_000
SEARCH_TIMEOUT = timedelta(seconds=5)
# An event's id is drawn by the gateway's clock, its admission stamped by Redis'.
SLACK = timedelta(minutes=5)
STATUSES = (
    ("", "any"),
    ("2", "2xx"),
    ("3", "3xx"),
    ("4", "4xx"),
    ("5", "5xx"),
    ("0", "abandoned"),
)


class OnTheWay(NamedTuple):
    """Calls that are not in the ledger yet.

    waiting:     settled, in the stream
    lag_seconds: for how long the oldest of them has waited
    open:        running, or left by a gateway that died
    differing:   counters that the last check found to differ from the books
    """

    waiting: int
    lag_seconds: float
    open: int
    differing: int


def on_the_way() -> OnTheWay | None:
    """All partitions together; None while Redis is away."""
    redis = records.connection()
    try:
        lags = [ledger.lag(partition) for partition in records.PARTITIONS]
        return OnTheWay(
            waiting=sum(lag.entries for lag in lags),
            lag_seconds=max(lag.seconds for lag in lags),
            open=sum(redis.hlen(records.open_name(partition)) for partition in records.PARTITIONS),
            differing=sum(len(counters.sightings(partition)) for partition in records.PARTITIONS),
        )
    except RedisError as error:
        log.warning("ledger.lag_unavailable", reason=str(error))
        return None


class Position(NamedTuple):
    """The last call of a page."""

    at: datetime
    id: UUID


class LedgerForm(forms.Form):
    """What to look for; everything is optional."""

    account = forms.CharField(
        required=False,
        max_length=254,
        widget=forms.TextInput(attrs={"placeholder": "name, billing email or id"}),
    )
    api = forms.ChoiceField(required=False, label="API")
    operation = forms.CharField(
        required=False,
        max_length=311,
        widget=forms.TextInput(attrs={"placeholder": "GET /v1/next/{country}"}),
    )
    status = forms.ChoiceField(required=False, choices=STATUSES)
    mode = forms.ChoiceField(required=False, choices=[("", "any"), *ApiKey.Mode.choices])
    first_day = forms.DateField(
        required=False, label="From", widget=forms.DateInput(attrs={"type": "date"})
    )
    last_day = forms.DateField(
        required=False, label="To", widget=forms.DateInput(attrs={"type": "date"})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        apis = Api.objects.values_list("slug", "name")
        self.fields["api"].choices = [("", "any"), *apis]  # type: ignore[attr-defined]

    def clean_account(self) -> list[UUID]:
        """The accounts meant: one by its id, or those whose name or email it is."""
        given = self.cleaned_data["account"].strip()
        if not given:
            return []
        try:
            return [UUID(given)]  # also one that was deleted: its calls are still here
        except ValueError:
            named = Q(name__icontains=given) | Q(billing_email__iexact=given)
        found = list(Account.objects.filter(named).values_list("pk", flat=True)[:50])
        if not found:
            raise ValidationError("No account has this name, billing email or id.")
        return found

    def matching(self, position: Position | None) -> QuerySet[UsageEvent]:
        """The calls asked for, newest first, from the position on.

        Ordered by what has an index: an account's calls by admission, everybody's by event id,
        which is a UUIDv7 of the same moment.
        """
        asked = self.cleaned_data
        events = UsageEvent.objects.all()
        if asked["account"]:
            events = events.filter(account_id__in=asked["account"])
            events = events.order_by("-admitted_at", "-id")
            if position is not None:
                same = Q(admitted_at=position.at, id__lt=position.id)
                events = events.filter(Q(admitted_at__lt=position.at) | same)
        else:
            events = events.order_by("-id")
            if position is not None:
                events = events.filter(id__lt=position.id)
        for field in ("api", "mode"):
            if asked[field]:
                events = events.filter(**{field: asked[field]})
        if asked["operation"]:
            events = events.filter(operation=asked["operation"].strip())
        if asked["status"] == "0":
            events = events.filter(outcome=UsageEvent.Outcome.ABANDONED)
        elif asked["status"]:
            hundred = int(asked["status"]) * 100
            events = events.filter(status__gte=hundred, status__lt=hundred + 100)
        if asked["first_day"]:
            start = _midnight(asked["first_day"])
            earliest = start - SLACK - clock.shift()  # ids are drawn by the real time
            events = events.filter(admitted_at__gte=start, id__gte=_id_at(earliest))
        if asked["last_day"]:
            end = _midnight(asked["last_day"] + timedelta(days=1))
            events = events.filter(admitted_at__lt=end, id__lt=_id_at(end + SLACK))
        return events


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)


def _id_at(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a moment (RFC 9562 §5.7: milliseconds in the first 48 bits)."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def page(request: HttpRequest) -> HttpResponse:
    """One page of calls, and the way to the older ones."""
    if not request.user.has_perm("gateway.view_usagerollup"):
        raise PermissionDenied
    asked = request.GET.copy()
    position = _position(asked.pop("before", [""])[-1])
    form = LedgerForm(asked)
    events: list[UsageEvent] = []
    if form.is_valid():
        try:
            events = read_page(form.matching(position))
        except TooSlow:
            form.add_error(None, "That takes too long to find. Name an account, or a few days.")
    older = ""
    if len(events) > ROWS_PER_PAGE:
        last = events[ROWS_PER_PAGE - 1]
        before = f"{last.admitted_at.isoformat()},{last.id}"
        older = "?" + urlencode([*asked.lists(), ("before", before)], doseq=True)
        events = events[:ROWS_PER_PAGE]
    accounts = Account.objects.in_bulk({event.account_id for event in events})
    context = {
        **site.each_context(request),
        "title": "Calls",
        "form": form,
        "rows": [{"event": event, "account": accounts.get(event.account_id)} for event in events],
        "older": older,
        "is_first": position is None,
        "on_the_way": on_the_way(),
        "quarantined": QuarantinedEntry.objects.filter(closed_at=None)[:MOST_COUNTED].count(),
        "newest": "?" + asked.urlencode(),
    }
    return TemplateResponse(request, "admin/ledger.html", context)


class TooSlow(Exception):
    """Postgres gave up looking for the calls."""


def read_page(
    events: QuerySet[UsageEvent], timeout: timedelta = SEARCH_TIMEOUT
) -> list[UsageEvent]:
    """One row more than a page holds, so that its reader knows whether there are older ones.

    Raises `TooSlow`.
    """
    milliseconds = str(timeout // timedelta(milliseconds=1))
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [milliseconds])
            return list(events[: ROWS_PER_PAGE + 1])
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise TooSlow from error
        raise


def _position(text: str) -> Position | None:
    """Where a page ended, as its link says; None for a text that nobody's link has."""
    moment, _, id_ = text.partition(",")
    try:
        at = datetime.fromisoformat(moment)
        return Position(at if at.tzinfo else at.replace(tzinfo=UTC), UUID(id_))
    except ValueError:
        return None
