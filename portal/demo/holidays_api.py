"""The Holidays API: the small private service that the demo sells through the gateway.

Owns the wire of `openapi.json`, which lies beside it: routes, strict parameters, problem+json.
What is true of a calendar is asked of `portal.demo.calendars`. Answers nobody but the gateway:
every call but `GET /healthz` must carry the secret of `DEMO_UPSTREAM_SECRET` in
`X-Upstream-Secret`. Plain ASGI, without a framework and without Keystile's settings:
`uvicorn portal.demo.holidays_api:app`.
"""

import asyncio
import hmac
import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

from portal.demo import calendars
from portal.demo.wire import (
    NOT_KEPT,
    ClientLeft,
    Receive,
    Refusal,
    Request,
    Response,
    Scope,
    Send,
    answer,
    json_body,
    match,
    problem,
    query_of,
    route,
)

DOCUMENT = Path(__file__).with_name("openapi.json").read_bytes()

MAX_BATCH_COUNTRIES = 50
MAX_BATCH_ROWS = 1000
MAX_SPAN_DAYS = 1830
MAX_SLOW_SECONDS = 30
MAX_PAST_YEARS = 50
A_DAY = "private, max-age=86400"

UNCONFIGURED = (
    "The Holidays API needs DEMO_UPSTREAM_SECRET, the secret that the gateway sends in "
    "X-Upstream-Secret; set it and start again."
)


# --- Parameters: each reader returns a value or refuses with a sentence that says what is taken.


def known_country(text: str, status: int = 400) -> str:
    code = text.upper()
    if code not in calendars.COUNTRY_NAMES:
        raise Refusal(
            status,
            f"'{text[:20]}' is not a country that this API knows; give a two-letter code "
            "such as DE, as listed by GET /v1/countries.",
        )
    return code


def country_in_path(request: Request) -> str:
    return known_country(request.path["country"], status=404)


def required(request: Request, name: str) -> str:
    if name not in request.query:
        raise Refusal(400, f"The query parameter '{name}' is missing.")
    return request.query[name]


def a_date(text: str, name: str) -> date:
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise Refusal(400, f"'{name}' must be a date of the calendar such as 2026-12-24.")


def a_year(text: str, name: str = "year") -> int:
    if not re.fullmatch(r"[0-9]{4}", text):
        raise Refusal(400, f"'{name}' must be a year of four digits such as 2026.")
    return int(text)


def a_language(text: str | None, country: str) -> str | None:
    """A tag exactly as the calendar has it (`en_US`), or its first part alone (`en`)."""
    offered = calendars.languages(country)
    if text is None:
        return None
    for tag in offered:
        if text in (tag, tag.split("_", maxsplit=1)[0]):
            return tag
    name = calendars.COUNTRY_NAMES[country]
    if not offered:
        raise Refusal(400, f"The holidays of {name} have English names only; leave 'language' out.")
    raise Refusal(
        400, f"The holidays of {name} have names in these languages: {', '.join(offered)}."
    )


def a_number(text: str, name: str, low: int, high: int) -> float:
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", text) and low <= float(text) <= high:
        return float(text)
    raise Refusal(400, f"'{name}' must be a number from {low} to {high}.")


# --- Operations, in the order of the document.


async def countries(_: Request) -> Response:
    listed = [{"code": code, "name": name} for code, name in calendars.COUNTRY_NAMES.items()]
    return answer({"count": len(listed), "countries": listed}, A_DAY)


async def holidays_of_year(request: Request) -> Response:
    country = country_in_path(request)
    year = a_year(request.query.get("year", str(request.today.year)))
    language = a_language(request.query.get("language"), country)
    holidays = calendars.in_year(country, year, language)
    return answer(
        {
            "country": country,
            "name": calendars.COUNTRY_NAMES[country],
            "year": year,
            "language": language or calendars.default_language(country),
            "languages": calendars.languages(country),
            "count": len(holidays),
            "holidays": [holiday_json(holiday) for holiday in holidays],
        },
        A_DAY if "year" in request.query else NOT_KEPT,
    )


async def past_years(request: Request) -> Response:
    country = country_in_path(request)
    first, last = (a_year(required(request, name), name) for name in ("from", "to"))
    if not first <= last < request.today.year:
        raise Refusal(400, "'from' comes before 'to', and both before this year.")
    if last - first >= MAX_PAST_YEARS:
        raise Refusal(400, f"At most {MAX_PAST_YEARS} years at once, please.")
    years = range(first, last + 1)
    found = [(year, calendars.in_year(country, year, None)) for year in years]
    return answer(
        {
            "country": country,
            "from": first,
            "to": last,
            "years": [
                {
                    "year": year,
                    "count": len(holidays),
                    "holidays": [holiday_json(holiday) for holiday in holidays],
                }
                for year, holidays in found
            ],
        },
        A_DAY,
    )


async def next_holiday(request: Request) -> Response:
    country = country_in_path(request)
    start = a_date(request.query["from"], "from") if "from" in request.query else request.today
    holiday = calendars.following(country, start)
    return answer(
        {
            "country": country,
            "from": start.isoformat(),
            "days_until": (holiday.date - start).days,
            "holiday": holiday_json(holiday),
        },
        A_DAY if "from" in request.query else NOT_KEPT,
    )


async def check_workday(request: Request) -> Response:
    country = country_in_path(request)
    checked = calendars.check(country, a_date(required(request, "date"), "date"))
    return answer(
        {
            "country": country,
            "date": checked.date.isoformat(),
            "weekday": weekday(checked.date),
            "working_day": checked.is_working,
            "reason": checked.reason,
            "holidays": checked.holidays,
        },
        A_DAY,
    )


async def workdays_between(request: Request) -> Response:
    country = known_country(required(request, "country"))
    first = a_date(required(request, "from"), "from")
    last = a_date(required(request, "to"), "to")
    if last < first:
        raise Refusal(400, "'to' must not be before 'from'.")
    if (last - first).days >= MAX_SPAN_DAYS:
        raise Refusal(400, f"'from' and 'to' may span {MAX_SPAN_DAYS} days at most, five years.")
    counted = calendars.count(country, first, last)
    return answer(
        {
            "country": country,
            "from": first.isoformat(),
            "to": last.isoformat(),
            "calendar_days": counted.calendar_days,
            "business_days": counted.business_days,
            "weekend_days": counted.weekend_days,
            "holidays": counted.holidays,
        },
        A_DAY,
    )


async def holidays_batch(request: Request) -> Response:
    asked = await json_body(request)
    if not isinstance(asked, dict) or set(asked) != {"countries", "year"}:
        raise Refusal(400, "The body must be an object with exactly 'countries' and 'year'.")
    year, codes = asked["year"], asked["countries"]
    if not isinstance(year, int) or isinstance(year, bool) or not 1 <= year <= 9999:
        raise Refusal(400, "'year' must be a year such as 2026, as a number.")
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise Refusal(400, "'countries' must be a list of two-letter codes such as DE.")
    if not 1 <= len(codes) <= MAX_BATCH_COUNTRIES:
        raise Refusal(400, f"'countries' must have 1 to {MAX_BATCH_COUNTRIES} codes.")
    chosen = [known_country(code) for code in codes]
    if len(set(chosen)) < len(chosen):
        raise Refusal(400, "'countries' names a country twice.")

    found = {country: calendars.in_year(country, year) for country in chosen}
    rows = sum(len(holidays) for holidays in found.values())
    if rows > MAX_BATCH_ROWS:
        raise Refusal(
            400, f"That is {rows} holidays, over {MAX_BATCH_ROWS}; ask for fewer countries."
        )
    listed = [
        {
            "country": country,
            "name": calendars.COUNTRY_NAMES[country],
            "holidays": [holiday_json(holiday) for holiday in holidays],
        }
        for country, holidays in found.items()
    ]
    data = {"year": year, "count": rows, "countries": listed}
    return answer(data, NOT_KEPT, {"keystile-units": f"rows={rows}"})


async def slow(request: Request) -> Response:
    seconds = a_number(request.query.get("seconds", "3"), "seconds", 0, MAX_SLOW_SECONDS)
    try:
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return answer({"seconds": seconds}, NOT_KEPT)
    raise ClientLeft


async def fail(request: Request) -> Response:
    text = request.query.get("status", "500")
    if not re.fullmatch(r"[45][0-9]{2}", text):
        raise Refusal(400, "'status' must be a whole number from 400 to 599.")
    raise Refusal(int(text), f"This call was asked to fail with status {text}.")


async def document(_: Request) -> Response:
    return Response(DOCUMENT, headers={"content-type": "application/json", "cache-control": A_DAY})


async def healthz(_: Request) -> Response:
    return answer({"status": "ok"}, NOT_KEPT)


def holiday_json(holiday: calendars.Holiday) -> dict[str, str]:
    return {
        "date": holiday.date.isoformat(),
        "weekday": weekday(holiday.date),
        "name": holiday.name,
    }


def weekday(day: date) -> str:
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return names[day.weekday()]


ROUTES = (
    route("GET", "/v1/countries", countries),
    route("GET", "/v1/holidays/{country}", holidays_of_year, "year", "language"),
    route("POST", "/v1/holidays/batch", holidays_batch),
    route("GET", "/v1/next/{country}", next_holiday, "from"),
    route("GET", "/v1/past/{country}", past_years, "from", "to"),
    route("GET", "/v1/workdays/check/{country}", check_workday, "date"),
    route("GET", "/v1/workdays/between", workdays_between, "country", "from", "to"),
    route("GET", "/v1/slow", slow, "seconds"),
    route("GET", "/v1/fail", fail, "status"),
    route("GET", "/openapi.json", document),
    route("GET", "/healthz", healthz),
)


def utc_today() -> date:
    return datetime.now(UTC).date()


class HolidaysApi:
    """The ASGI application.

    `secret` is what the gateway must send; without one the application refuses to start, and
    refuses every call under a server that does not ask it to. `today` supplies the default date.
    """

    def __init__(self, secret: str, today: Callable[[], date] = utc_today):
        self.secret = secret.encode()
        self.today = today

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
            return
        try:
            response = await self.respond(scope, receive)
        except Refusal as refusal:
            response = problem(refusal.status, refusal.sentence, refusal.headers)
        except calendars.Unanswerable as unanswerable:
            response = problem(404, str(unanswerable), {})
        except ClientLeft:
            return
        fields = {**response.headers, "content-length": str(len(response.body))}
        encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": encoded})
        await send({"type": "http.response.body", "body": response.body})

    async def respond(self, scope: Scope, receive: Receive) -> Response:
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        if scope["path"] != "/healthz" and not self.is_gateway(headers):
            raise Refusal(403, "This service is private; call it through its gateway.")
        found, path = match(ROUTES, scope["method"], scope["path"])
        request = Request(
            path=path,
            query=query_of(scope, found.query),
            headers={name: value.decode("latin-1") for name, value in headers.items()},
            receive=receive,
            today=self.today(),
        )
        return await found.handler(request)

    def is_gateway(self, headers: Mapping[str, bytes]) -> bool:
        given = headers.get("x-upstream-secret", b"")
        return bool(self.secret) and hmac.compare_digest(given, self.secret)

    async def lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if not self.secret:
            await send({"type": "lifespan.startup.failed", "message": UNCONFIGURED})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


app = HolidaysApi(os.environ.get("DEMO_UPSTREAM_SECRET", ""))
