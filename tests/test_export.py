"""Usage is taken away whole, by its account only, and can be checked without us."""

import ast
import asyncio
import csv
import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.db import connection, connections
from django.test import Client
from django.urls import reverse

from gateway import chain, export
from gateway.models import LedgerHour, Meter, UsageEvent
from portal.models import Membership
from tests.factories import make_account, make_member
from tests.markup import faults
from tests.test_api_keys import Program, token_of
from tests.test_asgi import SCOPE, sessions
from tests.test_chain import NINE, call, record
from tests.traffic import entitle, terms

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
VERIFIER = Path(settings.BASE_DIR) / "static" / "verify_ledger.py"
EXPORT = "/api/v1/usage/export"


@pytest.fixture
def account():
    account = make_account()
    entitle(account, terms())
    return account


@pytest.fixture
def program(account):
    return Program(token_of(account, ("usage:read",)))


@pytest.fixture
def browser(account):
    client = Client()
    client.force_login(account.members.get(), "django.contrib.auth.backends.ModelBackend")
    return client


def used(account):
    """Three closed hours with three entries each, and an entry in the open one."""
    for number in range(4):
        at = NINE + number * HOUR
        record(
            at,
            call(account.pk, at=at, units={"calls": 1, "rows": 7}, meta={"model": "größer"}),
            call(account.pk, at=at, status=404, billable=False),
            call(account.pk, at=at, mode="test"),
        )
        if number == 2:
            chain.close_hours(at + HOUR)


def jsonl(account_id, start=NINE, end=NINE + DAY):
    pieces = export.Export.of(account_id, start, end).pieces("jsonl")
    return b"".join(piece.data for piece in pieces)


def run_verifier(folder, *files, invoice=None):
    """Exit code and what it said, of a process that has nothing of ours."""
    paths = []
    for number, content in enumerate(files):
        path = folder / f"{number}.jsonl"
        path.write_bytes(content)
        paths.append(str(path))
    if invoice is not None:
        (folder / "invoice.json").write_text(json.dumps(invoice))
        paths += ["--invoice", str(folder / "invoice.json")]
    command = [sys.executable, "-I", "-S", str(VERIFIER), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def loaded_verifier():
    spec = importlib.util.spec_from_file_location("verify_ledger", VERIFIER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------ the verifier


def test_a_whole_export_is_all_right(account, tmp_path):
    used(account)

    code, said = run_verifier(tmp_path, jsonl(account.pk))

    assert code == 0, said
    assert "3 entries at the end are of hours that are not closed: not checked" in said
    assert said.endswith("12 events in 3 hours: all right\n")


def test_usage_that_is_split_by_dimensions_is_summed_the_same(account, tmp_path):
    Meter.objects.create(name="rows", label="rows", dimensions=["model", "prompt"])
    prose = {"model": "large", "prompt": "x" * 900}
    for meta in ({}, {"model": "größer"}, prose, {"prompt": "short", "other": "y"}):
        record(NINE, call(account.pk, units={"rows": 3}, meta=meta))
    chain.close_hours(NINE + HOUR)

    assert run_verifier(tmp_path, jsonl(account.pk))[0] == 0


def test_exports_of_one_month_after_another_are_checked_as_one(account, tmp_path):
    used(account)
    first, last = jsonl(account.pk, end=NINE + HOUR), jsonl(account.pk, start=NINE + HOUR)
    later = jsonl(account.pk, start=NINE + 2 * HOUR)

    assert run_verifier(tmp_path, first, last)[0] == 0
    assert run_verifier(tmp_path, later)[0] == 0
    code, said = run_verifier(tmp_path, first, later)
    assert code == 1
    assert "hour 2026-05-10T11:00:00Z: it doesn't follow the hour before it" in said


def drop(lines):
    return lines[:5] + lines[6:]


def swap(lines):
    return [*lines[:5], lines[6], lines[5], *lines[7:]]


def put_in(lines):
    return [*lines[:5], lines[5].replace(b'"id":"', b'"id":"f', 1), *lines[5:]]


def bill_more(lines):
    return [*lines[:4], lines[4].replace(b'"calls":1', b'"calls":2'), *lines[5:]]


def reformat(lines):
    return [*lines[:4], json.dumps(json.loads(lines[4])).encode() + b"\n", *lines[5:]]


def change_totals(lines):
    """Of the second hour, with digests to match."""
    event = json.loads(lines[7])
    data = event["data"]
    data["totals"][0]["billable"] += 1
    del data["digest"]
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data["digest"] = event["id"] = hashlib.sha256(text.encode()).hexdigest()
    text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return [*lines[:7], text.encode() + b"\n", *lines[8:]]


@pytest.mark.parametrize("tamper", [drop, swap, put_in, bill_more, reformat, change_totals])
def test_what_was_done_to_an_hour_is_said_of_that_hour(account, tmp_path, tamper):
    used(account)
    lines = jsonl(account.pk).splitlines(keepends=True)

    code, said = run_verifier(tmp_path, b"".join(tamper(lines)))

    assert code == 1, said
    assert "hour 2026-05-10T10:00:00Z: " in said
    assert "hour 2026-05-10T09:00:00Z: " not in said


def test_a_missing_hour_is_said(account, tmp_path):
    used(account)
    lines = jsonl(account.pk).splitlines(keepends=True)

    code, said = run_verifier(tmp_path, b"".join(lines[:4] + lines[8:]))

    assert code == 1
    assert "hour 2026-05-10T11:00:00Z: it doesn't follow the hour before it" in said
    code, said = run_verifier(tmp_path, b"".join(lines[:7] + lines[8:]))
    assert "hour 2026-05-10T10:00:00Z: it has 3 entries and no line closes it" in said


def test_any_byte_that_is_flipped_in_closed_hours_is_found(account, tmp_path, capsys, monkeypatch):
    used(account)
    closed = b"".join(jsonl(account.pk).splitlines(keepends=True)[:12])
    verifier = loaded_verifier()
    path = tmp_path / "flipped.jsonl"
    monkeypatch.setattr(sys, "argv", ["verify_ledger.py", str(path)])
    path.write_bytes(closed)
    assert verifier.main() == 0

    unnoticed = []
    for place in range(0, len(closed), 7):
        flipped = bytearray(closed)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        if verifier.main() != 1:
            unnoticed.append(place)

    assert unnoticed == []


def test_hostile_files_are_said_to_be_damaged(account, tmp_path):
    used(account)
    lines = jsonl(account.pk).splitlines(keepends=True)
    bad = [b"\xff\n", b"[]\n", b'{"type":1}\n', b"null\n", b"\n", b"[" * 100_000 + b"\n", b'"x"\n']

    for line in bad:
        code, said = run_verifier(tmp_path, b"".join([*lines[:5], line, *lines[5:]]))
        assert code == 1
        assert "line 6: it can't be read" in said


def test_invoice_lines_are_compared_with_their_hours(account, tmp_path):
    used(account)
    hours = [
        {"hour": f"{hour.hour:%Y-%m-%dT%H:%M:%SZ}", "digest": hour.digest, "events": 2, "units": 1}
        for hour in LedgerHour.objects.order_by("hour")
    ]
    digests = "".join(f"{part['hour']} {part['digest']}\n" for part in hours)
    line = {
        "text": "Calls",
        "meter": "calls",
        "period": "2026-05-01T00:00:00Z",
        "terms": ["version:2", "version:3"],
        "api": "",
        "operation": "",
        "dimensions": {},
        "except": [{"api": "", "operation": "GET /v1/other", "dimensions": {}}],
        "units": 3,
        "root": hashlib.sha256(digests.encode()).hexdigest(),
        "hours": hours,
    }
    base = {"text": "Pro", "amount_minor": 20_000, "currency": "USD", "hours": [], "root": ""}
    line |= {"events": 6, "amount_minor": 5, "currency": "USD"}
    whole = {"currency": "USD", "total_minor": 20_005, "lines": [base, line]}
    content = jsonl(account.pk)

    code, said = run_verifier(tmp_path, content, invoice=whole)
    assert code == 0, said
    assert "Calls: 3 units in 3 hours" in said

    wrong = [
        {"units": 4},
        {"events": 7},
        {"hours": []},
        {"root": "0" * 64},
        {"meter": "rows"},
        {"terms": ["version:33"]},
        {"period": "2026-04-01T00:00:00Z"},
        {"operation": "GET /v1/other"},
        {"dimensions": {"model": "x"}},
        {"except": [{"api": "holidays"}]},
        {"units": 4, "hours": [hours[0] | {"units": 2}, *hours[1:]]},
        {"hours": [hours[0] | {"events": 3}, *hours[1:]]},
        {"hours": [hours[0] | {"digest": "0" * 64}, *hours[1:]]},
        {"hours": [hours[0] | {"hour": "2026-04-10T09:00:00Z"}, *hours[1:]]},
    ]
    for changes in wrong:
        code, said = run_verifier(tmp_path, content, invoice={"lines": [line | changes]})
        assert code == 1, changes
        assert "invoice, Calls" in said

    code, said = run_verifier(tmp_path, content, invoice=whole | {"total_minor": 20_006})
    assert (code, "invoice: its total is 20006, its lines make 20005" in said) == (1, True)


def test_units_that_an_invoice_bills_twice_are_found(account, tmp_path):
    used(account)
    hour = LedgerHour.objects.earliest("hour")
    of_calls = [total for total in hour.totals if total["meter"] == "calls"]
    part = {
        "hour": f"{hour.hour:%Y-%m-%dT%H:%M:%SZ}",
        "digest": hour.digest,
        "events": sum(total["events"] for total in of_calls),
        "units": sum(total["billable"] for total in of_calls),
    }
    once = {"text": "Calls", "meter": "calls", "units": part["units"], "hours": [part]}
    content = jsonl(account.pk)
    assert run_verifier(tmp_path, content, invoice={"lines": [once]})[0] == 0

    twice = once | {"units": 2 * part["units"], "hours": [part, part]}
    for lines in ([once, once], [twice]):
        code, said = run_verifier(tmp_path, content, invoice={"lines": lines})
        assert code == 1
        assert "its units are billed twice" in said


def test_a_file_without_a_closed_hour_is_not_called_all_right(tmp_path):
    code, said = run_verifier(tmp_path, b"")

    assert (code, said) == (0, "0 events in 0 hours: nothing was checked\n")


def test_the_verifier_needs_nothing_but_an_old_python():
    tree = ast.parse(VERIFIER.read_text(), feature_version=(3, 9))

    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - {"__future__"} <= sys.stdlib_module_names


# ------------------------------------------------------------------ formats


def test_lines_are_cloudevents(account):
    used(account)

    events = [json.loads(line) for line in jsonl(account.pk).splitlines()]

    assert {event["specversion"] for event in events} == {"1.0"}
    assert {event["subject"] for event in events} == {str(account.pk)}
    assert len({(event["source"], event["id"]) for event in events}) == len(events) == 15
    first = events[0]
    stored = UsageEvent.objects.get(id=first["id"])
    assert datetime.fromisoformat(first["time"]) == stored.admitted_at
    assert datetime.fromisoformat(first["data"]["recorded_at"]) == stored.recorded_at
    assert first["data"]["units"] == stored.units
    hidden = {"client", "address", "id", "admitted_at"}
    told = {name.removesuffix("_id").removesuffix("_start") for name in first["data"]}
    columns = {field.name for field in UsageEvent._meta.fields if field.name != "pk"}
    assert {name.removesuffix("_id").removesuffix("_start") for name in columns} - hidden == told


def test_csv_has_a_row_for_each_entry_and_a_column_for_each_meter(account):
    used(account)
    pieces = export.Export.of(account.pk, NINE, NINE + DAY).pieces("csv")

    text = b"".join(piece.data for piece in pieces).decode()

    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 12
    assert sum(int(row["units.calls"] or 0) for row in rows) == 12
    assert sum(int(row["units.rows"] or 0) for row in rows) == 28
    assert [row["billable"] for row in rows].count("yes") == 4
    assert {row["metadata"] for row in rows} == {"", '{"model":"größer"}'}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_a_csv_is_a_formula(account, start):
    record(NINE, call(account.pk, code=f'{start}HYPERLINK("http://x")'))
    pieces = export.Export.of(account.pk, NINE, NINE + HOUR).pieces("csv")

    text = b"".join(piece.data for piece in pieces).decode()

    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["code"] == f'\'{start}HYPERLINK("http://x")'


def test_an_export_has_whole_hours_and_only_its_account(account):
    for number in range(3):
        at = NINE + number * HOUR
        record(at, call(account.pk, at=at), call(at=at), call(account.pk, at=at, status=404))
    chain.close_hours(NINE + 2 * HOUR)
    inside = export.Export.of(account.pk, NINE + HOUR / 2, NINE + HOUR + timedelta(microseconds=1))

    assert (inside.start, inside.end) == (NINE, NINE + 2 * HOUR)
    assert inside.count() == 4
    events = [json.loads(line) for line in jsonl(account.pk).splitlines()]
    assert len(events) == 8
    assert {event["subject"] for event in events} == {str(account.pk)}


def test_the_count_is_that_of_the_lines(account):
    used(account)
    whole = export.Export.of(account.pk, NINE, NINE + DAY)

    assert whole.count() == sum(piece.entries for piece in whole.pieces("jsonl")) == 12
    assert export.Export.of(account.pk, NINE - DAY, NINE).count() == 0


# ------------------------------------------------------------------ the management API


def test_a_program_exports_usage(program, account):
    used(account)

    answer = program.ask("GET", f"{EXPORT}?format=jsonl&from=2026-05-01&to=2026-06-01")
    as_csv = program.ask("GET", f"{EXPORT}?format=csv&from=2026-05-10T09:00:00Z&to=2026-05-11")

    assert answer.status_code == as_csv.status_code == 200
    assert answer["Content-Type"].startswith("application/jsonl")
    assert answer["Content-Disposition"].endswith('2026-05-01T00-2026-06-01T00.jsonl"')
    assert answer["Cache-Control"] == "no-store"
    assert b"".join(answer.streaming_content) == jsonl(account.pk)
    assert b"".join(as_csv.streaming_content).count(b"\r\n") == 13


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2026-06-01&to=2026-05-01", "to"),
        ("from=yesterday", "from"),
        ("to=0001-01-01T00:00:00%2B14:00", "to"),
        ("to=9999-12-31T23:59:59Z", "to"),
        ("from=1969-01-01", "from"),
        ("format=xml", "format"),
        ("account=1", "account"),
    ],
)
def test_a_faulty_question_is_refused_by_field(program, query, field):
    answer = program.ask("GET", f"{EXPORT}?{query}")

    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize("path", ["/api/v1/usage", EXPORT])
def test_usage_is_for_tokens_with_its_scope_and_of_its_account(path, account, program):
    outsider = make_account()
    entitle(outsider, terms())

    assert Client().get(path).status_code == 401
    without = Program(token_of(account, ("keys:read",))).ask("GET", path)
    assert (without.status_code, without.json()["code"]) == (403, "scope_missing")
    assert program.ask("GET", f"{path}?account={outsider.pk}").status_code == 404
    own = program.ask("GET", f"{path}?account={account.pk}")
    assert own.status_code == 200
    own.close()
    assert program.ask("POST", path, {}).status_code == 405


def test_usage_is_summed_by_day_operation_and_meter(program, account):
    used(account)

    answer = program.ask("GET", "/api/v1/usage?from=2026-05-10&to=2026-05-11")

    where = {"day": "2026-05-10", "api": "holidays", "operation": "GET /v1/next/{country}"}
    assert answer.json() == {
        "from": "2026-05-10T00:00:00Z",
        "to": "2026-05-11T00:00:00Z",
        "data": [
            where | {"meter": "calls", "calls": 8, "units": 8, "billable_units": 4},
            where | {"meter": "rows", "calls": 0, "units": 28, "billable_units": 28},
        ],
    }
    assert program.ask("GET", "/api/v1/usage").json()["data"] == []
    assert program.ask("GET", "/api/v1/usage?from=2026-01-01&to=2026-05-11").status_code == 400


# ------------------------------------------------------------------ the page


def file_of(export_id, **query):
    given = {"first_day": "2026-05-10", "last_day": "2026-05-10", "format": "jsonl"} | query
    return reverse("usage_export_file", args=[export_id]), given


def test_a_member_downloads_usage_from_the_page(browser, account):
    used(account)
    html = browser.get(reverse("usage_export")).content.decode()

    answer = browser.get(*file_of(uuid.uuid4()))

    assert faults(html) == []
    assert "/static/verify_ledger.py" in html
    assert b"".join(answer.streaming_content) == jsonl(account.pk)
    assert "attachment" in answer["Content-Disposition"]
    assert Client().get("/static/verify_ledger.py").status_code == 200


def test_the_page_tells_how_far_a_download_is(browser, account):
    used(account)
    export_id = uuid.uuid4()
    progress = reverse("usage_export_progress", args=[export_id])
    assert browser.get(progress).status_code == 204

    answer = browser.get(*file_of(export_id))
    begun = browser.get(progress).content.decode()
    list(answer.streaming_content)
    over = browser.get(progress, {"seen": "running-0-12"}).content.decode()

    assert "0 of 12 entries" in begun
    assert "seen=running-0-12" in begun
    assert "Complete" in over
    assert "12 of 12 entries" in over
    assert browser.get(progress, {"seen": "complete-12-12"}).status_code == 204


def test_a_download_that_is_broken_off_says_so(browser, account):
    used(account)
    export_id = uuid.uuid4()

    browser.get(*file_of(export_id)).close()

    progress = reverse("usage_export_progress", args=[export_id])
    assert "Stopped before its end" in browser.get(progress).content.decode()


@pytest.mark.parametrize(
    "query",
    [
        {"first_day": "2026-05-11"},
        {"last_day": "9999-12-31"},
        {"first_day": ""},
        {"format": "xml"},
    ],
)
def test_a_faulty_form_is_shown_again(browser, query):
    answer = browser.get(*file_of(uuid.uuid4(), **query))

    assert answer.status_code == 422
    assert faults(answer.content.decode()) == []


def test_outsiders_see_nothing_of_an_export(browser, account):
    used(account)
    export_id = uuid.uuid4()
    list(browser.get(*file_of(export_id)).streaming_content)
    outsider = Client()
    outsider.force_login(make_account().members.get(), "django.contrib.auth.backends.ModelBackend")

    assert b"".join(outsider.get(*file_of(export_id)).streaming_content) == b""
    foreign = uuid.uuid4()
    list(browser.get(*file_of(foreign)).streaming_content)
    seen = outsider.get(reverse("usage_export_progress", args=[foreign]))
    assert (seen.status_code, seen.content) == (204, b"")
    for name, arguments in (("usage_export", []), ("usage_export_file", [export_id])):
        page = reverse(name, args=arguments)
        assert Client().get(page)["Location"].startswith("/login/")


@pytest.mark.parametrize("role", set(Membership.Role.values) - {Membership.Role.OWNER})
def test_every_member_may_take_usage_away(account, role):
    client = Client()
    client.force_login(make_member(account, role), "django.contrib.auth.backends.ModelBackend")

    answer = client.get(*file_of(uuid.uuid4()))

    assert answer.status_code == 200
    answer.close()


# ------------------------------------------------------------------ size, and who goes away


def many(account, count):
    """A closed hour with so many entries, put in at once."""
    record(NINE, call(account.pk))
    columns = [field.column for field in UsageEvent._meta.fields if field.name not in ("pk", "id")]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO gateway_usageevent (id, {', '.join(columns)}) "  # noqa: S608
            f"SELECT gen_random_uuid(), {', '.join(columns)} "
            "FROM gateway_usageevent, generate_series(2, %s)",
            [count],
        )
    chain.close_hours(NINE + HOUR)


def scope_of(program, account):
    query = f"format=jsonl&from=2026-05-10&to=2026-05-11&account={account.pk}"
    token = program._text.encode()
    return SCOPE | {
        "path": EXPORT,
        "raw_path": EXPORT.encode(),
        "query_string": query.encode(),
        "headers": [*SCOPE["headers"], (b"authorization", b"Bearer " + token)],
    }


def test_under_asgi_an_export_is_sent_while_it_is_read(program, account):
    many(account, 5000)

    async def read():
        call = ApplicationCommunicator(ASGIHandler(), scope_of(program, account))
        await call.send_input({"type": "http.request", "body": b"", "more_body": False})
        head, sizes = await call.receive_output(30), []
        while (message := await call.receive_output(30)).get("more_body"):
            sizes.append(len(message["body"]))
        await call.wait(30)
        return head["status"], sizes

    status, sizes = asyncio.run(read())

    assert status == 200
    assert len(sizes) > 20
    assert max(sizes) <= 2**16
    assert sum(sizes) == len(jsonl(account.pk))


def test_a_client_that_goes_away_ends_the_query_and_frees_its_place(program, account):
    many(account, 20_000)
    before = sessions()

    async def leave():
        call = ApplicationCommunicator(ASGIHandler(), scope_of(program, account))
        await call.send_input({"type": "http.request", "body": b"", "more_body": False})
        for _ in range(3):
            await call.receive_output(30)
        assert await sync_to_async(locks_seen_from_elsewhere)() == 2
        await call.send_input({"type": "http.disconnect"})
        await call.wait(30)

    asyncio.run(leave())

    assert (sessions(), locks()) == (before, 0)


@contextmanager
def held_elsewhere(account, count):
    """So many of the account's places are taken, each by a database session of its own."""
    pools = [ThreadPoolExecutor(1) for _ in range(count)]
    places = [pool.submit(export.Place.take, account.pk).result() for pool in pools]
    assert None not in places
    try:
        yield
    finally:
        for pool, place in zip(pools, places, strict=True):
            pool.submit(place.leave).result()
            pool.submit(connections.close_all).result()


def locks():
    """Places that are taken, by anybody."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 "
            "AND classid BETWEEN %s AND %s",  # 2: of two numbers
            [export.LOCKS, export.ACCOUNT_LOCKS + export.AT_ONCE_PER_ACCOUNT],
        )
        (count,) = cursor.fetchone()
    return count


def locks_seen_from_elsewhere():
    try:
        return locks()
    finally:
        connection.close()


def test_an_account_has_so_many_exports_at_once(program, account, browser):
    used(account)
    other = make_account()

    with held_elsewhere(account, export.AT_ONCE_PER_ACCOUNT):
        refused = program.ask("GET", EXPORT)
        page = browser.get(*file_of(uuid.uuid4()))
        place = export.Place.take(other.pk)
        assert place is not None
        place.leave()

    assert (refused.status_code, refused.json()["code"]) == (429, "exports_running")
    assert refused["Retry-After"] == "10"
    assert page.status_code == 429
    assert "still running" in page.content.decode()
    answer = program.ask("GET", EXPORT)
    assert answer.status_code == 200
    assert locks() == 2
    answer.close()
    assert locks() == 0


def test_all_accounts_together_have_so_many_exports_at_once(account):
    others = [make_account() for _ in range(export.AT_ONCE)]

    with ExitStack() as held:
        for other in others:
            held.enter_context(held_elsewhere(other, 1))
        assert export.Place.take(account.pk) is None

    assert locks() == 0
