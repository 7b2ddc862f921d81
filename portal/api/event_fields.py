"""One use as a backend reports it: read, field by field, into a `Report`.

By hand and not by serializers: a thousand come at once, and each is answered for itself. The
serializers here are the document's words.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.utils.dateparse import parse_datetime
from rest_framework import serializers

from gateway.reports import FAULTS, Report
from gateway.settle import MAX_REPORTED, MAX_UNITS

MEMBERS = frozenset(Report.__dataclass_fields__) - {"at"} | {"time"}
MOST_ID_CHARACTERS = 100

_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_METER = re.compile(r"[a-z0-9_-]{1,40}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_VALUE = re.compile(r"[\x20-\x2b\x2d-\x7e]{0,100}")
_ID = re.compile(rf"[\x20-\x7e]{{1,{MOST_ID_CHARACTERS}}}")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")


class Invalid(ValueError):
    """A use that can't be read; says why, for people."""


def read(given: Any) -> Report:
    """Reads one of `events`. Raises `Invalid`."""
    if not isinstance(given, dict):
        raise Invalid("This is not a JSON object.")
    if unknown := set(given) - MEMBERS:
        raise Invalid(f"There is no member {min(unknown)!a}.")
    return Report(
        id=_id(given.get("id")),
        units=_units(given.get("units")),
        metadata=_metadata(given.get("metadata", {})),
        account=_uuid(given, "account"),
        event=_uuid(given, "event"),
        key=_uuid(given, "key"),
        at=_time(given.get("time")),
        api=_text(given, "api", 40),
        operation=_text(given, "operation", 311),
    )


def read_cloud_event(given: Any) -> Report:
    """Reads one CloudEvent (1.0, JSON format); its data has what `id` and `time` do not say.

    Other attributes, which may be extensions, are not looked at. Raises `Invalid`.
    """
    if not isinstance(given, dict):
        raise Invalid("This is not a JSON object.")
    if given.get("specversion") != "1.0":
        raise Invalid("“specversion” is not “1.0”.")
    for name in ("source", "type"):
        if not isinstance(given.get(name), str) or not given[name]:
            raise Invalid(f"“{name}” is not text.")
    data = given.get("data")
    if not isinstance(data, dict):
        raise Invalid("“data” is not a JSON object.")
    if both := {"id", "time"} & set(data):
        raise Invalid(f"“{min(both)}” belongs beside “data”, not into it.")
    return read(data | {name: given[name] for name in ("id", "time") if name in given})


def id_of(given: Any) -> str | None:
    """What the sender calls it, as far as that can be said of one that could not be read."""
    try:
        return _id(given["id"]) if isinstance(given, dict) else None
    except (KeyError, Invalid):
        return None


def _id(value: Any) -> str:
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise Invalid(f"“id” is not printable ASCII of 1 to {MOST_ID_CHARACTERS} characters.")


def _units(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_REPORTED:
        raise Invalid(f"“units” is not an object of 1 to {MAX_REPORTED} meters.")
    for meter, units in value.items():
        if not _METER.fullmatch(meter):
            raise Invalid("A meter's name is of lower-case letters, digits, - and _.")
        if type(units) is not int or not 0 <= units <= MAX_UNITS:
            raise Invalid(f"Units of {meter} are not a whole number from 0 to {MAX_UNITS}.")
    return value


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_REPORTED:
        raise Invalid(f"“metadata” is not an object of at most {MAX_REPORTED} texts.")
    for name, text in value.items():
        if not _NAME.fullmatch(name):
            raise Invalid("A name in “metadata” is 1 to 40 letters, digits, “_”, “.” or “-”.")
        if not isinstance(text, str) or not _VALUE.fullmatch(text):
            raise Invalid(f"“{name}” is not up to 100 printable ASCII characters but commas.")
    return value


def _uuid(given: dict[str, Any], name: str) -> UUID | None:
    value = given.get(name)
    if value is None:
        return None
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise Invalid(f"“{name}” is not an id.") from None


def _text(given: dict[str, Any], name: str, most: int) -> str:
    value = given.get(name, "")
    if not isinstance(value, str) or len(value) > most or not _PRINTABLE.fullmatch(value):
        raise Invalid(f"“{name}” is not printable ASCII of at most {most} characters.")
    return value


def _time(value: Any) -> datetime | None:
    """A moment with an offset (RFC 3339), to the microsecond."""
    if value is None:
        return None
    try:
        moment = parse_datetime(value.upper()) if _RFC_3339.fullmatch(value) else None
        if moment is not None:
            return moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        pass  # said below
    raise Invalid("“time” is not RFC 3339 with an offset, such as 2026-11-24T19:20:00Z.")


# ------------------------------------------------------------------ the document's words


class ReportedUse(serializers.Serializer[Any]):
    """A use. It names its `event`, or its `account`; all else may be left out."""

    id = serializers.CharField(
        max_length=MOST_ID_CHARACTERS, help_text="Yours; it counts once per account."
    )
    units = serializers.DictField(
        child=serializers.IntegerField(min_value=0, max_value=MAX_UNITS),
        help_text='By meter, 8 at most: {"tokens": 512}.',
    )
    event = serializers.UUIDField(
        required=False,
        allow_null=True,
        help_text="`Keystile-Event` of the call that it belongs to: says account, key, API, "
        "operation, mode, billing period and time.",
    )
    account = serializers.UUIDField(
        required=False, allow_null=True, help_text="Whose use it is, where no event says so."
    )
    key = serializers.UUIDField(
        required=False, allow_null=True, help_text="A key of the account; a test key's is free."
    )
    time = serializers.DateTimeField(
        required=False,
        allow_null=True,
        help_text="When it happened, 35 days ago to 5 minutes ahead; left out: now.",
    )
    api = serializers.CharField(required=False, max_length=40)
    operation = serializers.CharField(
        required=False, max_length=311, help_text="One of the API: “GET /v1/countries”."
    )
    metadata = serializers.DictField(
        child=serializers.CharField(max_length=100, allow_blank=True),
        required=False,
        help_text="8 short texts at most, which prices may depend on.",
    )


class Batch(serializers.Serializer[Any]):
    events = ReportedUse(many=True, help_text="1000 at most.")


class CloudEvent(serializers.Serializer[Any]):
    """A CloudEvent 1.0; `data` is a use without its id and time."""

    specversion = serializers.ChoiceField(choices=["1.0"])
    id = serializers.CharField(max_length=MOST_ID_CHARACTERS)
    source = serializers.CharField()  # type: ignore[assignment]
    type = serializers.CharField()
    time = serializers.DateTimeField(required=False)
    data = serializers.DictField()  # type: ignore[assignment]


class EventError(serializers.Serializer[Any]):
    index = serializers.IntegerField(help_text="Its place in the request, from 0.")
    id = serializers.CharField(allow_null=True)
    code = serializers.ChoiceField(choices=["invalid", *sorted(FAULTS)])
    detail = serializers.CharField()


class Reported(serializers.Serializer[Any]):
    accepted = serializers.IntegerField(help_text="Uses that are new, and stored.")
    duplicates = serializers.IntegerField(help_text="Uses that were stored before, just so.")
    errors = EventError(many=True)  # type: ignore[assignment]
